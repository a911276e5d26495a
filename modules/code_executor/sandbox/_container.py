"""One container: started ahead of its program, used once, removed. Blocking code for a worker thread."""

import select
import socket
from contextlib import suppress
from typing import Any, Self

from attrs import define, frozen

from ._jail import message
from ._model import Limits, SandboxError
from ._mother import BOOT_FROM_STREAM, sources

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
        made, container = "", None
        try:
            made = api.create_container_from_config(_config(api, options(shape, image, user, labels)))["Id"]
            stream = api.attach_socket(made, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            container = cls(api, made, shape, user, getattr(stream, "_sock", stream), stream)
            api.start(made)
        except Exception as error:
            if container is not None:
                container.remove()
            elif made:
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
