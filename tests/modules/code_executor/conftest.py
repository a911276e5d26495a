"""Sandboxes of each kind that this machine can do, and a host to be left unharmed by what runs in them."""

import secrets
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import Bus, Settings
from fissile.testing import PLACEMENTS, Placement, placed
from modules.code_executor.sandbox import Limits, NoSandbox, Program, Sandbox
from modules.code_executor.sandbox.docker import DockerSandbox
from modules.code_executor.sandbox.local import LocalSandbox
from modules.code_executor.service import module
from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import embedded_kafka as embedded_kafka

from .engine import Engine, NoEngine, open_engine
from .fake_sandbox import that_does_not_hold, that_echoes, that_is_busy
from .image import SMALL, required, required_languages

MIB = 1 << 20
KINDS = ("bubblewrap", "unshare", pytest.param("docker", marks=pytest.mark.docker))
QUICK = Limits(wall_s=2.0, cpu_s=2.0)
"""For programs that are known to run into a limit."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition of the machine, which nothing announces."""
    with anyio.move_on_after(20):
        while not condition():
            await anyio.sleep(0.01)
        return
    pytest.fail(f"Waited in vain: {what}")


async def until_it_runs(sandbox: Sandbox) -> None:
    """Wait until an engine that was away is used again."""
    with anyio.fail_after(30):  # far above what it takes, for a machine that does other things, too
        while True:
            try:
                result = await sandbox.run(Program("python", "print(1)"))
            except NoSandbox:
                await anyio.sleep(0.1)
            else:
                assert result.stdout == "1\n", result
                return


@frozen
class Host:
    """The machine around the sandbox, with things on it that must not be reached.

    Attributes:
        marker: The name of every process that `program` makes.
        secret: Stands in the canary's and in our own environment.
    """

    marker: str
    secret: str
    canary: subprocess.Popen[bytes]

    def program(self, source: str) -> str:
        """Give a Python program a name under which its processes can be found from outside."""
        return f"import ctypes as _c\n_c.CDLL(None).prctl(15, {self.marker.encode()!r}, 0, 0, 0)\n{source}"

    def survivors(self) -> list[int]:
        """Processes that have the name still."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().strip() == self.marker:
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    async def check_unharmed(self) -> None:
        await until(lambda: not self.survivors(), "no process of the program is left")
        assert self.canary.poll() is None, "the canary has been killed"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("FISSILE_TEST_SECRET", secret)
    canary = subprocess.Popen(["sleep", "infinity"])
    try:
        yield Host(marker="run" + secrets.token_hex(5), secret=secret, canary=canary)
    finally:
        canary.kill()
        canary.wait()


def missing(kind: str) -> str:
    """Why a kind of sandbox cannot be tried on this machine, or nothing."""
    if kind == "bubblewrap" and not shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin"):
        return "bubblewrap is not installed"
    return ""


def skip(kind: str, reason: str) -> None:
    """Skip, or fail where `FISSILE_REQUIRE` names this kind."""
    if kind in required():
        pytest.fail(f"{kind} is required by FISSILE_REQUIRE, but {reason}")
    pytest.skip(reason)


async def demand(sandbox: Sandbox, language: str) -> None:
    """Skip where a sandbox has no such language, or fail where `FISSILE_REQUIRE` names it."""
    await sandbox.probe()
    if language in sandbox.languages():
        return
    reason = f"the tools of {language} are not there for the sandbox {sandbox.level!r}"
    if language in required_languages():
        pytest.fail(f"{language} is required by FISSILE_REQUIRE, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine with an image for the sandbox; the environment names it while it is open."""
    try:
        with open_engine() as engine:
            yield engine
    except NoEngine as error:
        skip("docker", str(error))


@pytest.fixture
async def open_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[Sandbox]]]:
    """A function that opens a sandbox of a kind; all are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def open_one(kind: str, **settings: Any) -> Sandbox:
            if kind == "docker":
                engine = request.getfixturevalue("engine")
                settings.setdefault("spare", 0)  # most tests need one container only
                return await stack.enter_async_context(DockerSandbox(image=engine.image, **settings))
            if reason := missing(kind):
                skip(kind, reason)
            return await stack.enter_async_context(LocalSandbox(levels=(kind,), **settings))

        yield open_one


@pytest.fixture(params=KINDS)
async def sandbox(request: pytest.FixtureRequest, open_sandbox: Callable[..., Awaitable[Sandbox]]) -> Sandbox:
    return await open_sandbox(request.param)


@pytest.fixture(params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> Placement:
    found: Placement = request.param
    return found


@pytest.fixture
def broker(request: pytest.FixtureRequest, placement: Placement, anyio_backend: Any) -> str | None:
    """The broker of the placement `split`: Apache Kafka, where there is one, on asyncio, the embedded one on Trio."""
    if placement != "split":
        return None
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("the processes of a split choose their event loop themselves")
    kind = "embedded_kafka" if anyio_backend[0] == "trio" else "kafka_at_hand"
    return f"kafka://{request.getfixturevalue(kind)}"


@asynccontextmanager
async def executor(
    placement: Placement, broker: str | None, backend: Any, sandbox: Callable[[], dict[type, object]], replicas: int = 1
) -> AsyncGenerator[Bus]:
    settings = Settings(partitions=2, reply_partitions=2, commit_interval_s=0.05, backend=backend[0])
    async with placed(
        placement, [module], broker=broker, settings=settings, overrides=sandbox, replicas=replicas
    ) as opened:
        yield opened


@pytest.fixture
async def bus(placement: Placement, broker: str | None, anyio_backend: Any) -> AsyncGenerator[Bus]:
    """An executor whose sandbox echoes."""
    async with executor(placement, broker, anyio_backend, that_echoes) as opened:
        yield opened


@pytest.fixture
async def busy(placement: Placement, broker: str | None, anyio_backend: Any) -> AsyncGenerator[Bus]:
    """An executor whose queue is full."""
    async with executor(placement, broker, anyio_backend, that_is_busy) as opened:
        yield opened


@pytest.fixture
async def unsafe(placement: Placement, broker: str | None, anyio_backend: Any) -> AsyncGenerator[Bus]:
    """An executor on a machine where no sandbox holds."""
    async with executor(placement, broker, anyio_backend, that_does_not_hold) as opened:
        yield opened


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give large images their time, and leave uvloop out for containers: it shares all of their code with asyncio, and each takes a second."""
    if required_languages() - set(
        SMALL
    ):  # an image of more than a gigabyte is made once, by whichever test comes first
        for item in items:
            if item.get_closest_marker("docker") and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(900))
    slow = [item for item in items if "docker" in item.name and "uvloop" in item.name]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
