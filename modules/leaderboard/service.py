"""The leaderboard: a projection of the verdicts, which can be made anew from them."""

import logging
from math import inf

import anyio

from fissile import Bus, Clock, Module
from fissile.database import Database, Schema
from modules.submissions.contract import SubmissionJudged, verdicts

from . import rebuild, store
from .contract import (
    GetSolvers,
    GetStandings,
    LeaderboardChanged,
    NoVerdictsKept,
    RebuildLeaderboard,
    Solvers,
    Standings,
    contract,
)
from .tables import metadata

module = Module(contract, database=Schema(metadata))

_CLEAR_S = 10.0

_logger = logging.getLogger(__name__)


@module.subscribe(verdicts)
async def on_verdict(event: SubmissionJudged, database: Database) -> None:
    """Take a verdict in, and tell if somebody has solved a challenge for the first time, or faster."""
    async with database.transaction() as tx:
        change = await tx.run(lambda connection: store.take(connection, event))
        if change.is_first or change.is_faster:
            tx.publish(LeaderboardChanged(event.author, event.challenge))


@module.query(GetStandings)
async def get_standings(query: GetStandings, database: Database) -> Standings:
    """Show who has solved the most challenges."""
    return await database.run(lambda connection: store.standings(connection, query.limit, query.offset))


@module.query(GetSolvers)
async def get_solvers(query: GetSolvers, database: Database) -> Solvers:
    """Show who has solved a challenge."""
    return await database.run(lambda connection: store.solvers(connection, query.challenge, query.limit, query.offset))


# Each step has a transaction of its own, so that verdicts are taken in meanwhile: a repeat simply does it again.
@module.command(RebuildLeaderboard, idempotent=True)
async def rebuild_leaderboard(_: RebuildLeaderboard, database: Database, bus: Bus, clock: Clock) -> int:
    """Make the leaderboard anew."""
    async with database.transaction() as tx:
        number = await tx.run(lambda connection: rebuild.begin(connection, clock.now().timestamp()))
    try:
        oldest = await _gather(number, database, bus, clock)
        if oldest == inf and await database.run(rebuild.has_verdicts):
            raise NoVerdictsKept
        async with database.transaction() as tx:
            count = await tx.run(lambda connection: rebuild.finish(connection, number, oldest))
        _logger.info("the leaderboard was made anew from %s verdicts", count)
        return count
    finally:
        with anyio.move_on_after(_CLEAR_S, shield=True):  # what is left all the same is cleared away by a later one
            async with database.transaction() as tx:
                await tx.run(lambda connection: rebuild.clear(connection, number))


async def _gather(number: int, database: Database, bus: Bus, clock: Clock) -> float:
    """Read the topic, and keep what it says; return from when on it has all verdicts."""
    batch: list[SubmissionJudged] = []

    async def keep() -> None:
        events, now = tuple(batch), clock.now().timestamp()
        async with database.transaction() as tx:
            await tx.run(lambda connection: rebuild.gather(connection, number, events, now))
        batch.clear()

    async with bus.replay(verdicts) as events:
        horizon = rebuild.Horizon(dict(events.offsets))
        async for kept in events:
            horizon.see(kept.partition, kept.event)
            batch.append(kept.event)
            if len(batch) == rebuild.BATCH:
                await keep()
    if batch:
        await keep()
    return horizon.oldest
