"""What all brokers of the tests have in common: a process of its own group, a temporary folder, free ports, an end that is certain."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

START_S = 120.0
"""How long a broker may take to start, on a machine that does other things too; in seconds."""


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Let the system kill a broker whose test run was killed: nothing else would, since it has a session of its own."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def freeze(pid: int) -> None:
    """Stop a child and its process group, and return when none of its threads runs: the signal alone does not wait for that."""
    os.killpg(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class BrokerFailed(Exception):
    """A broker could not be started; the text has the end of its log."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on. They are all held until the last is found, so that none comes twice.

    They are below those that the system gives to outgoing connections. A broker that is down has to find its port free when it comes back,
    and a client that tries to connect meanwhile must not be connected with itself.
    """
    first = _first_outgoing()
    candidates = range(first - 10_000, first)
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        # The system's randomness: a test may have seeded the other, and two runs at a time would choose the same.
        for port in random.SystemRandom().sample(candidates, len(candidates)):
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise BrokerFailed(f"There are no {count} free ports among {candidates}.")


def _first_outgoing() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 49_152  # IANA's, and that of most systems
    return max(first, 12_000)


@define(eq=False)
class BrokerProcess:
    """A broker's process.

    Attributes:
        command: What to run.
        port: Where it listens, on 127.0.0.1.
        folder: Its temporary folder, which goes with it.
    """

    command: Sequence[str]
    port: int
    folder: Path = field(factory=lambda: Path(tempfile.mkdtemp(prefix="fissile-broker-")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it; `wait_ready` tells when it can be used."""
        atexit.register(self.end)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def wait_ready(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise BrokerFailed(f"The broker has ended: {self.tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return
            time.sleep(0.05)
        raise BrokerFailed(f"The broker does not listen after {START_S:g} s: {self.tail()}")

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(no log)"

    def stop(self) -> None:
        """Freeze it: its connections stay open, and nothing is answered (SIGSTOP)."""
        assert self._process is not None
        freeze(self._process.pid)

    def go_on(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it at once (SIGKILL). Its data stays; `start` starts it again."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM), and wait until it has."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(START_S)

    def end(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)
