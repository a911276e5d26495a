"""The pool of containers, and an engine that hangs or is gone: on a real engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import Limits, NoSandbox, Outcome, Program, SandboxBusy, _container_run, _engine
from modules.code_executor.sandbox._leases import LABEL, OWNER_LABEL
from modules.code_executor.sandbox.docker import DockerSandbox

from .conftest import MIB, until, until_it_runs
from .engine import Engine
from .gate import Gate

pytestmark = pytest.mark.docker

IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
AT_ONCE = 2
CONTAINER_MORE_BYTES = 48 * MIB
"""What the launcher, the init process and the files of Python that all of them map have beside a program."""
IN_TIME_S = 30.0
"""Far above what any call may take, for a machine that does other things, too; far below a call that hangs."""


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Containers take their time; what depends on the backend is tested elsewhere."""
    return request.param


def names(engine: Engine) -> set[str]:
    """Every container of a sandbox, also of one that is dead."""
    return {container["Names"][0] for container in engine.api.containers(all=True, filters={"label": LABEL})}


def running(engine: Engine) -> set[str]:
    found = engine.api.containers(filters={"label": LABEL, "status": "running"})
    return {container["Names"][0] for container in found}


def resident() -> int:
    """How much memory this process has, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of_containers(engine: Engine) -> int:
    """What all processes of all containers have resident, in bytes, as the kernel says: pages that several share count once for each."""
    found = 0
    for container in engine.api.containers(filters={"label": LABEL}):
        try:
            processes = [int(row[0]) for row in engine.api.top(container["Id"], "-o pid")["Processes"]]
        except Exception:  # noqa: BLE001 - it has ended meanwhile
            continue
        for process in processes:
            try:
                pages = Path(f"/proc/{process}/statm").read_text().split()[1]
            except (OSError, IndexError):
                continue
            found += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return found


@asynccontextmanager
async def open_full(engine: Engine, spare: int, **settings: Any) -> AsyncIterator[tuple[DockerSandbox, set[str]]]:
    """A sandbox whose pool is full, and the names of those in it."""
    async with DockerSandbox(image=engine.image, spare=spare, at_once=AT_ONCE, **settings) as sandbox:
        await sandbox.probe()
        await until(lambda: len(running(engine)) == spare == len(names(engine)), "the pool is full")
        yield sandbox, running(engine)
    assert names(engine) == set()


def states_of_threads(process: int) -> list[str]:
    stats = (path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat"))
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadlines of calls, shortened: what is tested is that there are some."""
    monkeypatch.setattr(_engine, "ASKED_WITHIN_S", 1.0)
    monkeypatch.setattr(_engine, "DONE_WITHIN_S", 3.0)
    monkeypatch.setattr(_container_run, "SOON_S", 0.5)


@contextmanager
def frozen(engine: Engine) -> Iterator[None]:
    if engine.process is None:
        pytest.skip("the engine is not ours to be frozen")
    engine.process.send_signal(signal.SIGSTOP)
    try:
        while any(state != "T" for state in states_of_threads(engine.process.pid)):
            time.sleep(0.01)
        yield
    finally:
        engine.process.send_signal(signal.SIGCONT)


async def test_a_run_uses_up_one_container_of_the_pool_and_the_pool_is_filled_again(engine: Engine) -> None:
    async with open_full(engine, 2) as (sandbox, before):
        result = await sandbox.run(Program("python", "print(1)"))
        assert result.stdout == "1\n"
        await until(lambda: len(running(engine)) == 2 == len(names(engine)), "the pool is full again")
        assert len(before & names(engine)) == 1


async def test_containers_that_nobody_uses_are_replaced_when_they_are_old(engine: Engine) -> None:
    async with open_full(engine, 1, spare_age_s=2.0) as (sandbox, before):
        await until(lambda: not before & names(engine) and running(engine), "another one has taken its place")
        assert (await sandbox.run(Program("python", "print(1)"))).stdout == "1\n"


async def test_a_container_of_the_pool_is_given_the_memory_that_a_run_asks_for(engine: Engine) -> None:
    source = "held = bytearray(100 << 20)\nfor i in range(0, len(held), 4096): held[i] = 1\nprint(len(held))"
    async with open_full(engine, 1) as (sandbox, before):
        small = await sandbox.run(Program("python", source, limits=Limits(memory_bytes=64 * MIB)))
        assert small.outcome is Outcome.MEMORY_LIMIT
        await until(lambda: running(engine) and not before & names(engine), "it was the one of the pool that was used")
        large = await sandbox.run(Program("python", source, limits=Limits(memory_bytes=400 * MIB)))
        assert (large.outcome, large.stdout) == (Outcome.FINISHED, f"{100 << 20}\n")


async def test_a_container_names_its_owner_for_people(engine: Engine) -> None:
    async with open_full(engine, 1):
        container = engine.api.containers(filters={"label": LABEL})[0]
        assert container["Labels"][OWNER_LABEL].endswith(f":{os.getpid()}:{Path.cwd()}")


