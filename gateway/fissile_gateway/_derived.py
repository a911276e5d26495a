"""The routes of commands and queries, answered without a framework.

Quart knows them as well: it answers who asks with another method, and has the bodies that are too large to be read before anything else.
But where nothing of the application stands around all routes, a framework has nothing to do for a small request: its path names the view,
which takes it as the gateway has read it, and gives an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart import Quart
from quart.signals import (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_finished,
    request_started,
    request_tearing_down,
)

from fissile_gateway._answers import Answer, View
from fissile_gateway._connection import attend, is_small, read_whole
from fissile_gateway._exchange import EXCHANGE, ASGIApp, Exchange, Receive, Scope, Send
from fissile_gateway._problems import MEDIA_TYPE, problem_of

if TYPE_CHECKING:
    from fissile_gateway._routes import Route

_SIGNALS = (
    appcontext_popped,
    appcontext_pushed,
    appcontext_tearing_down,
    request_finished,
    request_started,
    request_tearing_down,
)


class Derived:
    """An ASGI application: Quart, with the derived routes before it.

    Args:
        quart: All routes, those as well; with nothing of the application's own in it yet.
    """

    def __init__(self, quart: Quart) -> None:
        self._quart = quart
        self._app = cast("ASGIApp", quart)
        self._views: dict[tuple[str, str], tuple[View, Route]] = {}
        self._endpoints: dict[str, object] = {}
        self._replaced = _replaced(quart)
        self._is_alone: bool | None = None

    def add(self, route: Route, view: View, endpoint: str) -> None:
        """Add a route that Quart has too.

        Args:
            route: The route.
            view: What answers it.
            endpoint: What Quart calls it.
        """
        self._views[route.method, route.path] = (view, route)
        if route.method == "GET":
            self._views["HEAD", route.path] = (view, route)
        self._endpoints[endpoint] = self._quart.view_functions[endpoint]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or leave it to Quart."""
        if scope["type"] == "http":
            exchange: Exchange = scope[EXCHANGE]
            found = self._views.get((scope["method"], exchange.path))
            if found is not None and is_small(exchange) and self._stand_alone():
                view, route = found
                exchange.route = route.path
                if await read_whole(receive, exchange):
                    await attend(
                        _respond(view, exchange, send, no_store=route.kind == "query"), scope, receive, exchange
                    )
                return
        await self._app(scope, receive, send)

    def _stand_alone(self) -> bool:
        """Tell whether nothing of the application is to be run for each request, whatever its route."""
        if self._is_alone is None:  # at the first request: what stands around all routes is put there before
            self._is_alone = self._has_nothing_around()
        return self._is_alone and not any(signal.receivers for signal in _SIGNALS)

    def _has_nothing_around(self) -> bool:
        quart = self._quart
        hooks = (
            quart.before_request_funcs,
            quart.after_request_funcs,
            quart.teardown_request_funcs,
            quart.url_value_preprocessors,
        )
        handlers = quart.error_handler_spec.get(None, {})
        return not (
            any(functions.get(None) for functions in hooks)
            or quart.teardown_appcontext_funcs
            or sum(len(by_class) for by_class in handlers.values()) > 1  # the gateway's own
            or quart.secret_key is not None  # then each answer may prolong a session
            or _replaced(quart) != self._replaced
            or any(quart.view_functions[endpoint] is not view for endpoint, view in self._endpoints.items())
        )


def _replaced(quart: Quart) -> dict[str, object]:
    """Return what an object of Quart has of its own in the place of what its class has: `asgi_app`, for who wraps it."""
    return {name: value for name, value in vars(quart).items() if hasattr(type(quart), name)}


async def _respond(view: View, exchange: Exchange, send: Send, *, no_store: bool) -> None:
    try:
        answer = await view(exchange)
    except Exception as error:  # noqa: BLE001 -- every error has an answer
        exchange.failure = error
        problem = exchange.gateway.on_failure(exchange.asgi, error) or problem_of(error)
        headers = dict(problem.headers)
        if no_store:  # the gateway says so of all answers to commands
            headers["cache-control"] = "no-store"
        answer = Answer(problem.status, problem.document(exchange.request_id), MEDIA_TYPE, tuple(headers.items()))
    fields: list[tuple[bytes, bytes]] = []
    if answer.media_type is not None:  # of nothing neither type nor length is told (RFC 9110, 8.6)
        fields = [(b"content-type", answer.media_type.encode()), (b"content-length", b"%d" % len(answer.body))]
    fields += [(name.encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": fields})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
