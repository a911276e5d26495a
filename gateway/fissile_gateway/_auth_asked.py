"""API keys that a module knows: asked for by their SHA-256, and remembered for a moment, so that one that was revoked ends soon."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from attrs import define, field

from fissile import Identity
from fissile._api_keys import KEY
from fissile_gateway._auth import CredentialRefused, KeysUnavailable, Proof
from fissile_gateway._auth_bus import Asked, AskedInVain

if TYPE_CHECKING:
    from fissile import Clock

GOOD_S, BAD_S = 30.0, 3.0
"""How long an answer is remembered, in seconds: that a key is good, and that it is not."""
REMEMBERED = 10_000
"""How many answers are remembered; the oldest are forgotten."""


class _Answer(msgspec.Struct, frozen=True):
    proof: Proof | None
    until: float


class _Asking(msgspec.Struct, eq=False):
    """A question that several requests with the same key wait for."""

    done: anyio.Event = msgspec.field(default_factory=anyio.Event)
    problem: str = ""


@define(eq=False)
class AskedKeys:
    """The API keys of a module.

    Args:
        query: Tells whose a key is.
        clock: The time.
    """

    query: Asked
    clock: Clock
    _answers: OrderedDict[str, _Answer] = field(factory=OrderedDict[str, _Answer], init=False)
    _asking: dict[str, _Asking] = field(factory=dict[str, _Asking], init=False)

    async def prove(self, text: str) -> Proof:
        """Return whose key it is.

        Raises:
            CredentialRefused: It is nobody's, or no longer.
            KeysUnavailable: The module does not answer.
        """
        match = KEY.fullmatch(text)
        if match is None:
            raise CredentialRefused("it is no API key")
        digest = hashlib.sha256(text.encode()).hexdigest()
        answer = self._known(digest)
        while answer is None:
            asking = self._asking.get(digest)
            if asking is None:
                await self._ask(digest)
            else:
                await asking.done.wait()  # unless who asks went away, the answer is there then, or will not come
                if asking.problem:
                    raise KeysUnavailable(asking.problem)
            answer = self._known(digest)
        if answer.proof is None:
            raise CredentialRefused(f"{self.query.name} knows no API key {match['id']}")
        if answer.proof.expires <= self.clock.now().timestamp():
            raise CredentialRefused(f"the API key {match['id']} has expired")
        return answer.proof

    def _known(self, digest: str) -> _Answer | None:
        answer = self._answers.get(digest)
        return None if answer is None or answer.until <= self.clock.monotonic() else answer

    async def _ask(self, digest: str) -> None:
        asking = self._asking[digest] = _Asking()
        try:
            proof = _proof(await self.query.ask(sha256=digest))
        except AskedInVain as error:
            asking.problem = str(error)
            raise KeysUnavailable(asking.problem) from None
        finally:
            del self._asking[digest]
            asking.done.set()
        self.remember(digest, proof)

    def remember(self, digest: str, proof: Proof | None) -> None:
        """Remember what a key proves for a moment; None if it proves nothing."""
        self._answers.pop(digest, None)
        if len(self._answers) >= REMEMBERED:
            self._answers.popitem(last=False)
        self._answers[digest] = _Answer(proof, self.clock.monotonic() + (BAD_S if proof is None else GOOD_S))

    def __len__(self) -> int:
        return len(self._answers)


def _proof(holder: Any) -> Proof | None:  # Any: the reply, whose fields were checked at start
    if holder is None:
        return None
    try:
        tenant: str | None = getattr(holder, "tenant", None)
        identity = Identity(holder.subject, frozenset(holder.scopes), kind="api-key", tenant=tenant)
    except ValueError as error:
        raise CredentialRefused(f"it stands for nobody: {error}") from None
    expires: float | None = holder.expires_at
    return Proof(identity, inf if expires is None else expires)
