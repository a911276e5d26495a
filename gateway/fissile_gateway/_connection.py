"""Quart's side of one HTTP request, on AnyIO for both kinds of event loop.

Quart's own classes are replaced for three reasons. On asyncio the handler runs in a task of its own, which outlives a cancelled server (until Quart
0.23) and does not see the deadline of the scope around the request. On Trio the answer's last message can be cut off. And what a
stream holds open has to be closed where it was opened, once its last byte is sent.
"""

from __future__ import annotations

from typing import Any

import anyio
from quart.asgi import ASGIHTTPConnection
from quart.wrappers import Request

from fissile_gateway._exchange import EXCHANGE, Exchange, Receive, Send


class Connection(ASGIHTTPConnection):
    """Answers one request; when the client goes away, whatever is being done for it is cancelled."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Read the request while answering it."""
        exchange: Exchange = self.scope[EXCHANGE]  # type: ignore[typeddict-item]  # put there by the gateway
        request = self._create_request_from_scope(send)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, request, receive, exchange, tasks.cancel_scope)
            try:
                await self._respond(request, send, exchange)
            except Exception as error:  # noqa: BLE001 -- raised below, out of the group, which would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None and not exchange.is_gone:
            raise failure

    async def _respond(self, request: Request, send: Send, exchange: Exchange) -> None:
        try:
            response = await self.app.handle_request(request)
            await self._send_response(send, response)
        finally:
            if exchange.stack is not None:
                with anyio.CancelScope(shield=True):
                    await exchange.stack.aclose()

    async def _read(self, request: Request, receive: Receive, exchange: Exchange, scope: anyio.CancelScope) -> None:
        body: Any = request.body  # Any: `append` became `put`, which waits, in Quart 0.23
        while True:
            message = await receive()
            if message["type"] == "http.request":
                if hasattr(body, "put"):
                    await body.put(message.get("body", b""))
                else:
                    body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body.set_complete()
            elif message["type"] == "http.disconnect":
                exchange.is_gone = True
                scope.cancel()
                return
