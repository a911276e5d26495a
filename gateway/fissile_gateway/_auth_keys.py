"""API keys: a file that names them by their hashes, so that who reads it can use none."""

from __future__ import annotations

import hashlib
import hmac
import logging
import tomllib
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec
from attrs import define, field, frozen

from fissile import Fault, StartupFailed
from fissile._api_keys import KEY, ApiKey
from fissile_gateway._auth import CredentialRefused, Proof

if TYPE_CHECKING:
    from fissile import Clock

LOOK_AGAIN_S = 5.0
"""How often it is looked whether the file has changed, in seconds, while there are requests with keys."""

_NOBODYS = hashlib.sha256(b"").hexdigest()

_logger = logging.getLogger("fissile.gateway.auth")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    key: tuple[ApiKey, ...] = ()


@frozen
class _Known:
    sha256: str
    proof: Proof


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
        known[key.id] = _Known(
            key.sha256, Proof(key.identity(), inf if key.expires is None else key.expires.timestamp())
        )
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
        match = KEY.fullmatch(text)
        known = self._known.get(match["id"]) if match is not None else None
        # The same work for an id that is not there: how long it takes is to tell nothing.
        digest = hashlib.sha256(text.encode()).hexdigest()
        is_same = hmac.compare_digest(digest, _NOBODYS if known is None else known.sha256)
        if known is None or not is_same:
            raise CredentialRefused(
                "it is no API key" if match is None else f"the API key {match['id']} is none of {self.path}"
            )
        if known.proof.expires != inf and known.proof.expires <= self.clock.now().timestamp():
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
