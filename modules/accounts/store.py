"""The accounts in the database: what is read and written, as functions of a connection."""

from collections.abc import Iterable
from hashlib import sha256

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, text, update

from .contract import (
    Account,
    ApiToken,
    ApiTokenHolder,
    NameTaken,
    TooManyAttempts,
    TooManyTokens,
    UnknownAccount,
    UnknownToken,
)
from .roles import scopes_of
from .settings import AccountsSettings
from .tables import accounts, api_tokens, attempts


def digest(token: str) -> str:
    """Return what is stored of a token. It has 256 random bits, so one SHA-256 is as good as a slow hash."""
    return sha256(token.encode()).hexdigest()


class Stored(msgspec.Struct, frozen=True):
    """An account as it is stored."""

    name: str
    password: str
    password_by: str
    roles: tuple[str, ...]
    created_at: float


def find(connection: Connection, name: str) -> Stored | None:
    """Return an account; None if there is none of that name."""
    row = connection.execute(select(accounts).where(accounts.c.name == name)).one_or_none()
    return None if row is None else Stored(row.name, row.password, row.password_by, tuple(row.roles), row.created_at)


def account(connection: Connection, name: str) -> Account:
    """Return an account as its owner sees it.

    Raises:
        UnknownAccount: There is none.
    """
    stored = find(connection, name)
    if stored is None:
        raise UnknownAccount(name)
    return Account(name, stored.roles, tuple(sorted(scopes_of(stored.roles))), stored.created_at)


def add(connection: Connection, made: Stored) -> None:
    """Store an account.

    Raises:
        NameTaken: There is one of that name.
    """
    _one_at_a_time(connection, made.name)
    if find(connection, made.name) is not None:
        raise NameTaken(made.name)
    connection.execute(
        insert(accounts).values(
            name=made.name,
            password=made.password,
            password_by=made.password_by,
            roles=list(made.roles),
            created_at=made.created_at,
        )
    )


def set_password(connection: Connection, name: str, old: str, new: str, by: str | None = None) -> bool:
    """Store another password, unless it was changed meanwhile; tell whether it was stored.

    Args:
        connection: The connection.
        name: Whose.
        old: What is stored.
        new: What is to be stored.
        by: The id of the command; None where the password is the same, and only its hash is another.
    """
    values = {"password": new} if by is None else {"password": new, "password_by": by}
    statement = update(accounts).where(accounts.c.name == name, accounts.c.password == old).values(values)
    return connection.execute(statement).rowcount == 1


def set_roles(connection: Connection, name: str, roles: Iterable[str]) -> None:
    """Say what somebody is.

    Raises:
        UnknownAccount: There is no such account.
    """
    statement = update(accounts).where(accounts.c.name == name).values(roles=list(roles))
    if connection.execute(statement).rowcount == 0:
        raise UnknownAccount(name)


# --- attempts --------------------------------------------------------------------------------------------------------


def begin_attempt(
    connection: Connection, name: str, source: str, command: str, now: float, settings: AccountsSettings
) -> None:
    """Count an attempt before the password is looked at, so that attempts at the same moment are counted too.

    Args:
        connection: The connection.
        name: Of whoever has or has not that name.
        source: Under whom it is counted.
        command: The id of the command.
        now: The time.
        settings: Say how many there may be.

    Raises:
        TooManyAttempts: There were too many lately.
    """
    _one_at_a_time(connection, name)
    since = now - settings.attempts_window_s
    columns = attempts.c
    found = connection.execute(
        select(columns.command, columns.at).where(columns.name == name, columns.source == source, columns.at > since)
    ).all()
    if command not in {row.command for row in found}:
        if len(found) >= settings.attempts:
            times = sorted(row.at for row in found)
            raise TooManyAttempts(max(1.0, times[-settings.attempts] - since))
        connection.execute(delete(attempts).where(columns.name == name, columns.command == command))
        connection.execute(insert(attempts).values(name=name, source=source, command=command, at=now))


def forget_attempts(connection: Connection, name: str, source: str | None = None) -> None:
    """Forget the attempts of a source, since one was right; all of them if it is None."""
    chosen = attempts.c.name == name
    if source is not None:
        chosen &= attempts.c.source == source
    connection.execute(delete(attempts).where(chosen))


def _one_at_a_time(connection: Connection, name: str) -> None:
    """Let transactions about one name follow each other. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"accounts {name}"}
        )


# --- API tokens ------------------------------------------------------------------------------------------------------


class NewToken(msgspec.Struct, frozen=True):
    """An API token to be stored."""

    id: str
    owner: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None


def add_token(connection: Connection, made: NewToken, limit: int) -> None:
    """Store an API token, in the place of one that has the same id.

    Raises:
        TooManyTokens: Its owner has as many as they may have.
    """
    _one_at_a_time(connection, made.owner)
    columns = api_tokens.c
    connection.execute(delete(api_tokens).where(columns.id == made.id))
    valid = columns.expires_at.is_(None) | (columns.expires_at > made.created_at)
    count = connection.execute(
        select(func.count()).select_from(api_tokens).where(columns.owner == made.owner, valid)
    ).scalar_one()
    if count >= limit:
        raise TooManyTokens(limit)
    connection.execute(
        insert(api_tokens).values(
            id=made.id,
            owner=made.owner,
            name=made.name,
            sha256=made.sha256,
            scopes=list(made.scopes),
            created_at=made.created_at,
            expires_at=made.expires_at,
        )
    )


def tokens(connection: Connection, owner: str) -> tuple[ApiToken, ...]:
    """Return somebody's API tokens, the newest first."""
    rows = connection.execute(
        select(api_tokens).where(api_tokens.c.owner == owner).order_by(api_tokens.c.created_at.desc(), api_tokens.c.id)
    )
    return tuple(
        ApiToken(row.id, row.name, tuple(row.scopes), row.created_at, row.expires_at, row.last_used_at) for row in rows
    )


def remove_token(connection: Connection, owner: str, token_id: str) -> None:
    """End an API token.

    Raises:
        UnknownToken: There is none of that id, or it is somebody else's.
    """
    statement = delete(api_tokens).where(api_tokens.c.id == token_id, api_tokens.c.owner == owner)
    if connection.execute(statement).rowcount == 0:
        raise UnknownToken(token_id)


def holder(connection: Connection, token_sha256: str, now: float) -> tuple[str, ApiTokenHolder] | None:
    """Return the id of an API token, and whose it is; None if it is nobody's, or has ended."""
    columns = api_tokens.c
    row = connection.execute(
        select(columns.id, columns.owner, columns.scopes, columns.expires_at, accounts.c.roles)
        .join_from(api_tokens, accounts, columns.owner == accounts.c.name)
        .where(columns.sha256 == token_sha256)
    ).one_or_none()
    if row is None or (row.expires_at is not None and row.expires_at <= now):
        return None
    held = scopes_of(row.roles)
    scopes = tuple(scope for scope in row.scopes if scope in held)
    return row.id, ApiTokenHolder(row.owner, scopes, row.expires_at)


def note_use(connection: Connection, used: Iterable[tuple[str, float]]) -> None:
    """Store when API tokens were used."""
    for token_id, at in sorted(used):
        connection.execute(
            update(api_tokens)
            .where(api_tokens.c.id == token_id, func.coalesce(api_tokens.c.last_used_at, 0.0) < at)
            .values(last_used_at=at)
        )
