"""The challenges: what people solve, with the hidden cases by which it is judged."""

import logging

import attrs
from sqlalchemy import Connection

from fissile import Bus, Lifespan, Module
from fissile.database import Database, Schema

from . import catalogue, solvable, store
from .contract import (
    Case,
    CasesTooLarge,
    Challenge,
    ChallengeChanged,
    ChallengeExists,
    ChallengePage,
    ChallengePublished,
    ChallengeWithdrawn,
    ChangeChallenge,
    CreateChallenge,
    GetCase,
    GetChallenge,
    GetWholeChallenge,
    ListChallenges,
    ListWithdrawnChallenges,
    RestoreChallenge,
    WholeChallenge,
    WithdrawChallenge,
    contract,
)
from .store import Draft
from .tables import metadata

module = Module(contract, database=Schema(metadata))

CASES_BYTES = 512 * 1024
"""How many bytes the cases of a challenge may have together: they come in one message."""

_logger = logging.getLogger(__name__)


@module.worker
async def seed(database: Database, lifespan: Lifespan) -> None:
    """Store the challenges that come with the application, and follow their changes as long as no author has changed them."""
    async with database.transaction() as tx:
        for draft in await tx.run(_seed):
            tx.publish(draft)
    lifespan.started()
    await lifespan.draining()


def _seed(connection: Connection) -> list[ChallengePublished]:
    stored = store.seeds(connection)
    published: list[ChallengePublished] = []
    for draft, digest in catalogue.load_changed(stored):
        version = 1
        if draft.slug not in stored:
            store.add(connection, draft, digest)
        else:
            version = (store.version_of(connection, draft.slug) or 0) + 1
            store.replace(connection, draft, version, digest)
        if store.is_withdrawn(connection, draft.slug):
            continue
        published.append(ChallengePublished(draft.slug, version, draft.title, draft.difficulty))
    if published:
        _logger.info("%s challenges were stored from the catalogue", len(published))
    return published


@module.command(CreateChallenge)
async def create_challenge(command: CreateChallenge, database: Database, bus: Bus) -> None:
    """Add a challenge."""
    draft = Draft(**{field.name: getattr(command, field.name) for field in attrs.fields(CreateChallenge)})
    _check(draft)
    solvable.check(draft, await solvable.ask(draft.slug, draft.languages, bus))

    def add(connection: Connection) -> None:
        if store.version_of(connection, draft.slug) is not None:
            raise ChallengeExists(draft.slug)
        store.add(connection, draft)

    async with database.transaction() as tx:
        await tx.run(add)
        tx.publish(ChallengePublished(draft.slug, 1, draft.title, draft.difficulty))


@module.command(ChangeChallenge)
async def change_challenge(command: ChangeChallenge, database: Database, bus: Bus) -> int:
    """Change a challenge."""
    changed = {
        field.name: getattr(command, field.name)
        for field in attrs.fields(ChangeChallenge)
        if field.name not in ("slug", "version") and getattr(command, field.name) is not None
    }

    means = None
    if not solvable.FIELDS.isdisjoint(changed):
        means = await solvable.ask(command.slug, command.languages or (), bus)

    def change(connection: Connection) -> tuple[Draft, bool]:
        draft = attrs.evolve(store.draft_of(connection, command.slug), **changed)
        version = store.version_of(connection, command.slug)
        if version != command.version:
            raise ChallengeChanged(command.slug, version or 0)
        _check(draft)
        if means is not None:
            solvable.check(draft, means)
        store.replace(connection, draft, command.version + 1)
        return draft, store.is_withdrawn(connection, command.slug)

    async with database.transaction() as tx:
        draft, is_withdrawn = await tx.run(change)
        version = command.version + 1
        if not is_withdrawn:
            tx.publish(ChallengePublished(draft.slug, version, draft.title, draft.difficulty))
    return version


@module.command(WithdrawChallenge)
async def withdraw_challenge(command: WithdrawChallenge, database: Database) -> None:
    """List a challenge no more."""
    slug, version = command.slug, command.version
    async with database.transaction() as tx:
        before = await tx.run(lambda connection: store.set_withdrawn(connection, slug, version, is_withdrawn=True))
        if before is not None:
            tx.publish(ChallengeWithdrawn(slug, version))


@module.command(RestoreChallenge)
async def restore_challenge(command: RestoreChallenge, database: Database) -> None:
    """List a challenge again."""
    slug, version = command.slug, command.version
    async with database.transaction() as tx:
        before = await tx.run(lambda connection: store.set_withdrawn(connection, slug, version, is_withdrawn=False))
        if before is not None:
            tx.publish(ChallengePublished(slug, version, before.title, before.difficulty))


def _check(draft: Draft) -> None:
    size = sum(len(each.stdin.encode()) + len(each.stdout.encode()) for each in (*draft.examples, *draft.cases))
    if size > CASES_BYTES:
        raise CasesTooLarge(size, CASES_BYTES)


@module.query(GetChallenge)
async def get_challenge(query: GetChallenge, database: Database) -> Challenge:
    """Show a challenge."""
    return await database.run(lambda connection: store.read(connection, query.slug))


@module.query(GetWholeChallenge)
async def get_whole_challenge(query: GetWholeChallenge, database: Database) -> WholeChallenge:
    """Show a challenge to an author."""
    return await database.run(lambda connection: store.read_whole(connection, query.slug))


@module.query(ListChallenges)
async def list_challenges(query: ListChallenges, database: Database) -> ChallengePage:
    """List challenges."""
    return await database.run(lambda connection: store.page(connection, query.limit, query.after, is_withdrawn=False))


@module.query(ListWithdrawnChallenges)
async def list_withdrawn_challenges(query: ListWithdrawnChallenges, database: Database) -> ChallengePage:
    """List what is withdrawn."""
    return await database.run(lambda connection: store.page(connection, query.limit, query.after, is_withdrawn=True))


@module.query(GetCase)
async def get_case(query: GetCase, database: Database) -> Case:
    """Show one case to a module that judges."""
    return await database.run(lambda connection: store.case(connection, query.slug, query.number, query.version))
