"""The same test in every placement: in one process, in one process through the log, in several processes over a broker."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal
from uuid import uuid4

import anyio
import anyio.abc
import attrs
import msgspec
from anyio.streams.text import TextReceiveStream

from fissile._app import App
from fissile._bus import Bus
from fissile._module import Module
from fissile._settings import Settings

Placement = Literal["local", "loopback", "split"]

PLACEMENTS: tuple[Placement, ...] = ("local", "loopback", "split")

Overrides = Mapping[Any, Any]
"""Resources and settings by their type. Any: of whatever types the modules name."""

START_S = 120.0  # of processes that share a busy machine with each other
STOP_S = 20.0


@asynccontextmanager
async def placed(
    placement: Placement,
    modules: Sequence[Module],
    *,
    broker: str | None = None,
    settings: Settings | None = None,
    overrides: Overrides | Callable[[], Overrides] | None = None,
    replicas: int = 1,
) -> AsyncGenerator[Bus]:
    """Run modules in a placement, and call them from outside of all of them.

    `local` is one process. `loopback` is one process whose calls go through the log, and whose deliveries are repeated where the module
    says that it bears that. `split` is one process per module and replica, over a broker.

    Args:
        placement: Which.
        modules: The modules. For `split` each is a name of an importable file.
        broker: The bus of `split`, such as `kafka://localhost:29092`.
        settings: The runtime's settings. Without a `kafka_prefix` among them `split` makes one up, so that nobody else on the broker, and no
            earlier test, has the same topics and groups.
        overrides: Resources and settings to use instead of the modules' own, by their type; or a function that returns them. For `split`
            it is a function of an importable file, and each process calls it.
        replicas: How many processes host each module in `split`.

    Raises:
        ValueError: `split` lacks a broker, or was given something that another process cannot import.
    """
    settings = settings or Settings()
    if placement != "split":
        if callable(overrides):
            overrides = overrides()
        loopback = placement == "loopback"
        app = App(modules, settings=settings, overrides=overrides, is_loopback=loopback, repeats=loopback, is_dev=True)
        async with app:
            yield app.bus
        return
    if broker is None:
        raise ValueError("the placement 'split' needs a broker: its modules are in other processes")
    made = None if not overrides else function_path(overrides)
    settings = attrs.evolve(
        settings,
        bus=broker,
        kafka_prefix=settings.kafka_prefix or f"test-{uuid4().hex[:12]}.",
        # As `fissile dev --split` does: the processes of this test trust each other.
        identity_keys=settings.identity_keys or (secrets.token_urlsafe(32),),
    )
    async with AsyncExitStack() as stack:
        paths = [import_path(module) for module in modules]
        async with anyio.create_task_group() as starting:
            for path in paths:
                others = [other for other in paths if other != path]
                for _ in range(replicas):
                    starting.start_soon(_start, stack, path, others, settings, made)
        client = App([], contracts=[module.contract for module in modules], settings=settings, process="test")
        yield (await stack.enter_async_context(client)).bus


async def _start(
    stack: AsyncExitStack, path: str, others: Sequence[str], settings: Settings, overrides: str | None
) -> None:
    task = {"host": path, "others": others, "settings": settings, "path": sys.path, "overrides": overrides}
    given = msgspec.json.encode(task)
    process = await anyio.open_process([sys.executable, "-m", "fissile.testing._host"], stderr=None)
    stack.push_async_callback(_stop, process)
    assert process.stdout is not None
    assert process.stdin is not None
    # Not as an argument: settings may hold secrets, and arguments are there for everyone to read.
    await process.stdin.send(given)
    await process.stdin.aclose()
    with anyio.fail_after(START_S):
        async for text in TextReceiveStream(process.stdout):
            if "ready" in text:
                return
    raise RuntimeError(f"the process of {path} ended with {await process.wait()} before it was ready; its log is above")


async def _stop(process: anyio.abc.Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()


def import_path(module: Module) -> str:
    """Return where a module can be imported from, as `package.file:name`.

    Raises:
        ValueError: It is not at the level of an importable file.
    """
    candidates = [module.contract.import_name, *sys.modules]
    for name in candidates:
        python_module = sys.modules.get(name)
        if python_module is None or name == "__main__":
            continue
        for attribute, value in list(vars(python_module).items()):
            if value is module:
                return f"{name}:{attribute}"
    raise ValueError(
        f"the module {module.name!r} cannot be imported by another process; define it at the level of a file"
    )


def function_path(overrides: Overrides | Callable[[], Overrides]) -> str:
    """Return where the function that makes overrides can be imported from, as `package.file:name`.

    Raises:
        ValueError: It is no function at the level of an importable file.
    """
    name, attribute = getattr(overrides, "__module__", "__main__"), getattr(overrides, "__name__", "?")
    if callable(overrides) and name != "__main__" and getattr(sys.modules.get(name), attribute, None) is overrides:
        return f"{name}:{attribute}"
    raise ValueError(
        "the overrides of the placement 'split' cannot be made in another process; give a function that returns them, "
        "defined at the level of a file"
    )
