"""The first thing that a process does when it starts: it opens the databases of its modules, all of them before anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context

import msgspec

from fissile._bus import Routes
from fissile._check import ModulePlan
from fissile._errors import Fault, StartupFailed
from fissile._isolation import run_isolated
from fissile._storage import OpenStorage, StorageContext


class Opened(msgspec.Struct, frozen=True, eq=False):
    """A module whose database is open, if it has one.

    Attributes:
        plan: What it declares.
        context: What its database and its resources have set.
        routes: Where the messages go that it sends.
        storage: Its database.
    """

    plan: ModulePlan
    context: Context
    routes: Routes
    storage: OpenStorage | None = None


async def open_storages(
    plans: Iterable[ModulePlan], context_of: Callable[[ModulePlan], StorageContext], stack: AsyncExitStack
) -> list[Opened]:
    """Open the databases of all modules.

    Raises:
        StartupFailed: Some of them cannot be used as they are; what each lacks is told.
        Exception: What keeps one from being opened now.
    """
    opened: list[Opened] = []
    faults: list[Fault] = []
    for plan in plans:
        context, storage_context = Context(), context_of(plan)
        storage: OpenStorage | None = None
        if plan.module.database is not None:
            own = AsyncExitStack()
            stack.push_async_callback(close_in, context, own)
            manager: AbstractAsyncContextManager[OpenStorage] = plan.module.database.open(storage_context)
            try:
                storage = await run_isolated(context, own.enter_async_context(manager))
            except StartupFailed as failed:
                faults += failed.faults
                continue
            except Exception:
                if faults:  # a person has to see to these anyway
                    break
                raise
        opened.append(Opened(plan, context, storage_context.routes, storage))
    if faults:
        raise StartupFailed(tuple(faults))
    return opened


async def close_in(context: Context, stack: AsyncExitStack) -> None:
    """Close what was opened in a context of a module's own, in the same one."""
    await run_isolated(context, stack.aclose())
