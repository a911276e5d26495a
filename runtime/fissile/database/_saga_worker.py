"""Runs the sagas of a module that have something to go on with: takes them, a bound of them at a time, and keeps what it has taken.

A saga that is due belongs to the process that puts its name into the row, for as long as that is renewed; when the process dies another one
takes it. The worker is woken by what its own process commits, and looks once a second for the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from math import inf

import anyio
import anyio.lowlevel

from fissile._clock import Clock
from fissile._process import Lifespan
from fissile.database._errors import DatabaseUnavailable
from fissile.database._saga_care import clean, retry_stuck, unknown_names
from fissile.database._saga_journal import SagaHost
from fissile.database._saga_rows import (
    SagaRow,
    claim,
    next_due,
    release,
    renew,
)
from fissile.database._saga_run import SagaProgram, run_saga

_logger = logging.getLogger("fissile.sagas")

_POLL_S = 1.0
_CLEAN_S = 60.0
_RENEWALS = 3
"""How often a claim is renewed while it holds."""


class SagaWorker:
    """Runs the sagas of one module in one process.

    Args:
        host: What they run with.
        programs: Their functions, by name.
        owner: What tells this process from others.
        clock: The time.
        running: How many run at a time.
        claim_s: How long a claim holds without being renewed, in seconds.
        retention_s: How long what has ended is kept, in seconds.
    """

    def __init__(
        self,
        host: SagaHost,
        programs: Mapping[str, SagaProgram],
        owner: str,
        clock: Clock,
        *,
        running: int,
        claim_s: float,
        retention_s: float,
    ) -> None:
        self._host = host
        self._programs = programs
        self._owner = owner
        self._clock = clock
        self._free = running
        self._claim_ms = int(claim_s * 1000)
        self._retention_ms = int(retention_s * 1000)
        self._held: list[SagaRow] = []
        self._news = anyio.Event()
        self._cleaned_s = -inf
        self._is_draining = False

    def wake(self) -> None:
        """Tell that something was committed that a saga may go on with, or that there is room for one."""
        self._news.set()

    async def run(self, lifespan: Lifespan) -> None:
        """Run sagas until the process drains and those in hand have come to the end of their step."""
        names = tuple(self._programs)
        self._is_draining = False
        await self._greet(names)
        lifespan.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew)
            tasks.start_soon(self._watch, lifespan)
            async with anyio.create_task_group() as sagas:
                while not self._is_draining:
                    self._news = anyio.Event()
                    try:
                        wait_s = await self._round(sagas, names)
                    except DatabaseUnavailable as error:
                        _logger.warning("%s: sagas wait for the database: %s", self._host.module, error)
                        wait_s = _POLL_S
                    if wait_s > 0.0 and not self._is_draining:
                        await self._wait(wait_s)
            tasks.cancel_scope.cancel()

    async def _watch(self, lifespan: Lifespan) -> None:
        await lifespan.draining()
        self._is_draining = True
        self.wake()

    async def _greet(self, names: tuple[str, ...]) -> None:
        """Let stuck sagas try the program that has just started, and tell of those that it does not know."""
        now_ms = self._host.now_ms()
        await self._host.store.run(lambda connection: retry_stuck(connection, names, now_ms))
        for name in await self._host.store.read(lambda connection: unknown_names(connection, names)):
            _logger.error(
                "%s: there are sagas of the name %r under way, and the program has none. They are kept, and go on when it has one again.",
                self._host.module,
                name,
            )

    async def _round(self, tasks: anyio.abc.TaskGroup, names: tuple[str, ...]) -> float:
        """Take what is due; return how long to wait for more, in seconds."""
        store, now_ms = self._host.store, self._host.now_ms()
        await self._clean(now_ms)
        if self._free == 0:
            return _POLL_S
        is_ready, due_ms = await store.read(lambda connection: next_due(connection, names, now_ms))
        if not is_ready:
            return _POLL_S if due_ms is None else min(_POLL_S, max(0.001, (due_ms - now_ms) / 1000))
        taken = await store.run(
            lambda connection: claim(connection, names, self._owner, self._claim_ms, now_ms, self._free)
        )
        for row in taken:
            self._free -= 1
            self._held.append(row)
            tasks.start_soon(self._run, row)
        return 0.0 if taken else _POLL_S

    async def _run(self, row: SagaRow) -> None:
        try:
            if not await run_saga(self._host, self._programs[row.name], row, lambda: self._is_draining):
                await self._let_go(row)
        except DatabaseUnavailable as error:
            _logger.warning("%s.%s %s waits for the database: %s", self._host.module, row.name, row.saga_id, error)
            await self._clock.sleep(_POLL_S)
            await self._let_go(row)
        except Exception:
            # One saga must not end the others; nothing that its function does comes here.
            _logger.exception("%s.%s %s could not be run", self._host.module, row.name, row.saga_id)
            await self._clock.sleep(_POLL_S)
            await self._let_go(row)
        except BaseException:
            with anyio.move_on_after(1.0, shield=True):
                await self._let_go(row)
            raise
        finally:
            self._held.remove(row)
            self._free += 1
            self.wake()

    async def _let_go(self, row: SagaRow) -> None:
        """Let somebody else go on at once; if that fails, after the claim has run out."""
        try:
            await self._host.store.run(lambda connection: release(connection, row, self._owner))
        except DatabaseUnavailable as error:
            _logger.debug("%s.%s %s was left as it is: %s", self._host.module, row.name, row.saga_id, error)

    async def _renew(self) -> None:
        """Keep what is ours. On the event loop's own clock, as the database's is real too."""
        while True:
            await anyio.sleep(self._claim_ms / 1000 / _RENEWALS)
            names = [(row.name, row.saga_id) for row in self._held]
            if not names:
                continue
            try:
                await self._host.store.run(partial(renew, owner=self._owner, claim_ms=self._claim_ms, names=names))
            except DatabaseUnavailable as error:
                _logger.debug("%s: the claims on sagas were not renewed: %s", self._host.module, error)

    async def _clean(self, now_ms: int) -> None:
        if self._clock.monotonic() - self._cleaned_s < _CLEAN_S:
            return
        before_ms = now_ms - self._retention_ms
        has_more = await self._host.store.run(lambda connection: clean(connection, before_ms))
        if not has_more:
            self._cleaned_s = self._clock.monotonic()

    async def _wait(self, seconds: float) -> None:
        """Wait for news, but not longer than so many seconds of the runtime's clock."""
        if self._news.is_set():
            await anyio.lowlevel.checkpoint()
            return
        async with anyio.create_task_group() as tasks:

            async def until(time_s: float) -> None:
                await self._clock.sleep(time_s)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until, seconds)
            await self._news.wait()
            tasks.cancel_scope.cancel()
