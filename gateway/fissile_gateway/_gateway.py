"""The gateway as an ASGI application: what is done around every request, whoever answers it.

It gives the request an id, bounds requests at once and the time of each, adds fields to the answer, and writes the access log. Inside of it
stand all routes (`_derived.py`, Quart), and whatever other ASGI applications are mounted.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.abc import TaskGroup

from fissile import Bus, DeclaredError, Identity
from fissile._cancellation import loop_clock
from fissile._trace import ambient, begin_trace
from fissile_gateway._access_log import AccessLog, status_of
from fissile_gateway._auth import Authenticator, OnFailedAuthentication, made_private
from fissile_gateway._auth_again import Held
from fissile_gateway._counted import holder_key
from fissile_gateway._exchange import EXCHANGE, ASGIApp, Exchange, Fields, Message, Receive, Scope, Send
from fissile_gateway._gatekeeper import PROBES, WAITED, Gatekeeper
from fissile_gateway._mounts import Mounts
from fissile_gateway._problems import (
    CREDENTIAL_REFUSED,
    MEDIA_TYPE,
    Problem,
    ProblemError,
    came_late,
    deadline_exceeded,
    internal_error,
    overloaded,
)
from fissile_gateway._request_metrics import RequestMetrics
from fissile_gateway._settings import GatewaySettings
from fissile_gateway._shares import Shares

if TYPE_CHECKING:
    from fissile_gateway._operations_elsewhere import Siblings
    from fissile_gateway._protection import Protection, Rule  # it imports what the gateway needs when it starts
    from fissile_gateway._spans import RequestSpans

OWN_CREDENTIALS = (*PROBES, "/metrics")
"""Where nobody is who a token of the application's says: what is asked there is for operators."""


ACCEPTED = 101
"""The status of a handshake after which there is a WebSocket."""

CLOSED_BEFORE = 403
"""What a WebSocket is answered that is closed before it was accepted, says ASGI."""

TOO_MANY = 429
"""The status of what one client has or does too much of."""

REFUSED, FAILED = 1008, 1011
"""Why a WebSocket is closed (RFC 6455, 7.4.1): it may not be had, or it failed."""

_logger = logging.getLogger("fissile.gateway")


class Endless(Protocol):
    """An answer that has no end of its own."""

    def end(self) -> None:
        """End it now."""


