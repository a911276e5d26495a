"""What a client is told whose request goes no further than the protection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fissile_gateway._problems import Problem

if TYPE_CHECKING:
    from fissile_gateway._breaker import Breaker


def locked_out(wait_s: float) -> Problem:
    """Return what a client is told whose address has asked too often."""
    seconds = max(1, math.ceil(wait_s))
    detail = f"Too many requests came from this address. Nothing happened; try again in {seconds} s."
    return Problem(429, "too-many-requests", detail, headers=(("retry-after", str(seconds)),))


def failed_too_often(wait_s: float) -> Problem:
    """Return what a client is told from whose address too many have failed to prove who they are."""
    seconds = max(1, math.ceil(wait_s))
    detail = f"Too many have failed to prove from this address who they are. Try again in {seconds} s."
    return Problem(429, "too-many-requests", detail, headers=(("retry-after", str(seconds)),))


def wrong_host(status: int, host: bytes) -> Problem:
    """Return what a client is told that asks for a host that is not served."""
    shown = host.decode("latin-1")
    if status == 400:
        return Problem(400, "invalid-host", f"{shown!r} is no host.")
    return Problem(421, "misdirected-request", f"The host {shown!r} is not served here (FISSILE_ALLOWED_HOSTS).")


def open_circuit(breaker: Breaker) -> Problem:
    """Return what a client is told while a module is left alone."""
    wait_s = max(1, math.ceil(breaker.retry_s))
    detail = (
        f"The module {breaker.module!r} did not answer lately, so it is not called for a while. "
        f"Nothing happened; try again in {wait_s} s."
    )
    return Problem(503, "circuit-open", detail, headers=(("retry-after", str(wait_s)),))
