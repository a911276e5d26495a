"""One local jail, as the runtime holds it: made ahead of its program, used once."""

import marshal
import os
import select
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any, Self

import msgspec
from attrs import define, field

from ._model import SandboxError
from ._mother import Mother, interpreter

READY_WITHIN_S = 10.0
GONE_WITHIN_S = 5.0


def is_readable(connection: socket.socket, within_s: float = 0.0) -> bool:
    """Wait until there is something to read, or the end. Not with `select`, which cannot watch a descriptor beyond 1,023."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(within_s * 1000))


def order(content: dict[str, Any]) -> bytes:
    """Frame one order to the launcher. Version 2 of marshal is read by every Python 3."""
    return message(content)


def message(content: Any) -> bytes:
    """Frame anything for `_inside.read_order` or `BOOT_FROM_STREAM`."""
    data = marshal.dumps(content, 2)
    return b"%08d" % len(data) + data


class Walls(msgspec.Struct, frozen=True):
    """How the jails of one level are built.

    Attributes:
        mother: Where their wardens come from.
        spec: What the warden reads; `uid` is put in for each jail.
    """

    mother: Mother
    spec: dict[str, Any]


def walls(mother: Mother, spec: dict[str, Any], bubblewrap: tuple[str, ...] = ()) -> Walls:
    """Put together how jails are built; `bubblewrap` is its command up to the program, if it is to build them."""
    return Walls(mother, {**spec, "bubblewrap": [*bubblewrap, *interpreter(mother.python)]})


@define(eq=False)
class Jail:
    """The walls and the launcher of one run. Not safe for more than one thread at a time.

    Attributes:
        stdin: Where to write the program's standard input, until it is closed.
        stdout: Where to read its output.
        stderr: The same for the other stream.
        control: The socket to warden and launcher. It ends when nothing of the jail is left.
        uid: The user that its processes are, 0 where that is ours.
        has_network: It has a network of its own.
        launcher: The process whose descendants are the program's processes, once `wait_ready` has returned.
        gone: After `close`: nothing is left. If not, its user must not be given to another jail.
    """

    stdin: int
    stdout: int
    stderr: int
    control: socket.socket
    uid: int
    has_network: bool
    launcher: int = 0
    gone: bool = False
    _warden: int = 0
    _lines: bytearray = field(factory=bytearray)

    @classmethod
    def start(cls, walls: Walls, uid: int) -> Self:
        """Have the jail built and return at once; `wait_ready` tells whether the walls stand.

        Raises:
            SandboxError: The interpreter cannot be started, or there are no descriptors for it. Nothing has been started.
        """
        control, theirs, (stdin_read, stdin), (stdout, stdout_write), (stderr, stderr_write) = _streams()
        jail = cls(stdin, stdout, stderr, control, uid, walls.spec["has_network"])
        try:
            with theirs:
                walls.mother.fork({**walls.spec, "uid": uid}, [theirs.fileno(), stdin_read, stdout_write, stderr_write])
        except BaseException:
            jail.close()
            raise
        finally:
            for handle in (stdin_read, stdout_write, stderr_write):
                os.close(handle)
        for handle in (stdin, stdout, stderr):
            os.set_blocking(handle, False)
        return jail

    def send(self, content: bytes) -> None:
        """Send to the launcher. A jail that is gone is noticed when it is listened to."""
        self.control.settimeout(READY_WITHIN_S)
        with suppress(OSError):
            self.control.sendall(content)

    def lines(self) -> list[str] | None:
        """Take what was told so far, or None when nobody is left to tell anything: nothing of the jail is left."""
        try:
            part = self.control.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        if not part:
            self.gone = True
            return None
        self._lines += part
        *whole, rest = bytes(self._lines).split(b"\n")
        self._lines = bytearray(rest)
        return [line.decode("utf-8", "replace") for line in whole]

    def wait_ready(self) -> None:
        """Wait until the walls stand.

        Raises:
            SandboxError: They could not be built; the text has the reason.
        """
        until = time.monotonic() + READY_WITHIN_S
        while not self.launcher:
            readable = is_readable(self.control, max(0.0, until - time.monotonic()))
            lines = self.lines() if readable else None
            if lines is None:
                reason = self._last_words() if readable else f"no answer within {READY_WITHIN_S:g} s"
                raise SandboxError(f"The walls of the jail could not be built: {reason}.")
            for line in lines:
                kind, _, rest = line.partition(" ")
                if kind == "warden":
                    self._warden = int(rest)
                elif kind == "failed":
                    raise SandboxError(f"The walls of the jail could not be built: {rest}.")
                elif kind == "ready":
                    self.launcher = _innermost(self._warden)
        # From here on `control` tells about the run alone.

    def _last_words(self) -> str:
        """What warden, launcher or bubblewrap wrote to stderr before they ended."""
        words = bytearray()
        with suppress(OSError):
            while part := os.read(self.stderr, 4096):
                words += part
        lines = words.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "its processes ended without a word"

    def close_stdin(self) -> None:
        """Let the program find the end of its standard input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def kill(self) -> None:
        """Begin to kill everything in the jail; `close` waits for it."""
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Kill everything in the jail, wait for it, and let go of its pipes. May be called again."""
        if self.stdout < 0:
            return
        self.kill()
        until = time.monotonic() + GONE_WITHIN_S
        while not self.gone:
            if not is_readable(self.control, max(0.0, until - time.monotonic())):
                self._last_resort()
                break
            self.lines()
        self.control.close()
        self.close_stdin()
        for handle in (self.stdout, self.stderr):
            os.close(handle)
        self.stdout = self.stderr = -1

    def _last_resort(self) -> None:
        """Kill warden and launcher themselves: they hold the control socket still, so their numbers are their own."""
        for process in (self.launcher, self._warden):
            if process:
                with suppress(OSError):
                    os.kill(process, 9)


_Pipe = tuple[int, int]


def _streams() -> tuple[socket.socket, socket.socket, _Pipe, _Pipe, _Pipe]:
    """Open the two ends of a control socket and of three pipes, or nothing."""
    with ExitStack() as opened:
        try:
            ours, theirs = socket.socketpair()
            for end in (ours, theirs):
                opened.callback(end.close)
            pipes: list[_Pipe] = []
            for _ in range(3):
                pipes.append(os.pipe())
                for handle in pipes[-1]:
                    opened.callback(os.close, handle)
        except OSError as error:
            raise SandboxError(
                f"A jail could not be made: {error.strerror}. Cure: allow this process more open files (`ulimit -n`)."
            ) from error
        opened.pop_all()
        return ours, theirs, pipes[0], pipes[1], pipes[2]


def _innermost(warden: int) -> int:
    """Walk from the warden down to the launcher: before the program starts they are a chain."""
    process = warden
    while True:
        try:
            with open(f"/proc/{process}/task/{process}/children") as file:  # noqa: PTH123 - on every start
                children = file.read().split()
        except OSError:
            return process
        if not children:
            return process
        process = int(children[0])
