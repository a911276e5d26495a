"""Other ASGI applications below paths of the gateway, each with its own startup, shutdown and state (ASGI lifespan)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from fissile_gateway._http_application import ASGIApp, Lifespan

Scope = MutableMapping[str, Any]  # Any, here and below: ASGI's own
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Mounts:
    """The gateway's own routes, and what is mounted beside them.

    Args:
        own: The gateway's routes.
        mounts: Other applications, by the path below which they answer. The longest path that fits is taken.
    """

    def __init__(self, own: ASGIApp, mounts: Mapping[str, ASGIApp]) -> None:
        self.own = own
        self._mounts = sorted(mounts.items(), key=lambda mount: -len(mount[0]))
        self._states: dict[str, dict[str, Any]] = {prefix: {} for prefix in mounts}

    def __bool__(self) -> bool:
        return bool(self._mounts)

    def choose(self, path: str, scope: Scope) -> tuple[ASGIApp, Scope, str | None]:
        """Return the application that answers a path, the scope that it gets, and the path it is mounted at."""
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(f"{prefix}/"):
                inner = {
                    **scope,
                    "root_path": f"{scope.get('root_path', '')}{prefix}",
                    "state": self._states[prefix].copy(),
                }
                return app, inner, prefix
        return self.own, scope, None

    @asynccontextmanager
    async def running(self, state: dict[str, Any]) -> AsyncGenerator[None]:
        """Run the startup of all applications, and the shutdown of those that started, the last one first.

        Args:
            state: What the gateway's own routes share.

        Raises:
            StartupFailed: One could not start; those that did are shut down again.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_running(self.own, "the gateway", state))
            for prefix, app in self._mounts:
                await stack.enter_async_context(_running(app, f"the application at {prefix}", self._states[prefix]))
            yield

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take part in the lifespan of the server, or of the application in which the gateway is mounted."""
        await receive()
        try:
            async with self.running(scope.get("state", {})):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except MountFailed as failed:
            await send({"type": "lifespan.startup.failed", "message": str(failed)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


class MountFailed(RuntimeError):
    """Raised when an application that is mounted cannot start."""


@asynccontextmanager
async def _running(app: ASGIApp, what: str, state: dict[str, Any]) -> AsyncGenerator[None]:
    lifespan = Lifespan(app, state)
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifespan.run)
        await lifespan.startup()
        if lifespan.failure is None:
            try:
                yield
            except Exception as error:  # noqa: BLE001 -- kept as it is: the task group would put it into a group
                failure = error
            await lifespan.shutdown()
        tasks.cancel_scope.cancel()
    if lifespan.failure is not None:
        raise MountFailed(f"{what} cannot start: {lifespan.failure or 'it does not say why'}")
    if failure is not None:
        raise failure
