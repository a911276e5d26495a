"""Who a request is from, as far as the gateway has to tell one from another."""

from __future__ import annotations

from hashlib import blake2b

from fissile_gateway._exchange import Exchange


def principal_of(exchange: Exchange) -> str:
    """Return a name for whoever a request is from; empty for those who do not say who they are.

    Where the gateway knows who asks, it is theirs, whatever they prove it with; elsewhere it is made of the credentials that were sent, so
    nothing of them can be read from it.
    """
    identity = exchange.identity
    if identity is not None:
        if not identity.is_authenticated:
            return ""
        parts = [identity.kind, identity.tenant or "", identity.subject]
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    if exchange.credentials is None:
        return ""
    sent = b"\n".join(b"%s: %s" % field for field in exchange.credentials)
    return blake2b(sent, digest_size=16).hexdigest()
