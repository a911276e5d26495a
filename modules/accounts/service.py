"""The accounts: sign-up, sessions, roles and API tokens.

Commands that have a secret in them, or whose reply has one, are declared idempotent although there is a database: the inbox would keep a
digest of the password, which can be guessed from it, and the reply with its tokens. Instead they know a repeat by its id, or bear it.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import attrs
import msgspec
from attrs import define, field
from sqlalchemy import Connection

from fissile import Caller, Clock, Lifespan, Module
from fissile.database import Database, Schema

from . import devices, keys, passwords, roles, sessions, store
from .contract import (
    Account,
    ApiToken,
    ApiTokenHolder,
    ChangePassword,
    CreateToken,
    FindApiToken,
    GetAccount,
    GetSigningKeys,
    ListTokens,
    NameTaken,
    NewApiToken,
    PasswordChanged,
    RefreshSession,
    RevokeToken,
    ScopeNotHeld,
    Session,
    SessionEnded,
    SetRoles,
    SignIn,
    SignInFailed,
    SignOut,
    SignUp,
    WeakPassword,
    contract,
)
from .keys import Signer
from .passwords import Passwords
from .settings import AccountsSettings
from .tables import metadata

module = Module(contract, database=Schema(metadata))

TOKEN_PREFIX = "fsl_"  # noqa: S105 -- what API keys of a gateway begin with
DAY_S = 86_400.0
_TOKEN_ID_DIGITS = 16

_logger = logging.getLogger(__name__)


@define(eq=False)
class Uses:
    """When API tokens were used last, until that is stored: a query writes nothing."""

    _at: dict[str, float] = field(factory=dict[str, float])

    def note(self, token_id: str, at: float) -> None:
        """Note a use."""
        self._at[token_id] = at

    def take(self) -> tuple[tuple[str, float], ...]:
        """Return what was noted, and forget it."""
        taken, self._at = self._at, {}
        return tuple(taken.items())


@module.resource
@asynccontextmanager
async def hashing(settings: AccountsSettings) -> AsyncGenerator[Passwords]:
    """Make what hashes passwords."""
    yield Passwords(settings)


@module.resource
@asynccontextmanager
async def signing(settings: AccountsSettings, database: Database) -> AsyncGenerator[Signer]:
    """Make what signs access tokens."""
    yield Signer(settings, database)


@module.resource
@asynccontextmanager
async def uses() -> AsyncGenerator[Uses]:
    """Make what notes when API tokens are used."""
    yield Uses()


@module.worker
async def care(
    database: Database, signer: Signer, noted: Uses, settings: AccountsSettings, clock: Clock, lifespan: Lifespan
) -> None:
    """Look after keys, remove what has expired, and store when API tokens were used."""
    lifespan.started()  # nobody waits for the first key, which takes a library for cryptography

    async def tidy() -> None:
        now, used = clock.now().timestamp(), noted.take()
        await signer.look_after_keys(now)
        async with database.transaction() as tx:
            await tx.run(lambda connection: store.note_use(connection, used))
            await tx.run(lambda connection: sessions.remove_expired(connection, now, settings))

    async def again_and_again() -> None:
        while True:
            await tidy()
            await clock.sleep(settings.care_s)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again_and_again)
        await lifespan.draining()
        tasks.cancel_scope.cancel()
    last = noted.take()
    if last:
        async with database.transaction() as tx:
            await tx.run(lambda connection: store.note_use(connection, last))


# --- passwords -------------------------------------------------------------------------------------------------------


@module.command(SignUp, idempotent=True)
async def sign_up(
    command: SignUp, database: Database, hashed: Passwords, settings: AccountsSettings, clock: Clock, caller: Caller
) -> None:
    """Make an account."""
    passwords.check(command.name, command.password)
    there = await database.run(lambda connection: store.find(connection, command.name))
    if there is not None:
        is_repeat = there.password_by == caller.message_id and await hashed.verify(command.password, there.password)
        if is_repeat:
            return
        raise NameTaken(command.name)
    made = store.Stored(
        command.name,
        await hashed.hash(command.password),
        caller.message_id,
        (roles.ADMIN,) if command.name in settings.admins else (),
        clock.now().timestamp(),
    )
    async with database.transaction() as tx:
        await tx.run(lambda connection: store.add(connection, made))


@module.command(SignIn, idempotent=True)
async def sign_in(
    command: SignIn,
    database: Database,
    hashed: Passwords,
    signer: Signer,
    settings: AccountsSettings,
    clock: Clock,
    caller: Caller,
) -> Session:
    """Begin a session."""
    now = clock.now().timestamp()
    source_of = partial(devices.source_of, token=command.device_token)
    stored = await _prove(command.name, command.password, source_of, database, hashed, settings, now, caller.message_id)
    renewed = await hashed.hash(command.password) if hashed.is_outdated(stored.password) else None

    def begin(connection: Connection) -> sessions.Opened:
        store.forget_attempts(connection, command.name, source_of(stored))
        account = store.find(connection, command.name)
        if account is None or account.password != stored.password:
            raise SignInFailed  # it was changed a moment ago
        if renewed is not None:
            store.set_password(connection, command.name, stored.password, renewed)
            account = msgspec.structs.replace(account, password=renewed)
        return sessions.begin(connection, account, now, settings)

    async with database.transaction() as tx:
        opened = await tx.run(begin)
    is_known = devices.source_of(opened.account, command.device_token) != devices.STRANGER
    device_token = command.device_token if is_known else devices.make_token(opened.account)
    return attrs.evolve(await _session(opened, signer, settings, now), device_token=device_token)


async def _prove(
    name: str,
    password: str,
    source_of: Callable[[store.Stored | None], str],
    database: Database,
    hashed: Passwords,
    settings: AccountsSettings,
    now: float,
    command_id: str,
) -> store.Stored:
    """Return the account that a name and a password belong to. `source_of` says under whom the attempt is counted.

    Raises:
        SignInFailed: There is none. It takes the same time whether or not there is one of that name.
        TooManyAttempts: The password was not looked at.
    """

    def begin(connection: Connection) -> store.Stored | None:
        account = store.find(connection, name)
        store.begin_attempt(connection, name, source_of(account), command_id, now, settings)
        return account

    async with database.transaction() as tx:
        stored = await tx.run(begin)
    is_right = await hashed.verify(password, None if stored is None else stored.password)
    if stored is None or not is_right:
        raise SignInFailed
    return stored


@module.command(ChangePassword, idempotent=True)
async def change_password(
    command: ChangePassword,
    database: Database,
    hashed: Passwords,
    settings: AccountsSettings,
    clock: Clock,
    caller: Caller,
) -> PasswordChanged:
    """Change the caller's password."""
    name = _name_of(caller)
    there = await database.run(lambda connection: store.find(connection, name))
    if there is not None and there.password_by == caller.message_id:
        if await hashed.verify(command.new, there.password):
            return PasswordChanged(devices.make_token(there))  # a repeat
        raise SignInFailed
    now = clock.now().timestamp()
    stored = await _prove(
        name, command.old, lambda _: devices.SESSION, database, hashed, settings, now, caller.message_id
    )
    try:
        passwords.check(name, command.new)
    except WeakPassword:
        async with database.transaction() as tx:
            await tx.run(lambda connection: store.forget_attempts(connection, name, devices.SESSION))
        raise
    new = await hashed.hash(command.new)

    def change(connection: Connection) -> None:
        store.forget_attempts(connection, name)  # they were guesses at a password that is gone
        if not store.set_password(connection, name, stored.password, new, caller.message_id):
            raise SignInFailed  # it was changed a moment ago
        sessions.end_all(connection, name)

    async with database.transaction() as tx:
        await tx.run(change)
    return PasswordChanged(devices.make_token(msgspec.structs.replace(stored, password=new)))


