"""Sessions in the database: chains of refresh tokens, each of which is spent for its successor.

A successor is made of its predecessor and of a seed that the database has: neither alone gives it, and a repeat gives the same one. So the
database has nothing to sign in with, and an answer that was lost can be asked for again.
"""

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from secrets import token_hex, token_urlsafe

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from .settings import AccountsSettings
from .store import Stored, digest, find
from .tables import api_tokens, attempts, refresh_tokens, sessions

_BATCH = 500


class Opened(msgspec.Struct, frozen=True):
    """A session, and the token that goes on with it.

    Attributes:
        account: Whose it is.
        refresh_token: The token.
        expires_at: When it ends unless it is gone on with, in seconds since 1970.
    """

    account: Stored
    refresh_token: str
    expires_at: float


class Ended(msgspec.Struct, frozen=True):
    """What came of a refresh token that is not valid.

    Attributes:
        name: Whose session was ended because the token had been spent before; None where there was nothing to end.
    """

    name: str | None = None


def begin(connection: Connection, account: Stored, now: float, settings: AccountsSettings) -> Opened:
    """Begin a session."""
    session, token = token_hex(16), token_urlsafe(32)
    expires_at = now + min(settings.session_idle_s, settings.session_s)
    connection.execute(
        insert(sessions).values(
            id=session,
            name=account.name,
            seed=token_hex(32),
            current=digest(token),
            created_at=now,
            expires_at=expires_at,
        )
    )
    connection.execute(insert(refresh_tokens).values(sha256=digest(token), session=session))
    return Opened(account, token, expires_at)


def go_on(connection: Connection, token: str, command: str, now: float, settings: AccountsSettings) -> Opened | Ended:
    """Spend a refresh token. One that was spent before ends its session, unless this is a repeat.

    Args:
        connection: The connection of a transaction.
        token: The token.
        command: The id of the command.
        now: The time.
        settings: Say how long a session lasts.
    """
    known = digest(token)
    session_id = connection.execute(
        select(refresh_tokens.c.session).where(refresh_tokens.c.sha256 == known)
    ).scalar_one_or_none()
    # The session's row is what two who come at once wait for.
    found = connection.execute(select(sessions).where(sessions.c.id == session_id).with_for_update()).one_or_none()
    account = None if found is None else find(connection, found.name)
    if found is None or account is None or found.expires_at <= now:
        return Ended()
    token_row = connection.execute(
        select(refresh_tokens.c.spent_at, refresh_tokens.c.spent_by).where(refresh_tokens.c.sha256 == known)
    ).one()
    successor = _successor(found.seed, token)
    if found.current != known:
        is_last = found.current == digest(successor)
        is_repeat = token_row.spent_by == command or now - token_row.spent_at < settings.refresh_leeway_s
        if not (is_last and is_repeat):
            end(connection, found.id)
            return Ended(found.name)
        return Opened(account, successor, found.expires_at)
    expires_at = min(now + settings.session_idle_s, found.created_at + settings.session_s)
    connection.execute(
        update(refresh_tokens).where(refresh_tokens.c.sha256 == known).values(spent_at=now, spent_by=command)
    )
    connection.execute(insert(refresh_tokens).values(sha256=digest(successor), session=found.id))
    connection.execute(
        update(sessions).where(sessions.c.id == found.id).values(current=digest(successor), expires_at=expires_at)
    )
    return Opened(account, successor, expires_at)


def _successor(seed: str, token: str) -> str:
    made = hmac.digest(bytes.fromhex(seed), token.encode(), sha256)
    return urlsafe_b64encode(made).rstrip(b"=").decode()


def end_by(connection: Connection, token: str) -> None:
    """End the session that a refresh token belongs to, if there is one. A spent one will do: who has it means to leave."""
    session = connection.execute(
        select(refresh_tokens.c.session).where(refresh_tokens.c.sha256 == digest(token))
    ).scalar_one_or_none()
    if session is not None:
        end(connection, session)


def end(connection: Connection, session: str) -> None:
    """End a session."""
    connection.execute(delete(sessions).where(sessions.c.id == session))  # with its tokens


def end_all(connection: Connection, name: str) -> None:
    """End all sessions of somebody."""
    connection.execute(delete(sessions).where(sessions.c.name == name))


def remove_expired(connection: Connection, now: float, settings: AccountsSettings) -> int:
    """Remove sessions, API tokens and attempts that are over, some at a time; return how many there were."""
    over = select(sessions.c.id).where(sessions.c.expires_at <= now).limit(_BATCH)
    removed = connection.execute(delete(sessions).where(sessions.c.id.in_(over))).rowcount
    removed += connection.execute(delete(attempts).where(attempts.c.at <= now - settings.attempts_window_s)).rowcount
    removed += connection.execute(delete(api_tokens).where(api_tokens.c.expires_at <= now)).rowcount
    return removed
