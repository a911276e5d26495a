"""What clients are told of contracts that should no longer be used: `Deprecation` (RFC 9745), `Sunset` (RFC 8594), `Link`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import format_datetime

from fissile import Contract
from fissile_gateway._routes import path_of

Fields = tuple[tuple[bytes, bytes], ...]


def deprecations(contracts: Iterable[Contract]) -> Mapping[str, Fields]:
    """Return the fields of answers, by what the paths of deprecated contracts begin with."""
    found: dict[str, Fields] = {}
    for contract in contracts:
        if contract.deprecated_at is None:
            continue
        fields = [(b"deprecation", b"@%d" % int(contract.deprecated_at.timestamp()))]
        if contract.sunset_at is not None:
            fields.append((b"sunset", format_datetime(contract.sunset_at, usegmt=True).encode()))
        if contract.deprecation_url is not None:
            fields.append((b"link", b'<%s>; rel="deprecation"' % contract.deprecation_url.encode()))
        found[f"{path_of(contract)}/"] = tuple(fields)
    return found
