"""The runtime's side of the mother: see `_warden`, which is her own."""

import marshal
import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._model import SandboxError

_LOAD = """
package = sys.modules["jail"] = type(sys)("jail")
package.__path__ = []
modules = [(name, compile(code, name, "exec") if isinstance(code, str) else code) for name, code in modules]
package.compiled = marshal.dumps(modules)
for name, code in modules:
    module = sys.modules["jail." + name] = type(sys)("jail." + name)
    module.__package__ = "jail"
    exec(code, module.__dict__)
getattr(sys.modules["jail." + sys.argv[2]], sys.argv[3])(int(sys.argv[4]))
"""

BOOT = f"""
import marshal, sys
number = int(sys.argv[1])
with open(number, "rb", closefd=number > 2) as file:
    modules = marshal.loads(file.read())
{_LOAD}
"""
"""Loads modules from a descriptor, to its end, and calls a function: `-c BOOT DESCRIPTOR MODULE FUNCTION CONTROL`."""

BOOT_FROM_STREAM = f"""
import marshal, os, sys
def take(left):
    parts = []
    while left:
        part = os.read(int(sys.argv[1]), left)
        if not part:
            sys.exit(0)
        left -= len(part)
        parts.append(part)
    return b"".join(parts)
modules = marshal.loads(take(int(take(8))))
{_LOAD}
"""
"""The same, where the modules are framed as one message and more follows them."""


def interpreter(python: str) -> list[str]:
    """The command of a bare interpreter that runs `BOOT`; its arguments follow."""
    return [python, "-I", "-S", "-B", "-c", BOOT]


def sources(*names: str) -> list[tuple[str, str]]:
    """Name and text of modules that are sent, each importing only those before it."""
    return [(name, Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")) for name in names]


class Mother:
    """Forks wardens. Thread-safe.

    Args:
        python: The interpreter to use; it needs ctypes, and Python 3.9.
    """

    def __init__(self, python: str) -> None:
        self.python = python
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._closed = False

    @property
    def process_id(self) -> int:
        """Her process, 0 before the first warden is asked for."""
        return self._process.pid if self._process else 0

    def lives(self, process_id: int) -> bool:
        """Tell whether this process is she, and has not ended."""
        with self._lock:
            process = self._process
            return process is not None and process.pid == process_id and process.poll() is None

    def fork(self, spec: dict[str, Any], handles: list[int]) -> None:
        """Start a warden.

        Args:
            spec: What `_warden.warden` reads.
            handles: Control socket, stdin, stdout and stderr, as the warden gets them.

        Raises:
            SandboxError: The interpreter cannot be started, or the sandbox is closed.
        """
        content = [marshal.dumps(spec, 2)]  # version 2 is read by every Python 3
        with self._lock:
            if self._closed:
                raise SandboxError("The sandbox is closed already.")
            if self._requests is not None:
                with suppress(OSError):  # somebody has killed her
                    socket.send_fds(self._requests, content, handles)
                    return
                self._end()
            self._requests = self._start()
            socket.send_fds(self._requests, content, handles)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                    [*interpreter(self.python), "0", "_warden", "mother", str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env={},
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise SandboxError(f"The interpreter {self.python} cannot be started: {error}.") from error
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(marshal.dumps(sources("_inside", "_walls", "_warden"), 2))
        return ours

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            os.kill(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End. The wardens end when their own sockets close."""
        with self._lock:
            self._closed = True
            self._end()
