"""Puts the gateway together: Quart with the derived routes, the probes and the application's own routes."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from itertools import chain
from typing import Any, cast

import sniffio
from quart import Quart, Response, has_request_context, request, websocket
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing.exceptions import WebsocketMismatch

from fissile import Bus, Clock, Ids, Process, Topic
from fissile_gateway._auth import authenticator_of
from fissile_gateway._breaker import Breaker
from fissile_gateway._commands import Commands, operations_routes
from fissile_gateway._connection import Connection
from fissile_gateway._context import EXTENSION, Context
from fissile_gateway._deprecation import deprecations
from fissile_gateway._derived import Derived
from fissile_gateway._documents.routes import documents
from fissile_gateway._exchange import Scope
from fissile_gateway._gateway import ACCEPTED, FAILED, REFUSED, Gateway
from fissile_gateway._health import health
from fissile_gateway._metrics_page import metrics_page
from fissile_gateway._operation import operation_of
from fissile_gateway._operations import Operations
from fissile_gateway._operations_elsewhere import Siblings
from fissile_gateway._pages import Pages, find_pages
from fissile_gateway._problems import MEDIA_TYPE, Problem, kebab_case, problem_of
from fissile_gateway._protection import Protection
from fissile_gateway._protection_metrics import of_protection
from fissile_gateway._protection_settings import ProtectionSettings
from fissile_gateway._repeats import Repeats
from fissile_gateway._responses import exchange, in_quart
from fissile_gateway._routes import derive, nearby
from fissile_gateway._settings import GatewaySettings
from fissile_gateway._spans import request_spans
from fissile_gateway._stream import Streams
from fissile_gateway._twin import Twins
from fissile_gateway._views import message_view, topic_view

FORM_PARTS, FORM_FIELD_BYTES = 100, 500_000
"""How many parts a form may have (multipart/form-data) that a hand-written route reads, and how large one that is no file may be, in bytes."""


def build(
    bus: Bus,
    process: Process,
    settings: GatewaySettings,
    protection_settings: ProtectionSettings,
    ids: Ids,
    clock: Clock,
) -> Gateway:
    """Build the gateway for the event loop that runs.

    Args:
        bus: What the routes call.
        process: Tells the contracts, and whether the process is ready.
        settings: The bounds.
        protection_settings: What it defends itself with.
        ids: Makes the ids of requests.
        clock: The time by which credentials end, answers are forgotten, and requests are counted.

    Raises:
        StartupFailed: The application's own routes cannot be imported, the keys of credentials cannot be read, or a limit cannot be used.
    """
    authenticator = authenticator_of(bus, process.contracts, settings, clock)
    pages = find_pages(settings.routes)
    routes = derive(process.contracts)
    protection = Protection(
        protection_settings,
        routes,
        requests_at_once=settings.requests_at_once,
        request_timeout_s=settings.request_timeout_s,
        max_body_bytes=settings.max_body_bytes,
        clock=clock.monotonic,
        tells_who_asks=authenticator is not None,
    )
    quart = _quart()
    quart.asgi_http_class = Connection
    quart.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    quart.config["MAX_FORM_PARTS"], quart.config["MAX_FORM_MEMORY_SIZE"] = FORM_PARTS, FORM_FIELD_BYTES
    quart.config["BODY_TIMEOUT"] = None  # the time of the whole request is bounded
    quart.url_map.merge_slashes = False  # a path is right or wrong; a redirect would lose a command's body
    twins = Twins(protection_settings.max_json_depth)
    streams = Streams(bus, settings)
    quart.extensions[EXTENSION] = Context(bus, process, routes, twins, streams)
    operations = Operations(settings, clock.monotonic)
    siblings = Siblings(operations, settings.workers_folder)
    commands = Commands(None if authenticator else bus, Repeats(settings, clock.monotonic), operations, twins)
    derived = Derived(quart)
    for route in routes:
        endpoint = route.name.replace(".", "/")  # a dot would mean a blueprint
        if isinstance(route.target, Topic):
            quart.add_url_rule(route.path, endpoint, topic_view(route.target, streams), methods=[route.method])
            continue
        view = message_view(route, None if authenticator else bus, commands, twins)
        quart.add_url_rule(route.path, endpoint, in_quart(view), methods=[route.method])
        derived.add(route, view, endpoint)
    add_other_routes(quart, process, settings, pages, siblings, protection.breakers.values())

    protection.check_paths({rule.rule for rule in quart.url_map.iter_rules()})
    for rule in quart.url_map.iter_rules():
        protection.add_route(rule.rule, rule.methods or (), operation_of(quart.view_functions[rule.endpoint]).raises)

    def response_to(error: Exception) -> Response:
        this = exchange()
        this.failure = error
        asked = request if has_request_context() else websocket
        other = this.gateway.on_failure(cast("Scope", asked.scope), error)
        if other is not None:
            return _answer(other)
        if isinstance(error, HTTPException):
            if isinstance(error.response, Response):
                return error.response
            return _answer(_of_http(error, nearby(asked.path, routes)))
        return _answer(problem_of(error))

    async def on_error(error: Exception) -> Response:
        response = response_to(error)
        if exchange().status == ACCEPTED and not exchange().is_done:  # Quart would say that all is well
            await websocket.close(FAILED if response.status_code >= 500 else REFUSED)
        return response

    quart.register_error_handler(Exception, on_error)
    gateway = Gateway(
        derived,
        pages.mounts,
        settings,
        ids.new,
        bus,
        authenticator,
        operations.finish,
        protection,
        deprecated=deprecations(process.contracts),
        spans=request_spans(),
    )
    forget_metrics = process.metrics.add(lambda: chain(gateway.metrics.metrics(gateway), of_protection(protection)))

    def forget() -> None:
        forget_metrics()
        protection.rates.close()

    gateway.forget = forget
    gateway.siblings = siblings
    return gateway


def add_other_routes(
    quart: Quart,
    process: Process,
    settings: GatewaySettings,
    pages: Pages,
    operations: Siblings,
    breakers: Collection[Breaker] = (),
) -> None:
    """Add the routes that are in no contract: the probes, the application's own, the documents.

    Args:
        quart: Where to.
        process: What the routes tell of.
        settings: Say whether there are documents.
        pages: The application's own.
        operations: The commands that nobody waits for.
        breakers: The circuits that a probe tells of.
    """
    quart.register_blueprint(health(process, breakers))
    quart.register_blueprint(operations_routes(operations))
    quart.register_blueprint(metrics_page(process, settings))
    for blueprint in pages.blueprints:
        quart.register_blueprint(blueprint)
    if settings.api_documents:
        quart.register_blueprint(documents(quart, process, settings, pages.mounts))


def _quart() -> Quart:
    if sniffio.current_async_library() == "trio":
        from quart_trio import QuartTrio

        return QuartTrio(__name__, static_folder=None)
    return Quart(__name__, static_folder=None)


def _answer(problem: Problem) -> Response:
    headers = dict(problem.headers)
    if not has_request_context() or request.method != "POST":  # the gateway says so of all answers to commands
        headers["cache-control"] = "no-store"
    return Response(problem.document(exchange().request_id), problem.status, headers, content_type=MEDIA_TYPE)


def _of_http(error: HTTPException, near: str) -> Problem:
    """Return the problem of an error that Quart, or a hand-written route, raised as an HTTP status."""
    status = error.code or 500
    name = kebab_case(type(error).__name__)
    detail = error.description or HTTPStatus(status).phrase
    headers: list[tuple[str, Any]] = [
        (key, value) for key, value in error.get_headers() if key.lower() != "content-type"
    ]
    if isinstance(error, WebsocketMismatch):
        if has_request_context():
            detail = "Here is a WebSocket only; a client opens it with `Upgrade: websocket`."
        else:
            status, name, detail = 404, "not-found", f"There is no WebSocket at {websocket.path}."
    elif isinstance(error, NotFound):
        detail = near if error.description == NotFound.description else detail
    elif isinstance(error, MethodNotAllowed):
        allowed = " or ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        detail = f"{request.method} is not possible here; {allowed} is."
    elif isinstance(error, RequestEntityTooLarge):
        name, detail = "body-too-large", f"The body is larger than {request.max_content_length} bytes."
        size = exchange().length
        if request.mimetype == "multipart/form-data" and (size is None or size <= (request.max_content_length or 0)):
            too_large = "" if size is not None else f" It may have {request.max_content_length} bytes in all."
            detail = (
                f"A form may have {FORM_PARTS} parts, and {FORM_FIELD_BYTES} bytes in each that is no file.{too_large}"
            )
    return Problem(status, name, detail, headers=tuple(headers))
