"""One container: started ahead of its program, used once, removed. Blocking code for a worker thread."""

import os
import secrets
import select
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from attrs import define, evolve, field, frozen

from ._jail import message, order
from ._model import Limits, Outcome, SandboxError, Stream
from ._mother import BOOT_FROM_STREAM, sources
from ._output import Capture
from ._reports import Reports
from ._supervise import Ending

START_WITHIN_S = 20.0
GONE_WITHIN_S = 10.0
_LAUNCHER_BYTES = 16 << 20
_COMMAND = ["python3", "-I", "-S", "-B", "-c", BOOT_FROM_STREAM, "0", "_in_container", "main", "0"]


@frozen
class Shape:
    """What is fixed when a container is created, so that a spare one fits only runs of the same shape."""

    memory_bytes: int
    processes: int
    disk_bytes: int
    executable: bool

    @classmethod
    def of(cls, limits: Limits, *, executable: bool) -> Self:
        """The shape that a run needs."""
        return cls(limits.memory_bytes, limits.processes, limits.disk_bytes, executable)


def options(shape: Shape, image: str, user: int, labels: dict[str, str]) -> dict[str, Any]:
    """The arguments of the engine's create call. What stands here is the security of the sandbox."""
    flags = "rw,nosuid,nodev," + ("exec" if shape.executable else "noexec")
    memory_bytes = shape.memory_bytes + _LAUNCHER_BYTES
    return {
        "image": image,
        "command": _COMMAND,
        "user": f"{user}:{user}",
        "environment": {},
        "hostname": "jail",
        "working_dir": "/tmp",  # noqa: S108 - in the container
        "stdin_open": True,
        "network_disabled": True,
        "labels": labels,
        "host_config": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            # Without `mode` the folder takes the image's permissions, and may not be writable at all.
            "Tmpfs": {"/tmp": f"{flags},size={shape.disk_bytes},nr_inodes=1k,mode=1777"},  # noqa: S108
            "ShmSize": 4 << 20,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": shape.processes + 3,
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "NanoCpus": 1_000_000_000,
            "Ulimits": [
                {"Name": name, "Soft": value, "Hard": value}
                for name, value in (("nofile", 256), ("core", 0), ("memlock", 0), ("msgqueue", 0))
            ],
            "Init": True,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "OomScoreAdj": 1000,
            # The default log of an engine is a file on the host, outside of every limit of the container.
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }


