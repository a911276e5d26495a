"""Faults of a real engine that a door in front of it cannot play: it is killed, and its disk is full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import NoSandbox, Program, SandboxError
from modules.code_executor.sandbox._engine import Engine
from modules.code_executor.sandbox._leases import LABEL
from modules.code_executor.sandbox.docker import DockerSandbox

from .conftest import skip, until, until_it_runs
from .engine import NoEngine, Victim

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

IN_TIME_S = 60.0
"""Far above what any call may take, for a machine that does other things, too; far below a call that hangs."""
DISK_MIB = 256


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: the engine does not know of it."""
    return request.param


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own, in memory. Not below a folder of pytest: the path of a socket must be short."""
    folder = tmp_path_factory.mktemp("engine")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "engine", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        skip("docker", f"no disk can be mounted for an engine: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def victim(disk: Path) -> Iterator[Victim]:
    try:
        with Victim(disk) as engine:
            yield engine
    except NoEngine as error:
        skip("docker", str(error))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Nothing more fits onto the disk."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        yield
    finally:
        filler.unlink()


def names() -> set[str]:
    """Every container of a sandbox that the engine of the environment has."""
    engine = Engine.connect()
    try:
        return {container["Names"][0] for container in engine.containers(LABEL)}
    finally:
        engine.close()


async def test_a_full_disk_of_the_engine_is_told_in_time_and_runs_go_on_when_there_is_room(
    victim: Victim, disk: Path
) -> None:
    with victim.named():
        async with DockerSandbox(image=victim.image, spare=0) as sandbox:
            await until_it_runs(sandbox)
            with full(disk):
                for _ in range(2):
                    with (
                        anyio.fail_after(IN_TIME_S),
                        pytest.raises(SandboxError, match=r"no space left on device\. Cure: "),
                    ):
                        await sandbox.run(Program("python", "print(1)"))
            await until_it_runs(sandbox)
        assert names() == set()


async def test_an_executor_that_starts_while_the_disk_is_full_says_so_and_runs_programs_when_there_is_room(
    victim: Victim, disk: Path
) -> None:
    with victim.named():
        async with DockerSandbox(image=victim.image, spare=1) as sandbox:
            with full(disk), anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="no space left on device"):
                await sandbox.probe()
            await until_it_runs(sandbox)
        assert names() == set()


async def test_an_engine_that_is_killed_in_the_middle_of_a_run_is_told_and_used_again_when_it_is_back(
    victim: Victim,
) -> None:
    with victim.named():
        async with DockerSandbox(image=victim.image, spare=1) as sandbox:
            await until_it_runs(sandbox)
            await until(names, "a container is kept ready")
            source = "import time; print('on', flush=True); time.sleep(600)"
            with anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="engine did not"):
                await sandbox.run(Program("python", source), on_output=lambda *_: victim.kill())
            with anyio.fail_after(IN_TIME_S), pytest.raises(NoSandbox, match="engine did not"):
                await sandbox.run(Program("python", "print(1)"))
            await anyio.to_thread.run_sync(victim.start)
            await until_it_runs(sandbox)
        await until(lambda: not names(), "what the killed engine had is removed")
