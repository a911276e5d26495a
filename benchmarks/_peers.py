"""The driver's side of the programs that are measured over Kafka; `_load.py` has theirs."""

from __future__ import annotations

import json
import selectors
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks._rows import ROOT, CannotRun, environment

ANSWER_S = 60.0
STOP_S = 10.0


class Peer:
    """A program that does what it is told.

    Args:
        process: Its process.
        log: What it writes to stderr.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ)

    def tell(self, do: str, **what: Any) -> None:  # Any: as JSON has it
        """Tell it to do something; `hear` waits until it has."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for what it says.

        Raises:
            CannotRun: It has ended, or says nothing.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline() if self._selector.select(ANSWER_S) else b""
        if not line:
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
            raise CannotRun(lines[-1][:300])
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Tell it to do something, and wait until it has."""
        self.tell(do, **what)
        return self.hear()

    def close(self) -> None:
        """Let it end; kill it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._selector.close()
        self._process.stdout.close()


@contextmanager
def peers(*commands: Sequence[str]) -> Generator[list[Peer]]:
    """Start programs together, and wait until all are ready; they end at the end of the block.

    Args:
        commands: Their command lines.

    Raises:
        CannotRun: One does not start.
    """
    with ExitStack() as stack:
        found: list[Peer] = []
        for command in commands:
            log = Path(stack.enter_context(tempfile.NamedTemporaryFile()).name)
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
                )
            found.append(Peer(process, log))
            stack.callback(found[-1].close)
        for peer in found:
            peer.hear()
        yield found