async def test_many_runs_at_once_stay_within_the_bound_and_leave_nothing_and_one_more_is_refused(
    engine: Engine,
) -> None:
    asked, spare, most = 100 if IS_SOAK else 16, 2, 0
    fenced = Limits(wall_s=60.0, cpu_s=20.0, memory_bytes=64 * MIB)
    largest = {"executor": 0, "containers": 0}
    outcomes: list[Outcome] = []
    async with open_full(engine, spare, waiting=asked - AT_ONCE) as (sandbox, _):

        async def run(number: int) -> None:
            # Each takes a good part of what it may have, and no page of it is shared with another.
            source = f"held = bytes([{number % 256}]) * (32 << 20); print({number})"
            result = await sandbox.run(Program("python", source, limits=fenced))
            assert result.stdout == f"{number}\n"
            outcomes.append(result.outcome)

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(await anyio.to_thread.run_sync(running, engine)))
                largest["executor"] = max(largest["executor"], resident() - before_bytes)
                used = await anyio.to_thread.run_sync(memory_of_containers, engine)
                largest["containers"] = max(largest["containers"], used)

        before_bytes = resident()
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            async with anyio.create_task_group() as runs:
                for number in range(asked):
                    runs.start_soon(run, number)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(SandboxBusy, match=f"{asked - AT_ONCE} runs wait"):
                    await sandbox.run(Program("python", "pass"))
            watching.cancel_scope.cancel()
    assert outcomes == [Outcome.FINISHED] * asked
    assert 0 < most <= 2 * AT_ONCE + spare
    fence_bytes = fenced.memory_bytes + CONTAINER_MORE_BYTES
    print(
        f"{asked} runs at once: at most {most} containers with {largest['containers'] >> 20} MiB, {largest['executor'] >> 20} MiB more here"
    )
    assert 0 < largest["containers"] <= (2 * AT_ONCE + spare) * fence_bytes
    assert largest["executor"] < 64 * MIB  # not a part for each that waits


@pytest.mark.usefixtures("impatient")
async def test_an_engine_that_hangs_is_told_in_time_and_runs_go_on_when_it_does(engine: Engine) -> None:
    async with open_full(engine, 1) as (sandbox, _):
        with frozen(engine):
            for _ in range(3):  # with a container of the pool, without one, and when it is known already
                with anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="engine did not"):
                    await sandbox.run(Program("python", "print(1)"))
        with anyio.fail_after(IN_TIME_S):
            await until_it_runs(sandbox)
        await until(lambda: len(running(engine)) == 1 == len(names(engine)), "what was cut off has been removed")


@pytest.mark.usefixtures("impatient")
async def test_an_engine_that_hangs_in_the_middle_of_a_run_is_not_taken_for_a_slow_program(engine: Engine) -> None:
    started = anyio.Event()
    refused: list[NoSandbox] = []

    async def run(sandbox: DockerSandbox) -> None:
        source = "import time; print('on', flush=True); time.sleep(1); print('off')"
        with pytest.raises(NoSandbox, match="engine did not") as error:
            await sandbox.run(Program("python", source, limits=Limits(wall_s=2.5)), on_output=lambda *_: started.set())
        refused.append(error.value)

    async with open_full(engine, 1) as (sandbox, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, sandbox)
            with anyio.fail_after(IN_TIME_S):
                await started.wait()
            with frozen(engine), anyio.fail_after(IN_TIME_S):
                while not refused:
                    await anyio.sleep(0.05)
        with anyio.fail_after(IN_TIME_S):
            await until_it_runs(sandbox)


@pytest.mark.usefixtures("impatient")
async def test_an_executor_is_closed_in_time_while_its_engine_hangs(engine: Engine) -> None:
    with anyio.fail_after(2 * IN_TIME_S):
        async with DockerSandbox(image=engine.image, spare=1) as sandbox:
            await sandbox.probe()
            await until(lambda: running(engine), "the pool is full")
            stack = frozen(engine)
            stack.__enter__()
        stack.__exit__(None, None, None)
    async with DockerSandbox(image=engine.image, spare=0) as sandbox:
        await sandbox.probe()
        assert names(engine) == set()


async def test_an_engine_that_has_died_is_told_and_runs_go_on_when_it_is_back(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gate(tmp_path / "gate", engine.socket) as gate:
        monkeypatch.setenv("DOCKER_HOST", gate.address)
        async with DockerSandbox(image=engine.image, spare=1) as sandbox:
            await sandbox.probe()
            gate.close()
            with anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="Cure: see whether it runs"):
                await sandbox.run(Program("python", "print(1)"))
            gate.open()
            with anyio.fail_after(IN_TIME_S):
                await until_it_runs(sandbox)
        assert names(engine) == set()


async def test_an_engine_that_is_not_there_yet_is_used_when_it_is(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(tmp_path / "gate", engine.socket)
    monkeypatch.setenv("DOCKER_HOST", gate.address)
    try:
        async with DockerSandbox(image=engine.image, spare=0) as sandbox:
            with pytest.raises(NoSandbox, match="No Docker engine answers"):
                await sandbox.probe()
            gate.open()
            with anyio.fail_after(IN_TIME_S):
                await until_it_runs(sandbox)
    finally:
        gate.close()


async def test_an_engine_that_dies_in_the_middle_of_a_run_is_not_taken_for_a_killed_program(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gate(tmp_path / "gate", engine.socket) as gate:
        monkeypatch.setenv("DOCKER_HOST", gate.address)
        async with DockerSandbox(image=engine.image, spare=0) as sandbox:
            source = "import time; print('on', flush=True); time.sleep(60)"
            with anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="engine did not"):
                await sandbox.run(Program("python", source), on_output=lambda *_: gate.close())
            gate.open()
            with anyio.fail_after(IN_TIME_S):
                await until_it_runs(sandbox)
        assert names(engine) == set()
