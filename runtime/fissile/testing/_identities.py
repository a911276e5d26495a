"""Somebody for a test to act as."""

from __future__ import annotations

from fissile._identity import Identity


def user(subject: str = "somebody", *scopes: str, tenant: str | None = None) -> Identity:
    """Make an identity for a test: `await bus.acting_as(user("alice", "orders:write")).execute(PlaceOrder("sku"))`.

    Args:
        subject: Who it is.
        scopes: What they may do.
        tenant: On whose behalf.
    """
    return Identity(subject, frozenset(scopes), tenant=tenant)