# --- sessions --------------------------------------------------------------------------------------------------------


@module.command(RefreshSession, idempotent=True)
async def refresh_session(
    command: RefreshSession,
    database: Database,
    signer: Signer,
    settings: AccountsSettings,
    clock: Clock,
    caller: Caller,
) -> Session:
    """Go on with a session."""
    now = clock.now().timestamp()
    async with database.transaction() as tx:
        opened = await tx.run(
            lambda connection: sessions.go_on(connection, command.refresh_token, caller.message_id, now, settings)
        )
    if isinstance(opened, sessions.Ended):
        if opened.name is not None:
            _logger.warning("a refresh token of %s came that had been spent, so its session was ended", opened.name)
        raise SessionEnded
    return await _session(opened, signer, settings, now)


@module.command(SignOut, idempotent=True)
async def sign_out(command: SignOut, database: Database) -> None:
    """End a session."""
    async with database.transaction() as tx:
        await tx.run(lambda connection: sessions.end_by(connection, command.refresh_token))


async def _session(opened: sessions.Opened, signer: Signer, settings: AccountsSettings, now: float) -> Session:
    account = opened.account
    token = await signer.sign(account.name, roles.scopes_of(account.roles), secrets.token_hex(16), now)
    return Session(
        name=account.name,
        roles=account.roles,
        expires_in_s=settings.access_token_s,
        access_token=token,
        refresh_token=opened.refresh_token,
        ends_in_s=opened.expires_at - now,
    )


