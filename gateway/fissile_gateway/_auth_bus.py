"""Keys and API keys that a module of the application has: which queries tell of them, checked at start, and asked for by the gateway itself.

The gateway knows no module: the settings name the queries, and what their messages and replies have to look like is said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import anyio
import attrs
import msgspec
from attrs import NOTHING

from fissile import Bus, Contract, DeclaredError, Fault, FissileError, Query, StartupFailed
from fissile._messages import fields_of, reply_type

BUS = "bus:"
"""What a place begins with that is a query and neither a file nor a URL."""

KEYS_SETTING, API_KEYS_SETTING = "FISSILE_JWT_JWKS", "FISSILE_API_KEYS_QUERY"

_PATIENCE_S = 5.0
"""How long a module may take to answer, in seconds."""

KEYS_SHAPE = "a query without required fields whose reply is text, Query[str]: the JWK set of the public keys (RFC 7517), as JSON"
API_KEYS_SHAPE = (
    "a query with the one required field sha256: str, whose reply is None or a class with subject: str, scopes: tuple[str, ...] "
    "and expires_at: float | None; also tenant: str | None, where there are tenants"
)


class AskedInVain(Exception):
    """Raised when a module did not answer a query of the gateway's. Its text is for the log."""


class Asked(msgspec.Struct, frozen=True):
    """A query that the gateway asks by itself, acting for nobody else.

    Attributes:
        bus: The bus of the gateway.
        name: The name of the query, such as `accounts.get-signing-keys`.
        message: Its class.
    """

    bus: Bus
    name: str
    message: type[Query[Any]]  # Any: what it replies was checked at start

    async def ask(self, **fields: str) -> Any:  # Any: the same
        """Ask the module.

        Raises:
            AskedInVain: It did not answer, or answered with an error.
        """
        try:
            with anyio.fail_after(_PATIENCE_S):
                return await self.bus.ask(self.message(**fields))
        except TimeoutError:
            raise AskedInVain(f"{self.name} was not answered within {_PATIENCE_S:g} s") from None
        except (FissileError, DeclaredError) as error:
            raise AskedInVain(f"{self.name} was answered with {type(error).__name__}") from None


def keys_query(bus: Bus, contracts: Iterable[Contract], name: str) -> Asked:
    """Return the query that tells the keys of tokens.

    Raises:
        StartupFailed: There is none of that name, or it is not of that kind.
    """
    message = _find(contracts, name, KEYS_SETTING, KEYS_SHAPE)
    if _required(message) or reply_type(message) is not str:
        raise _wrong(name, KEYS_SETTING, KEYS_SHAPE)
    return Asked(bus, name, message)


def api_keys_query(bus: Bus, contracts: Iterable[Contract], name: str) -> Asked:
    """Return the query that tells whose an API key is.

    Raises:
        StartupFailed: There is none of that name, or it is not of that kind.
    """
    message = _find(contracts, name, API_KEYS_SETTING, API_KEYS_SHAPE)
    if _required(message) != ["sha256"] or not _is_holder(_besides_none(reply_type(message))):
        raise _wrong(name, API_KEYS_SETTING, API_KEYS_SHAPE)
    return Asked(bus, name, message)


def _find(contracts: Iterable[Contract], name: str, setting: str, shape: str) -> type[Query[Any]]:
    known: dict[str, type[Query[Any]]] = {
        contract.name_of(query): query for contract in contracts for query in contract.queries
    }
    if name not in known:
        fitting = [each for each in known if _fits(known[each], setting)]
        one_of = f" Here it may be {' or '.join(sorted(fitting))}." if fitting else ""
        cure = f"Name {shape}.{one_of} Or leave the setting out."
        raise StartupFailed((Fault(f"No module of this application has a query {name!r}.", setting, cure),))
    return known[name]


def _fits(message: type[Query[Any]], setting: str) -> bool:
    if setting == KEYS_SETTING:
        return not _required(message) and reply_type(message) is str
    return _required(message) == ["sha256"] and _is_holder(_besides_none(reply_type(message)))


def _wrong(name: str, setting: str, shape: str) -> StartupFailed:
    what = f"{name} does not tell what the gateway asks for."
    return StartupFailed((Fault(what, setting, f"Name {shape}."),))


def _required(message: type[Query[Any]]) -> list[str]:
    return [field.name for field in fields_of(message) if field.default is NOTHING]


def _besides_none(reply: Any) -> Any:  # Any: type expressions
    """Return `X` for `X | None`; None for what is not of that kind."""
    if get_origin(reply) not in (Union, UnionType):
        return None
    others = [each for each in get_args(reply) if each is not NoneType]
    return others[0] if len(others) == 1 else None


_HOLDER: dict[str, tuple[Any, ...]] = {  # Any: type expressions
    "subject": (str,),
    "scopes": (tuple[str, ...], frozenset[str]),
    "expires_at": (float | None,),
}


def _is_holder(cls: Any) -> bool:  # Any: whatever a contract names
    if not attrs.has(cls):
        return False
    hints = get_type_hints(cls)
    return all(hints.get(name) in allowed for name, allowed in _HOLDER.items()) and hints.get("tenant", str | None) in (
        str,
        str | None,
    )
