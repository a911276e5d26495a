"""The identity of a message in a log: signed, and bound to that message. docs/wire-format.md describes it for programs in other languages.

Who can write to the log but holds no key can neither invent an identity, nor move one to another message, nor keep one for later.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from fissile._envelope import by_name
from fissile._errors import Fault
from fissile._identity import KEYS_CURE, UNSIGNED, Identity
from fissile.abc import Headers, Outgoing

HEADER = "fissile-identity"
KEY_CHARACTERS = 32
IN_PROCESS = "the key of a log that only this process can write to"
"""Signs where the log is in memory: nobody else can write there, so it need not be secret, and what waits in a database stays valid."""

_SKEW_S = 60.0
_STEP_S = 60
_LARGEST_BYTES = 8192

_logger = logging.getLogger("fissile.identity")


class _Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is signed besides the message. Without an identity, the module that sent it acts for itself."""

    until: int
    identity: Identity | None = None


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = lru_cache(maxsize=1024)(msgspec.json.Decoder(_Claim).decode)


def key_faults(keys: Sequence[str]) -> tuple[Fault, ...]:
    """Return what keeps keys from being used."""
    if all(len(key) >= KEY_CHARACTERS for key in keys):
        return ()
    what = f"FISSILE_IDENTITY_KEYS has a key of fewer than {KEY_CHARACTERS} characters, which can be guessed."
    return (Fault(what, "FISSILE_IDENTITY_KEYS", KEYS_CURE),)