class Gateway:
    """The gateway of an application, to be served, or mounted in another ASGI application.

    Attributes:
        protection: What decides who is let in.
        gatekeeper: The same for the server, before it has read a request.
        draining: Set when the gateway ends; open streams end with it.
        max_body_bytes: The size that a request's body may have.
        siblings: Answers other workers of the same port, and asks them.
        forget: Takes the gateway's metrics from those of the process, and leaves the store of rate limits, when it ends.
        listeners: Where the tasks run that listen to clients; each request has a group of its own where there is none.
        bus: Calls modules for who does not say who they are.
        anonymous: Who that is; None where nobody looks at who asks.
        authenticator: Tells who asks; None likewise.
        new_scope: Makes a scope of the event loop that runs; `anyio.CancelScope` looks for that each time.
        on_failed_authentication: Is told the ASGI scope of each request whose credential was wrong, or that a module answered with a declared
            error of status 401, such as a wrong password; it may return another answer. Unless told, it counts them, and locks addresses
            out that guess.

    Args:
        routes: The gateway's own routes.
        mounts: Other ASGI applications, by the path below which they answer.
        settings: The bounds.
        new_id: Makes the ids of requests.
        bus: Calls modules.
        authenticator: Tells who asks; None where nobody looks at that.
        finish: Waits until nothing is being done whose client does not wait.
        protection: What decides who is let in.
        deprecated: Fields of answers, by what their paths begin with; see `deprecations`.
        spans: Makes the spans of requests, where a tracer is configured.
    """

    def __init__(
        self,
        routes: ASGIApp,
        mounts: Mapping[str, ASGIApp],
        settings: GatewaySettings,
        new_id: Callable[[], str],
        bus: Bus,
        authenticator: Authenticator | None,
        finish: Callable[[], Coroutine[Any, Any, None]],
        protection: Protection,
        *,
        deprecated: Mapping[str, Fields] | None = None,
        spans: RequestSpans | None = None,
    ) -> None:
        self.routes = routes
        self.protection = protection
        self.gatekeeper = Gatekeeper(protection)
        self.authenticator = authenticator
        self.bus = bus if authenticator is None else authenticator.anonymous_bus
        self.anonymous: Identity | None = None if authenticator is None else authenticator.anonymous
        self.on_failed_authentication: OnFailedAuthentication | None = self._slow_down
        self.draining = anyio.Event()
        self.listeners: TaskGroup | None = None
        self.accepts_traces = settings.accept_traces
        self.metrics = RequestMetrics()
        self._mounts = Mounts(routes, mounts)
        self._deprecated = deprecated or {}
        self._spans = spans
        self._log = AccessLog(settings).write
        self.forget: Callable[[], None] = lambda: None
        self.max_body_bytes = settings.max_body_bytes
        self._new_id = new_id
        self._now = loop_clock()
        self.new_scope: Callable[[], anyio.CancelScope] = type(anyio.CancelScope())
        self.siblings: Siblings | None = None
        self.finish = finish
        self._finish_s = settings.finish_s
        most, of_one, name = settings.streams_at_once, settings.streams_per_client, "FISSILE_STREAMS_PER_CLIENT"
        self._streams: Shares[Endless] = Shares(most, of_one, name, "streams", "event streams are open")
        self._sockets: Shares[Exchange] = Shares(most, of_one, name, "websockets", "WebSockets are open")

    @property
    def requests(self) -> int:
        """How many requests are in progress, streams not counted."""
        return self.protection.requests.running

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return len(self._streams)

    def drain(self) -> None:
        """End all open streams; requests in progress go on."""
        self.draining.set()
        for stream in self._streams:
            stream.end()

    def refuse_stream(self, exchange: Exchange) -> Problem | None:
        """Return why a request may not be answered with a stream: too many are open, of all or of its client."""
        return self._counted(self._streams.refusal(holder_key(exchange)))

    def add_stream(self, stream: Endless, exchange: Exchange) -> None:
        """Note an open stream, which answers a request."""
        self._streams.take(stream, holder_key(exchange))

    def remove_stream(self, stream: Endless) -> None:
        """Forget a stream."""
        self._streams.leave(stream)

    def _counted(self, problem: Problem | None) -> Problem | None:
        if problem is not None and problem.status == TOO_MANY:
            self.protection.limited += 1
        return problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's lifespan."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._mounts.lifespan(scope, receive, send)
        else:
            await self._open_socket(scope, receive, send)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket be opened, or refuse it, and write the access log of that.

        Only hand-written routes and mounted applications have any.
        """
        began = perf_counter()
        path = _path(scope)
        exchange = Exchange(self, scope, path)
        exchange.request_id = exchange.request_id or self._new_id()
        exchange.trace = exchange.trace or begin_trace(self._new_id())
        handshake = {**scope, "method": "GET"}
        self.protection.see(handshake, exchange, path)
        is_told = False

        def tell() -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                status = status_of(exchange)
                self.metrics.count(exchange.route, "GET", status, perf_counter() - began, is_stream=False)
                self._log(handshake, path, exchange, began)

        async def send_on(message: Message) -> None:
            kind = message["type"]
            if kind == "websocket.accept":
                exchange.status = ACCEPTED
                exchange.release()  # as a stream does: it may stay for hours
            elif kind == "websocket.http.response.start":
                exchange.status = message["status"]
                message["headers"] = _with_own(message["headers"], exchange)
            elif kind == "websocket.http.response.body":
                exchange.sent_bytes += len(message.get("body", b""))
            elif kind == "websocket.close":
                exchange.status = exchange.status or CLOSED_BEFORE
                exchange.is_done = True
            await send(message)
            if exchange.status == ACCEPTED or exchange.is_done:
                tell()

        outer_trace = ambient.set(exchange.trace)
        try:
            app, inner, exchange.route = self._mounts.choose(path, scope)
            inner[EXCHANGE] = exchange
            problem = await self._refuse_socket(exchange, handshake, own=app is self.routes)
            if problem is None:
                held = Held(receive, send_on)
                if app is self.routes:
                    async with held.during(exchange):
                        await app(inner, held.receive, held.send)
                else:
                    await app(inner, receive, send_on)
            elif "websocket.http.response" in (scope.get("extensions") or {}):
                await send_problem(problem, exchange, send_on, "websocket.http.response")
            else:
                await send_on(
                    {"type": "websocket.close", "code": REFUSED}
                )  # before it is accepted: an HTTP answer, 403
        finally:
            self._sockets.leave(exchange)
            exchange.release()
            ambient.reset(outer_trace)
            tell()

    async def _refuse_socket(self, exchange: Exchange, scope: Scope, *, own: bool) -> Problem | None:
        """Return why a WebSocket may not be opened; None if it may, and is counted."""
        rule = self.protection.rule(exchange.path)
        refusal = await self._refusal(scope, exchange, exchange.path, rule)
        if isinstance(refusal, Problem):
            return refusal
        if own and exchange.credentials is not None:
            scope[EXCHANGE] = exchange
            problem = await self._authenticate(exchange, scope)
            if problem is not None:
                return problem
        problem = await self.protection.count_client(exchange, rule)
        if problem is None:
            holder = holder_key(exchange)
            problem = self._counted(self._sockets.refusal(holder))
            if problem is None:
                self._sockets.take(exchange, holder)
        return problem

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Gateway]:
        """Run the startup of the gateway's routes and of what is mounted in it, and in the end their shutdown.

        For an application that mounts the gateway and passes no lifespan on, as few do. Streams end when the block does.
        """
        async with self._mounts.running({}):
            try:
                yield self
            finally:
                self.drain()
                with anyio.move_on_after(self._finish_s):
                    await self.finish()
                self.forget()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        path = _path(scope)
        exchange = Exchange(self, scope, path)
        exchange.request_id = exchange.request_id or self._new_id()
        self.protection.see(scope, exchange, path)
        rule = self.protection.rule(path)
        for prefix, fields in self._deprecated.items():
            if path.startswith(prefix):
                exchange.fields += fields
        if self._spans is not None:
            self._spans.begin(exchange, scope, path)
        elif exchange.trace is None:
            exchange.trace = begin_trace(self._new_id())
        outer_trace = ambient.set(exchange.trace)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                self._tell_breaker(exchange)  # not when it is sent: how fast a client reads says nothing of the module
                fields = _with_own(message["headers"], exchange)
                message["headers"] = fields if exchange.identity is self.anonymous else made_private(fields)
            else:
                exchange.sent_bytes += len(message.get("body", b""))
            try:
                await send(message)
            except OSError:
                exchange.is_gone = True
                raise

        try:
            refusal = await self._refusal(scope, exchange, path, rule)
            if refusal is not None:
                await _send_refusal(refusal, exchange, send_on)
                return
            if self.listeners is not None:
                exchange.listeners = self.listeners
                await self._run(scope, receive, send_on, exchange, path, rule)
            else:
                async with anyio.create_task_group() as exchange.listeners:
                    await self._run(scope, receive, send_on, exchange, path, rule)
        finally:
            exchange.release()
            self._tell_breaker(exchange)
            ambient.reset(outer_trace)
            status, duration_s = status_of(exchange), perf_counter() - began
            self.metrics.count(exchange.route, scope["method"], status, duration_s, is_stream=exchange.is_stream)
            self._log(scope, path, exchange, began)
            if self._spans is not None:
                self._spans.end(exchange, scope["method"], status)

    async def _refusal(self, scope: Scope, exchange: Exchange, path: str, rule: Rule) -> Problem | Fields | None:
        """Return why a request is not let in, or the answer to a preflight; None if it has its places."""
        protection = self.protection
        if path in PROBES:
            return None
        if WAITED in scope and protection.waited_too_long(scope[WAITED]):
            return overloaded("Too many requests have come.")
        exchange.max_body_bytes = rule.max_body_bytes
        refusal = protection.refusal(scope, exchange, path)
        if refusal is None and protection.counts_addresses:
            refusal = await protection.count(exchange)
        if refusal is None and protection.has_guessers:
            refusal = protection.guess(exchange.network, scope["method"], path)
        return refusal if refusal is not None else await protection.admit(exchange, rule)

    def _tell_breaker(self, exchange: Exchange) -> None:
        """Tell the circuit how the module has done, once: when its answer begins, or when there will be none."""
        call, exchange.call = exchange.call, None
        if call is not None:
            call.end(self._has_failed(exchange))

    def _has_failed(self, exchange: Exchange) -> bool | None:
        if exchange.is_late and exchange.is_read:
            return True
        if exchange.is_gone or exchange.is_refused or exchange.is_late or not exchange.status:
            return None
        return self.protection.failed(exchange.failure)

    def on_failure(self, scope: Scope, error: Exception) -> Problem | None:
        """Note that a module has refused what somebody proves who they are with, such as a password; return another answer, if there is one."""
        refused = isinstance(error, DeclaredError) and error.status == CREDENTIAL_REFUSED
        return self.on_failed_authentication(scope) if refused and self.on_failed_authentication is not None else None

    def _slow_down(self, scope: Scope) -> Problem | None:
        exchange: Exchange = scope[EXCHANGE]
        return self.protection.on_failed_authentication(exchange.address)

    async def _run(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange, path: str, rule: Rule) -> None:
        app = self.routes
        if self._mounts:
            app, scope, exchange.route = self._mounts.choose(path, scope)
        scope[EXCHANGE] = exchange
        exchange.asgi = scope
        problem: Problem | None = None
        try:
            exchange.scope.deadline = self._now() + rule.timeout_s
            with exchange.scope:
                # A mounted application and /metrics have credentials of their own, and a probe has none.
                if exchange.credentials is not None and app is self.routes and path not in OWN_CREDENTIALS:
                    problem = await self._authenticate(exchange, scope)
                if problem is None and rule.rates and path not in PROBES:
                    problem = await self.protection.count_client(exchange, rule)
                exchange.is_refused = problem is not None
                if problem is None:
                    await app(scope, receive, send)
                exchange.is_done = True
            if not exchange.is_done:
                exchange.is_late = not exchange.is_gone
                problem = deadline_exceeded(rule.timeout_s) if exchange.is_read else came_late(rule.timeout_s)
        except ProblemError as error:
            problem = error.problem
        except Exception as error:
            if exchange.is_gone:
                return
            if exchange.status:
                raise
            problem = internal_error(error)
        finally:
            exchange.done()
        if problem is not None and not exchange.status and not exchange.is_gone:
            await send_problem(problem, exchange, send)

    async def _authenticate(self, exchange: Exchange, scope: Scope) -> Problem | None:
        if self.authenticator is None:
            return None
        problem = await self.authenticator.authenticate(exchange)
        if problem is not None and problem.status == CREDENTIAL_REFUSED and self.on_failed_authentication is not None:
            return self.on_failed_authentication(scope) or problem
        return problem


async def send_problem(problem: Problem, exchange: Exchange, send: Send, kind: str = "http.response") -> None:
    """Answer with a problem, without any framework; `kind` is what ASGI calls the answer."""
    body = problem.document(exchange.request_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode()) for name, value in problem.headers]
    await send({"type": f"{kind}.start", "status": problem.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})


async def _send_refusal(refusal: Problem | Fields, exchange: Exchange, send: Send) -> None:
    if isinstance(refusal, Problem):
        await send_problem(refusal, exchange, send)
        return
    exchange.fields = tuple(field for field in exchange.fields if not field[0].startswith((b"access-control", b"vary")))
    await send({"type": "http.response.start", "status": 204, "headers": [*refusal]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _with_own(headers: Iterable[tuple[bytes, bytes]], exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Add the gateway's fields to an answer; what a route or a mounted application says itself goes before."""
    given = [*headers]
    names = {name for name, _ in given}
    own = [field for field in exchange.fields if field[0] not in names or field[0] == b"vary"]
    return [*given, *own, *exchange.limit_fields, (b"x-request-id", exchange.request_id.encode())]


def _path(scope: Scope) -> str:
    """Return the path below the point where the gateway is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
