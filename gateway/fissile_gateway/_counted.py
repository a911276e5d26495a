"""For whom a request is counted: whose rate it takes from, and whose share is what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fissile_gateway._exchange import Exchange


def address_key(exchange: Exchange) -> str:
    """Return what stands for the address of a request, whoever it is from."""
    return f"address:{exchange.network}"


def client_key(exchange: Exchange) -> str:
    """Return whom a request is counted for: the identity where there is one, else the address.

    The one place that knows what the identity of a request is called.
    """
    identity = exchange.identity
    if identity is None or not identity.is_authenticated:
        return address_key(exchange)
    return "\0".join(("id", identity.kind, identity.tenant or "", identity.subject))


def holder_key(exchange: Exchange) -> str:
    """Return for whom it is counted what a request opens and holds; empty where nothing is known of its client, as behind a Unix socket."""
    identity = exchange.identity
    if exchange.network or (identity is not None and identity.is_authenticated):
        return client_key(exchange)
    return ""
