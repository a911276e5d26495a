"""`/metrics`: what the process measures, for Prometheus.

Names of routes and modules, and how busy they are, are nothing for everybody. So it is open where the gateway listens to its own machine only;
elsewhere it wants a token, or a port of its own (FISSILE_METRICS_PORT) that is not given to the outside.
"""

from __future__ import annotations

from hmac import compare_digest
from ipaddress import ip_address

from quart import Blueprint, Response, request

from fissile import Process
from fissile._metrics_text import can_write, registered, write
from fissile_gateway._operation import operation
from fissile_gateway._problems import Problem, ProblemError
from fissile_gateway._responses import exchange
from fissile_gateway._settings import GatewaySettings

_RESPONSES = {
    "200": {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    **{
        str(status): {"$ref": f"#/components/responses/Problem-{status}"}
        for status in (400, 401, 403, 429, 500, 501, 503)
    },
}


def metrics_page(process: Process, settings: GatewaySettings) -> Blueprint:
    """Make the route."""
    blueprint = Blueprint("metrics", __name__)
    token = settings.metrics_token.encode()
    is_local = _is_loopback(settings.host)

    @operation(media_type="text/plain", openapi={"responses": _RESPONSES})
    async def metrics() -> Response:
        """Get what the process measures, for Prometheus."""
        if token:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not compare_digest(given.strip().encode(), token):
                detail = "Metrics want the token of FISSILE_METRICS_TOKEN: Authorization: Bearer …"
                problem = Problem(401, "unauthorized", detail, headers=(("www-authenticate", "Bearer"),))
                raise ProblemError((_guessed() if given else None) or problem)
        elif not is_local:
            raise ProblemError(
                Problem(
                    403,
                    "metrics-closed",
                    "Metrics are not open here, because the gateway listens to more than its own machine. "
                    "Set FISSILE_METRICS_TOKEN, or serve them on a port of their own: FISSILE_METRICS_PORT.",
                )
            )
        if not can_write():
            raise ProblemError(
                Problem(501, "not-installed", "Install what writes metrics: pip install 'fissile[metrics]'.")
            )
        text, content_type = write((*process.metrics.collect(), *registered()), request.headers.get("Accept", ""))
        return Response(text, 200, {"cache-control": "no-store"}, content_type=content_type)

    blueprint.add_url_rule("/metrics", "metrics", metrics)
    return blueprint


def _guessed() -> Problem | None:
    """Note a wrong token as what it may be, a guess, as a wrong credential of any other route is noted."""
    this = exchange()
    note = this.gateway.on_failed_authentication
    return None if note is None else note(this.asgi)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
