"""Who a request is from, as far as the gateway has to tell one from another."""

from __future__ import annotations

from hashlib import blake2b

from fissile_gateway._exchange import Exchange


def principal_of(exchange: Exchange) -> str:
    """Return a name for whoever a request is from; empty for those who do not say who they are.

    It is made of the credentials that were sent, so nothing of them can be read from it.
    """
    credentials = exchange.credentials
    return blake2b(credentials, digest_size=16).hexdigest() if credentials else ""
