"""What keeps identities from crossing a log, and scopes from being named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fissile._check.contracts import Catalog
from fissile._errors import Fault
from fissile._identity import KEYS_CURE
from fissile._messages import Request
from fissile._names import place, source_place
from fissile._settings import Settings
from fissile._signatures import key_faults

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749, section 3.3: what a token can grant, and a header of HTTP can name."""


def identity_faults(catalog: Catalog, settings: Settings, *, is_shared: bool) -> tuple[Fault, ...]:
    """Return what keeps the identities of callers from crossing a log.

    Args:
        catalog: The messages of the application.
        settings: The runtime's settings.
        is_shared: Whether processes of several machines can use the log; beside one in a file there is a key.
    """
    faults = (*key_faults(settings.identity_keys), *_scope_faults(catalog))
    required = requiring(catalog)
    if is_shared and required and not settings.identity_keys:
        name = f"{catalog.name_of(required[0])}{f' and {len(required) - 1} more' if len(required) > 1 else ''}"
        what = f"Who may call {name} cannot be told: the bus is shared with other processes, and there is no key to sign identities with."
        faults = (*faults, Fault(what, "FISSILE_IDENTITY_KEYS", KEYS_CURE))
    return faults


def requiring(catalog: Catalog) -> list[type[Request[Any]]]:
    """Return the messages that require a scope."""
    return [
        message
        for contract in catalog.contracts.values()
        for message in (*contract.commands, *contract.queries)
        if message.required_scopes
    ]


def _scope_faults(catalog: Catalog) -> Iterator[Fault]:
    named: list[tuple[str, tuple[str, ...], Callable[[], str]]] = [
        (catalog.name_of(cls), cls.required_scopes, partial(source_place, cls)) for cls in requiring(catalog)
    ]
    named += [(topic.name, topic.required_scopes, partial(place, *topic.place)) for topic in catalog.topics.values()]
    for name, scopes, where in named:
        for scope in scopes:
            if _SCOPE.fullmatch(scope) is None:
                what = f"{name} requires {scope!r}, which is no scope."
                yield Fault(what, where(), 'Write one word such as requires="orders:write", or a tuple of them.')
