"""Who reads an open stream or WebSocket, proved again from time to time: it may stay open for days, and a key may be revoked meanwhile."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fissile_gateway._auth import Authenticator
from fissile_gateway._exchange import Exchange, Receive, Send

PROVE_AGAIN_S = 60.0
"""How often it is looked whether the credential of what is open is still good, in seconds. Where it ends by itself, that is seen at once."""

_ENDED = 1008
"""Why a WebSocket is closed whose credential has ended (RFC 6455, 7.4.1): it may not be had any longer."""

_logger = logging.getLogger("fissile.gateway.auth")


async def until_over(authenticator: Authenticator, exchange: Exchange) -> None:
    """Return when it is no longer known who has sent a request; that nothing can be said of that ends nothing."""
    clock = authenticator.clock
    while True:
        left_s = exchange.expires - clock.now().timestamp()
        await clock.sleep(max(0.0, min(left_s, PROVE_AGAIN_S)))
        if exchange.expires <= clock.now().timestamp():
            return
        try:
            if not await authenticator.is_still(exchange):
                return
        except Exception:  # it runs among the listeners of all requests
            _logger.exception("a credential cannot be checked again, and what is open with it ends")
            return


class Held:
    """A WebSocket that ends when it is no longer known who has opened it.

    Args:
        receive: What the server tells.
        send: What is told to the server.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_over = False
        self._receiving: anyio.CancelScope | None = None

    async def receive(self) -> object:
        """Wait for what the server tells; nothing of the client is passed on any more when the credential has ended."""
        if not self._is_over:
            with anyio.CancelScope() as self._receiving:
                return await self._receive()
        return {"type": "websocket.disconnect", "code": _ENDED}

    async def send(self, message: object) -> None:
        """Tell the server something, unless the credential has ended."""
        if not self._is_over:
            await self._send(message)

    @asynccontextmanager
    async def during(self, exchange: Exchange) -> AsyncGenerator[None]:
        """Watch over the credential while the block runs."""
        gateway = exchange.gateway
        if gateway.authenticator is None or exchange.credentials is None:
            yield
            return
        scope = anyio.CancelScope()
        if gateway.listeners is not None:
            gateway.listeners.start_soon(self._watch, gateway.authenticator, exchange, scope)
            try:
                yield
            finally:
                scope.cancel()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, gateway.authenticator, exchange, scope)
                yield
                scope.cancel()

    async def _watch(self, authenticator: Authenticator, exchange: Exchange, scope: anyio.CancelScope) -> None:
        with scope:
            await until_over(authenticator, exchange)
            self._is_over = True
            try:
                await self._send({"type": "websocket.close", "code": _ENDED, "reason": "The credential has ended."})
            except Exception:
                _logger.debug("a WebSocket whose credential has ended cannot be closed", exc_info=True)
            if self._receiving is not None:
                self._receiving.cancel()
