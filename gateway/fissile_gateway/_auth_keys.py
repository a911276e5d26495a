"""API keys: a file that names them by their hashes, so that who reads it can use none.

A key is `fsl_<id>_<secret>`. The secret has 256 random bits, so one SHA-256 is as good as a slow hash, which is for what people make up.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import tomllib
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec
from attrs import define, field, frozen

from fissile import Fault, Identity, StartupFailed
from fissile_gateway._auth import API_KEY_PREFIX, CredentialRefused, Proof

if TYPE_CHECKING:
    from fissile import Clock

LOOK_AGAIN_S = 5.0
"""How often it is looked whether the file has changed, in seconds, while there are requests with keys."""

_KEY = re.compile(rf"{API_KEY_PREFIX}(?P<id>[A-Za-z0-9-]{{1,64}})_(?P<secret>[A-Za-z0-9_-]{{43,86}})")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_NOBODYS = hashlib.sha256(b"").hexdigest()

_logger = logging.getLogger("fissile.gateway.auth")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key in the file.

    Attributes:
        id: Its name, unique in the file.
        sha256: The SHA-256 of the whole key, in hexadecimal digits.
        subject: Whose it is; its id unless told.
        scopes: What it may do.
        tenant: On whose behalf, where an application tells its customers apart.
        expires: Until when, with a time zone; for ever unless told.
    """

    id: str
    sha256: str
    subject: str = ""
    scopes: tuple[str, ...] = ()
    tenant: str | None = None
    expires: datetime | None = None

    def proof(self) -> Proof:
        """Return what it proves.

        Raises:
            ValueError: It makes no sense.
        """
        if _ID.fullmatch(self.id) is None:
            raise ValueError(f"{self.id!r} is no id: 1 to 64 letters, digits and hyphens")
        if _HASH.fullmatch(self.sha256) is None:
            raise ValueError(f"the sha256 of {self.id} is not 64 hexadecimal digits in small letters")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError(f"the time at which {self.id} expires has no time zone")
        identity = Identity(self.subject or self.id, frozenset(self.scopes), kind="api-key", tenant=self.tenant)
        return Proof(identity, inf if self.expires is None else self.expires.timestamp())


class _File(msgspec.Struct, forbid_unknown_fields=True):
    key: tuple[ApiKey, ...] = ()


@frozen
class _Known:
    sha256: str
    proof: Proof


def new_key(key_id: str) -> tuple[str, str]:
    """Make a key; return it, and its hash.

    Raises:
        ValueError: The id is none.
    """
    if _ID.fullmatch(key_id) is None:
        raise ValueError(f"{key_id!r} is no id: 1 to 64 letters, digits and hyphens")
    key = f"{API_KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def read_file(path: Path) -> dict[str, _Known]:
    """Return the keys in a file by their ids.

    Raises:
        OSError: It cannot be read.
        ValueError: It makes no sense.
    """
    text = path.read_text(encoding="utf-8")
    try:
        is_json = path.suffix == ".json"
        file = msgspec.json.decode(text, type=_File) if is_json else msgspec.convert(tomllib.loads(text), _File)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    known: dict[str, _Known] = {}
    for key in file.key:
        if key.id in known:
            raise ValueError(f"two keys are called {key.id!r}")
        known[key.id] = _Known(key.sha256, key.proof())
    return known


@define(eq=False)
class ApiKeys:
    """The keys of a file, which may change while the gateway runs.

    Args:
        path: The file.
        clock: The time.
    """

    path: Path
    clock: Clock
    _known: dict[str, _Known] = field(init=False)
    _changed_ns: int = field(init=False)
    _looked: float = field(init=False)
    _lock: anyio.Lock = field(factory=anyio.Lock, init=False)

    @classmethod
    def of(cls, path: str, clock: Clock) -> ApiKeys:
        """Read a file.

        Raises:
            StartupFailed: It cannot be read.
        """
        keys = cls(Path(path), clock)
        try:
            keys._read()
        except (OSError, ValueError) as error:
            what = f"The API keys in {path} cannot be read: {error}."
            raise StartupFailed(
                (Fault(what, "FISSILE_API_KEYS_FILE", "`fissile api-key new ID` shows what it has to have."),)
            ) from None
        return keys

    def _read(self) -> None:
        changed_ns = self.path.stat().st_mtime_ns
        self._looked = self.clock.monotonic()
        self._known, self._changed_ns = read_file(self.path), changed_ns

    async def prove(self, text: str) -> Proof:
        """Return whose key it is.

        Raises:
            CredentialRefused: It is none, or no longer.
        """
        if self.clock.monotonic() - self._looked >= LOOK_AGAIN_S and not self._lock.locked():
            await self._look()
        match = _KEY.fullmatch(text)
        known = self._known.get(match["id"]) if match is not None else None
        # The same work for an id that is not there: how long it takes is to tell nothing.
        digest = hashlib.sha256(text.encode()).hexdigest()
        is_same = hmac.compare_digest(digest, _NOBODYS if known is None else known.sha256)
        if known is None or not is_same:
            raise CredentialRefused(
                "it is no API key" if match is None else f"the API key {match['id']} is none of {self.path}"
            )
        if known.proof.expires <= self.clock.now().timestamp():
            raise CredentialRefused(f"the API key {match and match['id']} has expired")
        return known.proof

    async def _look(self) -> None:
        """Read the file again where it has changed. One that makes no sense changes nothing."""
        async with self._lock:
            self._looked = self.clock.monotonic()
            try:
                await anyio.to_thread.run_sync(self._read_again)
            except (OSError, ValueError) as error:
                _logger.warning(
                    "the API keys in %s cannot be read, those that are known are used: %s", self.path, error
                )

    def _read_again(self) -> None:
        if self.path.stat().st_mtime_ns != self._changed_ns:
            self._read()
