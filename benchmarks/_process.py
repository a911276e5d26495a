"""Processes under measurement: servers that say when they are ready, and requests to them."""

from __future__ import annotations

import http.client
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from re import Pattern
from time import perf_counter, sleep

from benchmarks._rows import CannotRun, environment

START_S = 30.0
STOP_S = 15.0
READY_POLL_S = 0.001


class Server:
    """A process that writes a line when it is ready.

    Attributes:
        host: The address it listens on, as `host:port`; empty if its line names none.
        ready_s: How long it took from its start to that line, in seconds.
        pid: Its number.
    """

    def __init__(self, host: str, ready_s: float, pid: int) -> None:
        self.host = host
        self.ready_s = ready_s
        self.pid = pid

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection."""
        return http.client.HTTPConnection(self.host, timeout=30.0)


@contextmanager
def serving(arguments: Sequence[str], folder: Path, ready: Pattern[str], **values: str) -> Generator[Server]:
    """Run a process until the end of the block.

    Args:
        arguments: Its command line.
        folder: Where it runs.
        ready: What its log shows when it is ready; its group is the address.
        values: What its environment has besides.

    Raises:
        CannotRun: It ended, or was not ready in time; the text is the end of what it wrote.
    """
    with tempfile.NamedTemporaryFile() as log:
        began = perf_counter()
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment(**values), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while True:
                text = Path(log.name).read_text(errors="replace")
                if match := ready.search(text):
                    break
                if process.poll() is not None or perf_counter() - began > START_S:
                    raise CannotRun((text.strip().splitlines() or ["it wrote nothing and was not ready"])[-1][:300])
                sleep(READY_POLL_S)
            yield Server(match[1], perf_counter() - began, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
