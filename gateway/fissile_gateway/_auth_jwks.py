"""The keys that an issuer of tokens signs with: a file, a URL, or a query of a module; asked seldom, and never held against a client.

Keys are kept for a while. A token with a key that is not known lets them be fetched again, since an issuer may have new ones, but not more often
than every few seconds, whatever clients send; all who wait meanwhile wait for the same fetch. Where the issuer cannot be reached, the keys
that are known go on being used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec
from attrs import define, field
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from fissile_gateway._auth import KeysUnavailable
from fissile_gateway._auth_bus import Asked, AskedInVain

if TYPE_CHECKING:
    from fissile import Clock

Key = RSAKey | ECKey | OKPKey

LARGEST_BYTES = 256 * 1024
MOST_KEYS = 100
_PATIENCE_S = 5.0
"""How long the issuer may take for each step, in seconds."""
_WHOLE_S = 8.0
_PAUSE_WITHOUT_S = 1.0
_RSA_BITS = 2048

_logger = logging.getLogger("fissile.gateway.auth")

_KINDS: dict[str, Callable[[Any], Key]] = {
    "RSA": RSAKey.import_key,
    "EC": ECKey.import_key,
    "OKP": OKPKey.import_key,
}


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]  # Any: RFC 7517 leaves the members of a key open


def read_keys(document: bytes) -> dict[str | None, Key]:
    """Return the public keys in a JWK set by their ids. What is no key for signatures, or one that is known here, is passed over.

    Raises:
        ValueError: It is no JWK set, or has no such key.
    """
    try:
        found = msgspec.json.decode(document, type=_Set).keys
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ValueError("it is no JWK set") from None
    keys: dict[str | None, Key] = {}
    for each in found[:MOST_KEYS]:
        kind = _KINDS.get(str(each.get("kty")))
        if kind is None or each.get("use", "sig") != "sig" or _is_short(each):
            continue
        try:
            key = kind({name: value for name, value in each.items() if name not in _PRIVATE})
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        kid = each.get("kid")
        keys[kid if isinstance(kid, str) else None] = key
    if not keys:
        raise ValueError("it has no public key for signatures")
    return keys


_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "key_ops")


def _is_short(key: Mapping[str, Any]) -> bool:
    return key.get("kty") == "RSA" and len(str(key.get("n", ""))) * 6 < _RSA_BITS


@define(eq=False)
class Jwks:
    """The keys of one issuer.

    Args:
        place: The file, the URL, or `bus:` and the name of the query.
        clock: Tells when to fetch them again.
        max_age_s: How long they are used before they are fetched again, in seconds.
        pause_s: How long no fetch follows another, whatever clients send, in seconds.
        query: What to ask for them, where they are a module's.

    Attributes:
        generation: Rises with each fetch that has brought keys.
        fetches: How often they were fetched, or were to be.
    """

    place: str
    clock: Clock
    max_age_s: float
    pause_s: float
    query: Asked | None = None
    generation: int = field(default=0, init=False)
    fetches: int = field(default=0, init=False)
    _keys: dict[str | None, Key] = field(factory=dict[str | None, Key], init=False)
    _fetched: float = field(default=-inf, init=False)
    _tried: float = field(default=-inf, init=False)
    _problem: str = field(default="they were not fetched yet", init=False)
    _lock: anyio.Lock = field(factory=anyio.Lock, init=False)

    async def key(self, kid: str | None) -> Key | None:
        """Return the key of an id, or the only one where a token names none; None if there is none.

        Raises:
            KeysUnavailable: There are no keys at all.
        """
        now = self.clock.monotonic()
        if not self._keys:
            await self._fetch()
        elif now - self._fetched >= self.max_age_s and not self._lock.locked():
            await self._fetch()  # who comes meanwhile goes on with those that are known
        key = self._find(kid)
        if key is None and self._keys:
            await self._fetch()
            key = self._find(kid)
        if not self._keys:
            raise KeysUnavailable(f"the keys at {self.place} are not to be had: {self._problem}")
        return key

    def _find(self, kid: str | None) -> Key | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was tried a moment ago."""
        async with self._lock:
            # Without any key nobody is served, so that is tried again soon.
            pause_s = self.pause_s if self._keys else min(self.pause_s, _PAUSE_WITHOUT_S)
            if self.clock.monotonic() - self._tried < pause_s:
                return
            self._tried = self.clock.monotonic()
            self.fetches += 1
            try:
                # Others may wait for the same fetch: it goes on when this client goes away.
                with anyio.CancelScope(shield=True):
                    self._keys = read_keys(await self._document())
            except (OSError, ValueError, AskedInVain) as error:
                self._problem = str(error) or type(error).__name__
                what = "those that are known are used" if self._keys else "no token can be checked"
                _logger.warning("the keys at %s cannot be fetched, %s: %s", self.place, what, self._problem)
            else:
                self._fetched = self._tried
                self.generation += 1

    async def _document(self) -> bytes:
        if self.query is None:
            return await anyio.to_thread.run_sync(_read, self.place)
        document: str = await self.query.ask()
        return _checked(document.encode())


def _read(place: str) -> bytes:
    """Read the file, or ask the URL once and follow it nowhere; in a worker thread.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large, or the answer is none.
    """
    if "://" not in place:
        with Path(place).open("rb") as file:
            return _checked(file.read(LARGEST_BYTES + 1))
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object, **__: object) -> None:
            return None

    request = Request(place, headers={"Accept": "application/jwk-set+json, application/json"})  # noqa: S310 -- checked at start
    end = time.monotonic() + _WHOLE_S
    body = b""
    try:
        with build_opener(Stay).open(request, timeout=_PATIENCE_S) as response:
            while len(body) <= LARGEST_BYTES:
                if time.monotonic() > end:
                    raise TimeoutError(f"no whole answer within {_WHOLE_S:g} s")
                part: bytes = response.read1(65_536)  # what has come, so that the bound is looked at
                if not part:
                    break
                body += part
    except HTTPError as error:
        with error:
            raise ValueError(f"it answers {error.code}") from None
    except HTTPException as error:
        raise ValueError(f"the answer cannot be read ({type(error).__name__})") from None
    return _checked(body)


def _checked(document: bytes) -> bytes:
    if len(document) > LARGEST_BYTES:
        raise ValueError(f"there are more than {LARGEST_BYTES} bytes")
    return document