@define(eq=False)
class Container:
    """A started container whose launcher waits for an order.

    Attributes:
        api: The engine.
        id: The container.
        shape: What it was made for.
        user: The user in it.
    """

    api: Any
    id: str
    shape: Shape
    user: int
    _socket: socket.socket
    _stream: Any

    @classmethod
    def start(cls, api: Any, image: str, shape: Shape, user: int, labels: dict[str, str]) -> Self:
        """Create, attach, start, in this order: what is attached later has lost what was written before.

        Raises:
            SandboxError: The engine could not do it.
        """
        made = ""
        try:
            made = api.create_container_from_config(_config(api, options(shape, image, user, labels)))["Id"]
            stream = api.attach_socket(made, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            container = cls(api, made, shape, user, getattr(stream, "_sock", stream), stream)
            api.start(made)
        except Exception as error:
            if made:
                with suppress(Exception):
                    api.remove_container(made, force=True, v=True)
            raise SandboxError(f"The Docker engine could not start a container: {error}.") from error
        container.send(message(sources("_inside", "_in_container")))
        return container

    def send(self, content: bytes) -> None:
        """Send to the launcher. A container that is gone is noticed when it is listened to."""
        self._socket.settimeout(START_WITHIN_S)
        with suppress(OSError):
            self._socket.sendall(content)

    def waits(self) -> bool:
        """Whether the launcher waits for its order still: it has written nothing, and not ended."""
        return not select.select([self._socket], [], [], 0)[0]

    @property
    def connection(self) -> socket.socket:
        """The multiplexed stream of the container's three standard streams."""
        return self._socket

    def how_it_ended(self) -> tuple[int | None, bool]:
        """The exit code, if there is one, and whether memory ran out; for runs that nobody reported the end of."""
        with suppress(Exception):
            self.api.wait(self.id, timeout=GONE_WITHIN_S)
            state = self.api.inspect_container(self.id)["State"]
            return state["ExitCode"], state["OOMKilled"]
        return None, False

    def remove(self) -> bool:
        """Kill and remove it; return whether it is gone. Never hangs: each call has a time limit."""
        # Output that nobody takes while the stream is open makes the engine hang in kill, wait, inspect and remove.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # The client library keeps the answer that the stream was taken from, and the two close each other.
        parts: list[Any] = [getattr(self._stream, "_response", None), self._stream, self._socket]
        for part in parts:
            with suppress(OSError, ValueError, AttributeError):
                part.close()
        try:
            self.api.remove_container(self.id, force=True, v=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller decides
            return type(error).__name__ == "NotFound"
        return True


def _config(api: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    host = wanted["host_config"]
    config: dict[str, Any] = api.create_container_config(
        **{key: value for key, value in wanted.items() if key != "host_config"}
    )
    config["HostConfig"] = host
    return config


@define(eq=False)
class ContainerRun:
    """Carries one order out in one container.

    Attributes:
        container: Started, unused. It is not removed here.
        content: The order, without what is added here.
        steps_wall_s: Seconds by the clock that each step may take.
        stdin: What the program may read.
        limits: The program's limits.
        poke: A descriptor that becomes readable when the run must end.
        emit: Called with each new piece of the last step's output.
    """

    container: Container
    content: dict[str, Any]
    steps_wall_s: list[float]
    stdin: bytes
    limits: Limits
    poke: int
    emit: Callable[[Stream, str], object] | None
    _reports: Reports = field(init=False)
    _captures: dict[Stream, Capture] = field(init=False)
    _incoming: bytearray = field(factory=bytearray)
    _outgoing: memoryview = memoryview(b"")
    _stop: Outcome | None = None
    _poked: bool = False
    _ended: bool = False
    _step: int = -1
    _status: int | None = None
    _started_s: float = 0.0
    _ended_s: float = 0.0
    _deadline_s: float = 0.0
    _failure: str = ""
    _input_open: bool = True

    def run(self) -> Ending:
        """Carry the order out.

        Raises:
            SandboxError: The launcher could not do what it was told.
        """
        mark = secrets.token_hex(16).encode()
        self._reports = Reports(mark)
        cap = self.limits.output_bytes
        self._captures = {"stdout": Capture(cap), "stderr": Capture(cap)}
        self._deadline_s = time.monotonic() + START_WITHIN_S
        self.container.send(
            order({**self.content, "mark": mark, "cpu_s": self.limits.cpu_s, "steps_wall_s": self.steps_wall_s})
        )
        self._loop()
        ending = Ending(
            outcome=None,
            status=self._status,
            stdout=self._captures["stdout"],
            stderr=self._captures["stderr"],
            duration_s=(self._ended_s or time.monotonic()) - self._started_s if self._started_s else 0.0,
        )
        if self._poked:
            return ending
        if self._stop is None and self._failure:
            raise SandboxError(f"The container could not run the program: {self._failure}.")
        if self._stop is None and self._step < 0:
            text = ending.stderr.text().strip()[-300:] or "it ended without a word"
            raise SandboxError(f"The container's launcher did not start: {text}.")
        return self._with_verdict(ending)

    def _loop(self) -> None:
        connection = self.container.connection
        connection.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(self.poke, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while not self._ended and self._stop is None and not self._poked:
                left_s = self._deadline_s - time.monotonic()
                if left_s <= 0:
                    if self._status is None or not self._last_step:
                        self._stop = Outcome.TIMEOUT
                    return
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
                selector.modify(connection, wanted)
                for key, events in selector.select(left_s):
                    if key.fd == self.poke:
                        self._poked = True
                    elif events & selectors.EVENT_READ:
                        self._receive(connection)
                    else:
                        self._feed(connection)

    @property
    def _last_step(self) -> bool:
        return self._step == len(self.steps_wall_s) - 1

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._add("stderr", self._reports.rest())
            self._ended = True
            return
        # The engine's framing: one byte that names the stream, three empty ones, four of length, the content.
        self._incoming += data
        while len(self._incoming) >= 8:
            size = int.from_bytes(self._incoming[4:8], "big")
            if len(self._incoming) < 8 + size:
                return
            number, content = self._incoming[0], bytes(self._incoming[8 : 8 + size])
            del self._incoming[: 8 + size]
            if number == 1:
                self._add("stdout", content)
                continue
            for own, report in self._reports.split(content):
                self._add("stderr", own)
                self._note(report)

    def _add(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        capture = self._captures[stream]
        text = capture.add(data)
        if text and self.emit and self._last_step and not self._poked:
            self.emit(stream, text)
        if capture.overflowed and self._stop is None and self._status is None:
            self._stop = Outcome.OUTPUT_LIMIT

    def _note(self, report: str) -> None:
        kind, _, rest = report.partition(" ")
        now = time.monotonic()
        if kind == "start":
            self._step, self._started_s = int(rest), now
            self._deadline_s = now + self.steps_wall_s[self._step]
            if self._last_step:
                self._outgoing = memoryview(self.stdin)
                self._feed(self.container.connection)
        elif kind == "end":
            self._status, self._ended_s = int(rest.split()[1]), now
            self._deadline_s = now + GONE_WITHIN_S
            if not self._last_step and self._status == 0:
                self._status, self._ended_s = None, 0.0
                for capture in self._captures.values():
                    capture.clear()
                self._outgoing = memoryview(b"g")
        elif kind == "failed":
            self._failure = rest
        elif kind in ("memory", "cpu") and self._stop is None:
            self._stop = Outcome.MEMORY_LIMIT if kind == "memory" else Outcome.CPU_LIMIT

    def _feed(self, connection: socket.socket) -> None:
        if self._outgoing:
            try:
                sent = connection.send(self._outgoing[: 1 << 16])
            except BlockingIOError:
                return
            except OSError:
                sent = len(self._outgoing)
            self._outgoing = self._outgoing[sent:]
        if not self._outgoing and self._last_step and self._input_open:
            self._input_open = False
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def _with_verdict(self, ending: Ending) -> Ending:
        outcome, status = self._stop, self._status
        if outcome is None and status is None:
            code, out_of_memory = self.container.how_it_ended()
            outcome = Outcome.MEMORY_LIMIT if out_of_memory else Outcome.KILLED
            status = code - 128 if code is not None and 128 < code < 160 else None
        elif outcome is None and not self._last_step:
            outcome = Outcome.COMPILE_ERROR
        elif outcome is None and status is not None and os.WIFSIGNALED(status):
            outcome = Outcome.CPU_LIMIT if os.WTERMSIG(status) == 24 else Outcome.KILLED
        return evolve(ending, outcome=outcome or Outcome.FINISHED, status=status)