class Signatures:
    """Signs the identities of messages that are sent, and checks those of messages that have come.

    Args:
        keys: The keys: the first signs, all are accepted.
        now: The time of day.
        valid_s: For how long an identity is valid whose message nobody waits for, in seconds.
        is_required: Whether every message has to be signed; otherwise those that have an identity.
    """

    def __init__(self, keys: Sequence[str], now: Callable[[], datetime], valid_s: float, *, is_required: bool) -> None:
        self.is_required = is_required
        self._keys = {_name_of(key): key.encode() for key in keys}
        self._name, self._key = next(iter(self._keys.items()))
        self._now = now
        self._valid_s = valid_s
        self._claims: dict[tuple[int, Identity | None], bytes] = {}

    def sign(
        self, identity: Identity | None, message: tuple[bytes, bytes, bytes], body: bytes, valid_s: float | None
    ) -> tuple[str, bytes]:
        """Return the header that goes with a message.

        Args:
            identity: For whom it is sent; None if the module acts for itself.
            message: Its id, its name, and the module that sends it, as their headers have them.
            body: Its body.
            valid_s: For how long it is valid, in seconds; as long as any message that nobody waits for unless told.
        """
        until_s = self._now().timestamp() + (self._valid_s if valid_s is None else valid_s + _SKEW_S)
        # In steps, so that the claim of one identity can be used again for a while.
        claim = self._claim(math.ceil(until_s / _STEP_S) * _STEP_S, identity)
        return HEADER, b".".join((self._name, claim, self._mac(self._key, claim, message, body)))

    def _claim(self, until: int, identity: Identity | None) -> bytes:
        claim = self._claims.get((until, identity))
        if claim is None:
            if len(self._claims) >= 1024:
                self._claims.clear()
            claim = self._claims[until, identity] = urlsafe_b64encode(_encode(_Claim(until, identity)))
        return claim

    @staticmethod
    def _mac(key: bytes, claim: bytes, message: tuple[bytes, bytes, bytes], body: bytes) -> bytes:
        # Each part with its length, so that nothing can be moved from one to the next.
        parts = (b"fissile-identity-1", claim, *message, hashlib.sha256(body).digest())
        signed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return urlsafe_b64encode(hmac.digest(key, signed, "sha256"))

    def renew(self, record: Outgoing, time: datetime) -> Outgoing:
        """Return a record that is kept until a time, with an identity that is valid from then on as long as that of one sent then."""
        headers = record.headers_by_name()
        value = headers.get(HEADER)
        if value is None:
            return record
        claim = _decode(urlsafe_b64decode(value.split(b".")[1]))
        later_s = max(0.0, (time - self._now()).total_seconds())
        renewed = self.sign(claim.identity, _message_of(headers), record.value or b"", self._valid_s + later_s)
        others = tuple(pair for pair in record.headers if pair[0] != HEADER)
        return Outgoing(record.topic, record.key, record.value, (*others, renewed), record.partition)

    def read(self, headers: Mapping[str, bytes], body: bytes) -> tuple[Identity | None, str | None]:
        """Return for whom a message was sent, and what is wrong with what it says of that; what is wrong is trusted in nothing."""
        value = headers.get(HEADER)
        if value is None:
            return (UNSIGNED, "it has no identity") if self.is_required else (None, None)
        claim = self._verify(value, headers, body)
        if isinstance(claim, str):
            return UNSIGNED, claim
        if claim.until <= self._now().timestamp():
            return UNSIGNED, "its identity is no longer valid"
        return claim.identity, None

    def _verify(self, value: bytes, headers: Mapping[str, bytes], body: bytes) -> _Claim | str:
        """Return what is claimed of a message, or what is wrong with that. Whether it is still valid is not looked at."""
        name, _, rest = value.partition(b".")
        claim, _, mac = rest.partition(b".")
        key = self._keys.get(name)
        if len(value) > _LARGEST_BYTES or key is None:
            return "its identity is signed with a key that is not known here"
        if not hmac.compare_digest(mac, self._mac(key, claim, _message_of(headers), body)):
            return "its identity belongs to another message, or is forged"
        try:
            return _decode(urlsafe_b64decode(claim))
        except (msgspec.MsgspecError, ValueError):
            return "its identity cannot be read"

    def again(self, headers: Headers, body: bytes, new_headers: Headers, new_body: bytes) -> Headers:
        """Return the headers of a message that a person sends again, or has edited, signed anew for whom it was sent at first.

        Whoever may do that holds a key, and answers for it. What was not signed by a key before is not signed now.

        Args:
            headers: The headers as they were.
            body: The body as it was.
            new_headers: The headers as they are now.
            new_body: The body as it is now.
        """
        before = by_name(headers)
        value = before.get(HEADER)
        claim = None if value is None else self._verify(value, before, body)
        if not isinstance(claim, _Claim):
            return new_headers
        signed = self.sign(claim.identity, _message_of(by_name(new_headers)), new_body, None)
        return (*(pair for pair in new_headers if pair[0] != HEADER), signed)


class IdentityReader:
    """Reads the identities of the messages of one module, and counts what it does not trust.

    Args:
        module: The module's name.
        signatures: Checks them.

    Attributes:
        rejected: How many identities were missing, wrong or no longer valid.
    """

    def __init__(self, module: str, signatures: Signatures) -> None:
        self.rejected = 0
        self._module = module
        self._signatures = signatures

    def read(self, headers: Mapping[str, bytes], body: bytes) -> Identity | None:
        """Return for whom a message was sent; None if its sender acts for itself."""
        identity, problem = self._signatures.read(headers, body)
        if problem is not None:
            self.rejected += 1
            name, message_id = (headers.get(key, b"?").decode(errors="replace") for key in ("ce_type", "ce_id"))
            _logger.warning(
                "%s: %s %s is handled as from nobody: %s",
                self._module,
                name,
                message_id,
                problem,
                extra={"fissile_module": self._module, "message_id": message_id},
            )
        return identity


def _name_of(key: str) -> bytes:
    """Return what a key is called in a log; it says nothing about the key."""
    return hmac.digest(key.encode(), b"the name of a key of fissile", "sha256")[:6].hex().encode()


def _message_of(headers: Mapping[str, bytes]) -> tuple[bytes, bytes, bytes]:
    return headers.get("ce_id", b""), headers.get("ce_type", b""), headers.get("fissile-caller", b"")
