"""The keys that access tokens are signed with: made here, kept in the database, which the replicas share, and changed by age.

A key has three times: it is published and does not sign yet, so that gateways have it when it does; it signs; it is published for as long as a
token of it may be valid. The first key signs at once.
"""

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
from attrs import define, field
from sqlalchemy import Connection, delete, insert, select

from fissile.database import Database

from .settings import AccountsSettings
from .tables import signing_keys

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

ALGORITHM = "ES256"
"""Signed fast, and verified by every library; its signatures are short."""

SPARE_S = 300.0
"""How much longer a key is published than its last token is valid, in seconds: clocks differ, and gateways allow for that."""


class _Stored(msgspec.Struct, frozen=True):
    number: int
    kid: str
    private: str
    created_at: float
    active_at: float


def current(connection: Connection, now: float) -> tuple[str, str] | None:
    """Return the id and the private key that sign now; None if there is none."""
    keys = [key for key in _all(connection) if key.active_at <= now]
    return (keys[-1].kid, keys[-1].private) if keys else None


def published(connection: Connection) -> str:
    """Return the public keys as a JWK set."""
    found = connection.execute(select(signing_keys.c.public).order_by(signing_keys.c.number)).scalars()
    return json.dumps({"keys": [json.loads(public) for public in found]})


def is_due(connection: Connection, now: float, settings: AccountsSettings) -> bool:
    """Tell whether a key has to be made, or can go."""
    keys = _all(connection)
    return not keys or _is_old(keys[-1], now, settings) or bool(_past(keys, now, settings))


def look_after(connection: Connection, now: float, settings: AccountsSettings, made: tuple[str, str, str]) -> None:
    """Store a new key where one is due, and remove those that no valid token is signed with.

    Args:
        connection: The connection of a transaction.
        now: The time.
        settings: Say how old a key may get.
        made: A new key: its id, the private and the public part.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")  # one replica at a time
    keys = _all(connection)
    kid, private, public = made
    if not keys or _is_old(keys[-1], now, settings):
        values = {
            "number": keys[-1].number + 1 if keys else 1,
            "kid": kid,
            "private": private,
            "public": public,
            "created_at": now,
            "active_at": now + settings.key_lead_s if keys else now,
        }
        connection.execute(insert(signing_keys).values(values))
    past = _past(keys, now, settings)
    if past:
        connection.execute(delete(signing_keys).where(signing_keys.c.number.in_(past)))


def _all(connection: Connection) -> list[_Stored]:
    columns = signing_keys.c
    rows = connection.execute(
        select(columns.number, columns.kid, columns.private, columns.created_at, columns.active_at).order_by(
            columns.number
        )
    )
    return [_Stored(*row) for row in rows]


def _is_old(key: _Stored, now: float, settings: AccountsSettings) -> bool:
    return now - key.active_at >= settings.key_age_s - settings.key_lead_s


def _past(keys: list[_Stored], now: float, settings: AccountsSettings) -> list[int]:
    """Return the numbers of keys whose last token has expired."""
    kept_s = settings.access_token_s + SPARE_S
    return [key.number for key, after in pairwise(keys) if after.active_at + kept_s < now]


def _make() -> tuple[str, str, str]:
    from joserfc.jwk import ECKey  # it brings a library for cryptography

    key = ECKey.generate_key("P-256", auto_kid=False)
    kid = key.thumbprint()
    public = {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": ALGORITHM}
    return kid, json.dumps(key.as_dict(private=True)), json.dumps(public)


@define(eq=False)
class Signer:
    """Signs access tokens.

    Args:
        settings: Say for whom tokens are.
        database: Where the keys are.
    """

    settings: AccountsSettings
    database: Database
    _known: "tuple[str, ECKey] | None" = field(default=None, init=False)

    async def look_after_keys(self, now: float) -> None:
        """Make the first key, or the next one, and remove what is past, where that is due."""
        if await self.database.run(lambda connection: is_due(connection, now, self.settings)):
            made = await anyio.to_thread.run_sync(_make)
            async with self.database.transaction() as tx:
                await tx.run(lambda connection: look_after(connection, now, self.settings, made))

    async def sign(self, name: str, scopes: frozenset[str], token_id: str, now: float) -> str:
        """Return an access token.

        Args:
            name: Who has it.
            scopes: What they may do.
            token_id: Its id.
            now: The time.
        """
        found = await self.database.run(lambda connection: current(connection, now))
        if found is None:
            await self.look_after_keys(now)
            found = await self.database.run(lambda connection: current(connection, now))
        assert found is not None, "a first key signs at once"
        kid, private = found
        claims: dict[str, str | int] = {
            "iss": self.settings.issuer,
            "aud": self.settings.audience,
            "sub": name,
            "scope": " ".join(sorted(scopes)),
            "jti": token_id,
            "iat": int(now),
            "exp": int(now + self.settings.access_token_s),
        }
        if self._known is None or self._known[0] != kid:
            self._known = kid, await anyio.to_thread.run_sync(_import, private)
        return _encode(claims, *self._known)


def _import(private: str) -> "ECKey":
    from joserfc.jwk import ECKey

    return ECKey.import_key(json.loads(private))


def _encode(claims: dict[str, str | int], kid: str, key: "ECKey") -> str:
    from joserfc import jwt

    return jwt.encode({"alg": ALGORITHM, "typ": "at+jwt", "kid": kid}, claims, key, [ALGORITHM])
