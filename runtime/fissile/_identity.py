"""Who asks: an identity, with the scopes that a contract may require.

A call from outside of all modules may say for whom it is made (`bus.acting_as`). From there on the identity goes with everything that is
done about it: calls, commands that nobody waits for, events. Where there is none, a module acts for itself, and modules trust each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from fissile._errors import CallRefused, Forbidden, Unauthenticated

if TYPE_CHECKING:
    from fissile._bus import Queries

SUBJECT_LIMIT = 256
SCOPES_LIMIT = 4096
"""How long a subject, and all scopes together, may be, in characters: an identity travels with each message."""

_NOBODY = ("anonymous", "unsigned")


class Identity(msgspec.Struct, frozen=True):
    """Who asks, and what they may do.

    Attributes:
        subject: Who it is, such as the `sub` of a token; empty where that is not known.
        scopes: What they may do, as contracts name it in `requires`.
        kind: How they were recognised: `user`, `api-key`, or `anonymous` where nobody said who they are. `unsigned` stands for who sent a
            record whose identity cannot be trusted.
        tenant: On whose behalf, where an application tells its customers apart.

    Raises:
        ValueError: It is too long, or a scope is empty or has a space in it.
    """

    subject: str
    scopes: frozenset[str] = frozenset()
    kind: str = "user"
    tenant: str | None = None

    def __post_init__(self) -> None:
        if max(len(self.subject), len(self.kind), len(self.tenant or "")) > SUBJECT_LIMIT:
            raise ValueError(f"an identity's subject, kind and tenant may have {SUBJECT_LIMIT} characters each")
        if sum(map(len, self.scopes)) + len(self.scopes) > SCOPES_LIMIT:
            raise ValueError(f"an identity's scopes may have {SCOPES_LIMIT} characters together")
        for scope in self.scopes:
            if not scope or any(character.isspace() for character in scope):
                raise ValueError(f"{scope!r} is no scope: it has to have characters, and no spaces")

    @property
    def is_authenticated(self) -> bool:
        """Whether it is known who it is."""
        return self.kind not in _NOBODY

    def lacks(self, required: tuple[str, ...]) -> tuple[str, ...]:
        """Return the scopes that are missing of those required."""
        return tuple(scope for scope in required if scope not in self.scopes)


ANONYMOUS = Identity("", kind="anonymous")
"""Who has not said who they are."""

UNSIGNED = Identity("", kind="unsigned")
"""Who sent a record whose identity is missing, wrong or no longer valid."""

ITSELF = Identity("", kind="module")
"""What a bus holds whose module acts for itself although it handles a message that has an identity; nobody gets to see it."""


def identity_of(bus: Queries) -> Identity | None:
    """Return for whom a bus calls; None where a module, or code outside of all modules, acts for itself."""
    here: Queries | None = bus
    while here is not None:
        identity = here._identity
        if identity is not None:
            return None if identity is ITSELF else identity
        here = here._parent
    return None


class NotAllowed(Exception):
    """Raised in the place of a handler that is not run, and turned into what its caller gets."""

    def __init__(self, error: Forbidden) -> None:
        super().__init__(str(error))
        self.error = error


def require(identity: Identity | None, required: tuple[str, ...], what: str) -> None:
    """Refuse who lacks a scope. A module that acts for itself is let through.

    Args:
        identity: Who asks.
        required: The scopes to have, all of them.
        what: What is refused, such as `orders.place-order was not done`.

    Raises:
        Unauthenticated: It is not known who asks.
        Forbidden: A scope is missing.
    """
    if identity is None:
        return
    missing = identity.lacks(required)
    if missing:
        raise (Forbidden if identity.is_authenticated else Unauthenticated)(what, missing)


def guarded(
    name: str, required: tuple[str, ...], call: Callable[[Any, Queries], Awaitable[Any]]
) -> Callable[[Any, Queries], Any]:
    """Return what runs a handler only for who has the scopes. Any: a message, and the coroutine of its handler.

    It stands around all else that is done about a message: who may not have a command done may not learn either what it came to before.
    """
    what = f"{name} was not done"

    def check(message: Any, bus: Queries) -> Any:
        try:
            require(identity_of(bus), required, what)
        except Forbidden as error:
            raise NotAllowed(error) from None
        return call(message, bus)

    return check


def acting(identity: Identity | None, *, can_sign: bool, who: str) -> Identity:
    """Return what a bus holds that acts for somebody.

    Args:
        identity: For whom; None for the module itself.
        can_sign: Whether an identity can go with what is sent.
        who: Whose bus it is.

    Raises:
        CallRefused: It cannot: other processes would not know of it.
    """
    if identity is None:
        return ITSELF
    if not can_sign:
        raise CallRefused(
            f"{who} cannot act for {identity.subject or identity.kind!r}: the bus is shared with other processes, which would not learn "
            f"for whom. {KEYS_CURE}"
        )
    return identity


KEYS_CURE = (
    "Set FISSILE_IDENTITY_KEYS, the same for all processes, to a secret of 32 characters or more, such as one made by "
    "`openssl rand -base64 32`."
)
