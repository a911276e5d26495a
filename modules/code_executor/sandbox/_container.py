"""One container: started ahead of its program, used once, removed. Blocking code for a worker thread."""

import socket
from contextlib import suppress
from typing import Any, Self

import msgspec
from attrs import define

from ._engine import Engine, close_stream
from ._jail import is_readable, message
from ._model import Limits
from ._mother import BOOT_FROM_STREAM, sources
from ._walls import OPTIONS_OF_SHM, options_of_tmp

START_WITHIN_S = 10.0
GONE_WITHIN_S = 5.0
_LAUNCHER_BYTES = 16 << 20
_COVERED = [
    # What an engine covers by itself, which is forgotten where more is asked for.
    *(
        f"/proc/{name}"
        for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi")
    ),
    *("/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"),
    # What tells of the host's disks and how it was started. Its table of mounts cannot be covered: each process has one of its own.
    *(f"/proc/{name}" for name in ("cmdline", "diskstats", "fs", "mdstat", "modules", "partitions", "swaps")),
    *("/sys/block", "/sys/class/block", "/sys/dev/block"),
]
_FLAGS_OF_FOLDERS = "rw,nosuid,nodev,noexec"
_COMMAND = ["python3", "-I", "-S", "-B", "-c", BOOT_FROM_STREAM, "0", "_in_container", "main", "0"]


class Shape(msgspec.Struct, frozen=True):
    """What is fixed when a container is created, so that a spare one fits only runs of the same shape."""

    memory_bytes: int
    processes: int
    disk_bytes: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """The shape that a run needs."""
        return cls(limits.memory_bytes, limits.processes, limits.disk_bytes)

    def becomes(self, other: Self) -> bool:
        """Whether a started container of this shape can be given the other one: memory can be changed later."""
        return (self.processes, self.disk_bytes) == (other.processes, other.disk_bytes)

    @property
    def fence_bytes(self) -> int:
        """The limit of the whole container."""
        return self.memory_bytes + _LAUNCHER_BYTES


def options(shape: Shape, image: str, user: int, labels: dict[str, str]) -> dict[str, Any]:
    """The arguments of the engine's create call. What stands here is the security of the sandbox."""
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
            "Tmpfs": {
                "/tmp": f"{_FLAGS_OF_FOLDERS},{options_of_tmp(shape.disk_bytes)}",  # noqa: S108
                "/dev/shm": f"{_FLAGS_OF_FOLDERS},{OPTIONS_OF_SHM}",  # noqa: S108 - its usual one has no limit on files
            },
            "MaskedPaths": _COVERED,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": shape.processes + 3,
            "Memory": shape.fence_bytes,
            "MemorySwap": shape.fence_bytes,
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
        engine: Where it is.
        name: Its name.
        shape: What it was made for.
        user: The user in it.
        since_s: Since when it is kept ready, by the pool's clock.
    """

    engine: Engine
    name: str
    shape: Shape
    user: int
    _socket: socket.socket
    _stream: Any
    since_s: float = 0.0

    @classmethod
    def start(cls, engine: Engine, name: str, image: str, shape: Shape, user: int, labels: dict[str, str]) -> Self:
        """Create, attach, start, in this order: what is attached later has lost what was written before.

        Raises:
            SandboxError: The engine could not do it. The container may be there nevertheless.
        """
        made = engine.create(name, engine.config(**options(shape, image, user, labels)))
        stream = engine.attach(made)
        container = cls(engine, name, shape, user, getattr(stream, "_sock", stream), stream)
        try:
            engine.start(made)
        except BaseException:
            container.close()
            raise
        container._send(message(sources("_inside", "_in_container")))
        return container

    def _send(self, content: bytes) -> None:
        """Send to the launcher. A container that is gone is noticed when it is listened to."""
        self._socket.settimeout(START_WITHIN_S)
        with suppress(OSError):
            self._socket.sendall(content)

    def waits(self) -> bool:
        """Whether the launcher waits for its order still: it has written nothing, and not ended."""
        return not is_readable(self._socket)

    def become(self, shape: Shape) -> None:
        """Take another shape, one that `Shape.becomes` allows.

        Raises:
            SandboxError: The engine could not do it.
        """
        if shape != self.shape:
            self.engine.set_memory(self.name, shape.fence_bytes)
            self.shape = shape

    @property
    def connection(self) -> socket.socket:
        """The multiplexed stream of the container's three standard streams."""
        return self._socket

    def check_engine(self) -> None:
        """Return if the engine answers.

        Raises:
            EngineGone: It does not, so nothing that this container has not said means anything.
        """
        self.engine.ping()

    def how_it_ended(self) -> tuple[int | None, bool]:
        """The exit code, if there is one, and whether memory ran out; for runs that nobody reported the end of.

        Raises:
            SandboxError: The engine does not tell.
        """
        return self.engine.ending(self.name)

    def close(self) -> None:
        """Let go of its streams, which ends a launcher that waits still."""
        close_stream(self._stream, self._socket)
