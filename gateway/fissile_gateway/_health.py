"""The probes: `/livez` says that the process answers, `/readyz` that it can do its work."""

from __future__ import annotations

from collections.abc import Collection

from quart import Blueprint, Response, request

from fissile import Check, Process
from fissile_gateway._breaker import Breaker
from fissile_gateway._operation import operation
from fissile_gateway._problems import Problem, ProblemError

_VERBOSE = {
    "name": "verbose",
    "in": "query",
    "description": "Given, whatever its value: one line per check.",
    "schema": {"type": "string"},
}


def health(process: Process, breakers: Collection[Breaker] = ()) -> Blueprint:
    """Make the routes of the probes.

    Args:
        process: Whose health it is.
        breakers: The circuits to tell of. An open one is no reason to take the process out of service: the others work.
    """
    blueprint = Blueprint("health", __name__)

    @operation(media_type="text/plain")
    async def livez() -> Response:
        """Tell that the process answers."""
        return _text("ok", 200)

    @operation(media_type="text/plain", openapi={"parameters": [_VERBOSE]})
    async def readyz() -> Response:
        """Tell whether the process can do its work."""
        checks = process.checks()
        failed = [check for check in checks if check.problem is not None]
        if "verbose" in request.args:
            verdict = "readyz check failed" if failed else "readyz check passed"
            lines = [*map(_line, checks), *map(_circuit, breakers), verdict]
            return _text("\n".join(lines), 503 if failed else 200)
        if failed:
            names = "; ".join(f"{check.name}: {check.problem}" for check in failed)
            problem = Problem(
                503,
                "not-ready",
                f"The process is not ready: {names}.",
                members={"checks": [{"name": check.name, "problem": check.problem} for check in checks]},
                headers=(("retry-after", "1"),),
            )
            raise ProblemError(problem)
        return _text("ok", 200)

    blueprint.add_url_rule("/livez", "livez", livez)
    blueprint.add_url_rule("/readyz", "readyz", readyz)
    return blueprint


def _line(check: Check) -> str:
    return f"[+]{check.name} ok" if check.problem is None else f"[-]{check.name} failed: {check.problem}"


def _circuit(breaker: Breaker) -> str:
    state = breaker.state
    again = f", again in {breaker.retry_s:.0f} s" if state == "open" else ""
    return f"[{'+' if state == 'closed' else '!'}]circuit {breaker.module} {state}{again}"


def _text(text: str, status: int) -> Response:
    return Response(f"{text}\n", status, {"cache-control": "no-store"}, content_type="text/plain; charset=utf-8")