# --- accounts and API tokens -----------------------------------------------------------------------------------------


def _name_of(caller: Caller) -> str:
    """Return who asks; a name that no account has where a module acts for itself."""
    return "" if caller.identity is None else caller.identity.subject


@module.query(GetAccount)
async def get_account(_query: GetAccount, database: Database, caller: Caller) -> Account:
    """Show the caller's account."""
    return await database.run(lambda connection: store.account(connection, _name_of(caller)))


@module.command(SetRoles)
async def set_roles(command: SetRoles, database: Database) -> None:
    """Say what somebody is."""
    wanted = roles.checked(command.roles)
    async with database.transaction() as tx:
        await tx.run(lambda connection: store.set_roles(connection, command.name, wanted))


@module.command(CreateToken, idempotent=True)
async def create_token(
    command: CreateToken, database: Database, settings: AccountsSettings, clock: Clock, caller: Caller
) -> NewApiToken:
    """Make an API token for the caller."""
    owner, now = _name_of(caller), clock.now().timestamp()
    scopes = tuple(dict.fromkeys(command.scopes))
    if caller.identity is not None and caller.identity.kind == "api-key":
        raise ScopeNotHeld(scopes[0])  # one that leaked would live on in those it has made
    # A repeat has the same id, and another secret, since nobody got to see the first one.
    token_id = store.digest("\0".join((owner, caller.message_id, command.name, *scopes)))[:_TOKEN_ID_DIGITS]
    token = f"{TOKEN_PREFIX}{token_id}_{secrets.token_urlsafe(32)}"

    def add(connection: Connection) -> None:
        account = store.find(connection, owner)
        held = frozenset[str]() if account is None else roles.scopes_of(account.roles)
        for scope in scopes:
            if scope not in held:
                raise ScopeNotHeld(scope)
        expires_at = None if command.valid_days is None else now + command.valid_days * DAY_S
        made = store.NewToken(token_id, owner, command.name, store.digest(token), scopes, now, expires_at)
        store.add_token(connection, made, settings.tokens)

    async with database.transaction() as tx:
        await tx.run(add)
    return NewApiToken(token_id, token)


@module.query(ListTokens)
async def list_tokens(_query: ListTokens, database: Database, caller: Caller) -> tuple[ApiToken, ...]:
    """List the caller's API tokens."""
    return await database.run(lambda connection: store.tokens(connection, _name_of(caller)))


@module.command(RevokeToken)
async def revoke_token(command: RevokeToken, database: Database, caller: Caller) -> None:
    """End an API token of the caller's."""
    async with database.transaction() as tx:
        await tx.run(lambda connection: store.remove_token(connection, _name_of(caller), command.id))


# --- what a gateway asks ---------------------------------------------------------------------------------------------


@module.query(GetSigningKeys)
async def get_signing_keys(_query: GetSigningKeys, database: Database) -> str:
    """Show the keys that access tokens are signed with."""
    return await database.run(keys.published)


@module.query(FindApiToken)
async def find_api_token(query: FindApiToken, database: Database, noted: Uses, clock: Clock) -> ApiTokenHolder | None:
    """Tell whose an API token is."""
    now = clock.now().timestamp()
    found = await database.run(lambda connection: store.holder(connection, query.sha256, now))
    if found is None:
        return None
    noted.note(found[0], now)
    return found[1]
