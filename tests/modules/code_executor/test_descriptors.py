"""A process that has thousands of descriptors open, as one with a gateway in it has, runs programs as any other."""

from __future__ import annotations

import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from modules.code_executor.sandbox import Program, Sandbox, SandboxError
from modules.code_executor.sandbox._container import Shape
from modules.code_executor.sandbox._model import Limits
from modules.code_executor.sandbox.local import LocalSandbox

from .conftest import missing, skip, until
from .fake_engine import FakeEngine, pool_of

HELD = 1100
"""More than `select` can watch."""
OpenSandbox = Callable[..., Awaitable[Sandbox]]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- of three


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """This process may have so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this process may have {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def free_number(count: int) -> int:
    """The first number above so many free ones."""
    taken = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 -- of three
    number = 0
    while count:
        count -= number not in taken
        number += 1
    return number


@contextmanager
def held() -> Iterator[None]:
    """So many descriptors are open, from the lowest free one on."""
    with at_most(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], HELD + 1000)):
        handles = [os.open("/dev/null", os.O_RDONLY) for _ in range(HELD)]
        try:
            yield
        finally:
            for handle in handles:
                os.close(handle)


@pytest.fixture(params=[pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: what is tested happens in worker threads."""
    return request.param


@pytest.mark.parametrize("kind", ["bubblewrap", "unshare"])
async def test_programs_run_beside_a_thousand_open_descriptors(open_sandbox: OpenSandbox, kind: str) -> None:
    sandbox = await open_sandbox(kind, spare=1)
    assert (await sandbox.run(Program("python", "print(1)"))).stdout == "1\n"
    before = descriptors()
    with held():
        for _ in range(4):  # with a jail from before, and with jails of now
            assert (await sandbox.run(Program("python", "print(2)"))).stdout == "2\n"
    assert descriptors() <= before


async def test_a_run_for_which_there_are_no_descriptors_says_so_and_leaves_nothing() -> None:
    if reason := missing("unshare"):
        skip("unshare", reason)
    async with LocalSandbox(levels=("unshare",), spare=0) as sandbox:
        assert (await sandbox.run(Program("python", "print(1)"))).stdout == "1\n"
        before, users = descriptors(), len(sandbox._users._leases)
        for free in range(1, 9):  # wherever they end
            with at_most(free_number(free)), pytest.raises((SandboxError, OSError), match="open files"):
                await sandbox.run(Program("python", "print(2)"))
            assert (descriptors(), len(sandbox._users._leases)) == (before, users)
        assert (await sandbox.run(Program("python", "print(3)"))).stdout == "3\n"


async def test_the_pool_of_containers_is_filled_beside_a_thousand_open_descriptors() -> None:
    engine = FakeEngine()
    with held(), pool_of(engine, spare=2) as pool:
        pool.open()
        await until(lambda: len(engine.there) == 2, "the pool is full")
        taken = pool.take(Shape.of(Limits()))
        await until(lambda: len(engine.there) == 3, "the pool is full again")
        pool.give_back(taken, wait=True)


async def test_whatever_goes_wrong_while_the_pool_is_filled_it_is_filled_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(FakeEngine):
        def start(self, container: str) -> None:
            if len(self.tried) < 2:
                raise ValueError("an odd one")

    engine = Odd()
    with pool_of(engine, spare=1) as pool:
        pool.open()
        await until(lambda: len(engine.there) == 1 and len(engine.tried) == 2, "the pool is full")
    told = [record for record in caplog.records if "cannot be kept full" in record.message]
    assert len(told) == 1
    assert "an odd one" in told[0].message
