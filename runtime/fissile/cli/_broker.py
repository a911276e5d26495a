"""The broker that `fissile dev --split` brings where the bus is in memory: `noida-db` of the extra `broker`, for development only.

It runs on a free port of this machine, in a temporary folder, under a guard: a few lines of shell that wait for the end of a pipe. However
`fissile dev` ends, the broker is killed and its folder removed. It is killed and not asked to stop, because it would write its data first.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import anyio
import anyio.abc
from attrs import define

from fissile.cli._exit import CommandFailed, Exit

_START_S = 20.0
_POLL_S = 0.01
_TAIL = 600
"""How much of its log is shown where it has failed, in characters."""
_GUARD = """
exec 3<&0
"$@" </dev/null 3<&- >"$FOLDER/log" 2>&1 &
broker=$!
(read -r _ <&3; kill -9 $broker) 2>/dev/null >&2 &
exec 3<&-
wait $broker
code=$?
rm -rf "$FOLDER"
exit $code
"""


@define(eq=False)
class Broker:
    """An embedded broker.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        folder: Its temporary folder.
        guard: The process that ends it.
    """

    port: int
    folder: Path
    guard: anyio.abc.Process

    @property
    def url(self) -> str:
        """The bus on it."""
        return f"kafka://127.0.0.1:{self.port}"

    @classmethod
    async def start(cls) -> Broker:
        """Start one, and wait until it takes connections.

        Raises:
            CommandFailed: It is not installed, or does not start.
        """
        binary = find_broker()
        folder = Path(tempfile.mkdtemp(prefix="fissile-broker-"))
        port = _free_port()
        data = ["--data-dir", str(folder / "data"), "--only", "kafka", "--kafka-port", str(port)]
        guard = await anyio.open_process(
            ["/bin/sh", "-c", _GUARD, "fissile-broker", str(binary), "start", *data],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"FOLDER": str(folder), "PATH": "/usr/bin:/bin"},
            start_new_session=True,
        )
        broker = cls(port, folder, guard)
        try:
            await broker._wait_ready()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await broker.stop()
            raise
        return broker

    async def _wait_ready(self) -> None:
        end = perf_counter() + _START_S
        while True:
            with suppress(OSError):
                await (await anyio.connect_tcp("127.0.0.1", self.port)).aclose()
                return
            if self.guard.returncode is not None or perf_counter() > end:
                how = (
                    f"does not listen after {_START_S:g} s"
                    if self.guard.returncode is None
                    else "has ended as it began"
                )
                raise CommandFailed(
                    f"The embedded broker {how}.",
                    *self.tail(),
                    "Start Kafka yourself and name it: FISSILE_BUS=kafka://host:port.",
                    code=Exit.UNAVAILABLE,
                )
            await anyio.sleep(_POLL_S)

    def tail(self) -> list[str]:
        """Return the end of its log."""
        with suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")[-_TAIL:].splitlines()
        return []

    async def wait_ended(self) -> None:
        """Wait until it has ended."""
        await self.guard.wait()

    async def stop(self) -> None:
        """Kill it, and remove its folder."""
        assert self.guard.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self.guard.stdin.aclose()  # the guard waits for that
        with anyio.move_on_after(5.0):
            await self.guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_broker() -> Path:
    """Return where the broker's program is. Its console script would not pass signals on.

    Raises:
        CommandFailed: It is not installed.
    """
    spec = find_spec("noida_db")
    binary = None if spec is None or spec.origin is None else Path(spec.origin).parent / "noida-db"
    if binary is None or not binary.is_file() or find_spec("aiokafka") is None:
        raise CommandFailed(
            "Processes share no bus in memory, and the broker for development is not installed.",
            "Install it: pip install 'fissile[broker]'. Or name a Kafka that is there: FISSILE_BUS=kafka://host:port.",
            code=Exit.UNAVAILABLE,
        )
    return binary


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
