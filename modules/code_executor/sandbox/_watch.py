"""What a jail's processes use in sum, read from /proc: no single-process limit of the kernel bounds a sum."""

import functools
import os
from contextlib import suppress
from pathlib import Path

import msgspec
from attrs import define, field

_KIB = 1024
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_HELD = (b"VmRSS:", b"VmPTE:", b"VmSwap:")
"""Lines of /proc/…/status: what is there, the tables that say where it is, what was moved out to make room."""
_BUFFERS_BYTES = 2 * 212992
"""What can wait in one socket where nobody has raised net.core.wmem_max. It belongs to no process."""


class Usage(msgspec.Struct, frozen=True):
    """What the processes use now.

    Attributes:
        memory_bytes: Sum of memory. Pages that are shared count once for each process: never too low.
        cpu_s: CPU seconds used by all, those that have ended included.
    """

    memory_bytes: int
    cpu_s: float


class _Cpu(msgspec.Struct, frozen=True):
    """CPU ticks of one process: its own, and those of the children that it has waited for."""

    own: int
    waited: int


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - hundreds of times a second
            return file.read()
    except OSError:  # it has ended
        return b""


def descendants(process: int) -> list[int]:
    """Every living process that descends from `process`, itself left out."""
    found: list[int] = []
    parents = [process]
    while parents:
        parent = parents.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")  # noqa: PTH208 - see above
        except OSError:
            continue
        for thread in threads:  # children belong to the thread that made them
            children = [int(text) for text in _read(f"/proc/{parent}/task/{thread}/children").split()]
            found += children
            parents += children
    return found


def _cpu(process: int) -> tuple[int, _Cpu] | None:
    """When the process was started, which tells it from others of the same number, and its CPU ticks."""
    _, _, after_name = _read(f"/proc/{process}/stat").rpartition(b")")
    fields = after_name.split()
    if len(fields) < 20:
        return None
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return int(fields[19]), _Cpu(own, waited)


def _sum_of_lines(path: str, names: tuple[bytes, ...]) -> int:
    """Sum up what stands in KiB after some names, in bytes."""
    return sum(int(line.split()[1]) for line in _read(path).splitlines() if line.startswith(names)) * _KIB


@define
class Watch:
    """Looks at one jail, again and again.

    Attributes:
        launcher: The process whose descendants are the program's.
        has_network: The jail has a network of its own, so that all sockets in it are the program's.
    """

    launcher: int
    has_network: bool
    _seen: dict[tuple[int, int], _Cpu] = field(factory=dict[tuple[int, int], _Cpu])
    _waited: int = 0
    _missing: int = 0
    _missing_before: int = 0

    def look(self) -> Usage:
        """Sum up everything that descends from the launcher of the jail."""
        memory_bytes, seen = self._sockets_bytes(), dict[tuple[int, int], _Cpu]()
        launcher = _cpu(self.launcher)
        waited = launcher[1].waited if launcher else self._waited
        known_waited = self._waited
        self._waited = waited
        for process in descendants(self.launcher):
            memory_bytes += _sum_of_lines(f"/proc/{process}/status", _HELD)
            if (found := _cpu(process)) is not None:
                seen[process, found[0]] = found[1]
        gained = waited - known_waited
        gained += sum(now.waited - self._seen.get(who, _Cpu(0, 0)).waited for who, now in seen.items())
        ended = sum(cpu.own + cpu.waited for who, cpu in self._seen.items() if who not in seen)
        self._seen = seen
        ticks = waited + sum(cpu.own + cpu.waited for cpu in seen.values()) + self._unclaimed(ended - gained)
        return Usage(memory_bytes, ticks / _TICKS_PER_S)

    def _unclaimed(self, missing: int) -> int:
        """What those have used that ended and whom nobody has waited for.

        The kernel forgets them where their parent ignores that children end, and a program could burn CPU time in such
        children for as long as it likes. What a process has used is looked for in the sums of those that may have
        waited for it; as /proc is not read at one moment, it counts as missing only if it is not found later, either.
        """
        self._missing_before, self._missing = self._missing, self._missing + missing
        return max(0, min(self._missing_before, self._missing))

    def exact_bytes(self) -> int | None:
        """The same memory with shared pages counted once in all: exact, but slow; None where the kernel does not tell."""
        total = self._sockets_bytes()
        for process in descendants(self.launcher):
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_bytes().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:
                return None
            total += sum(int(line.split()[1]) for line in lines if line.startswith((b"Pss:", b"SwapPss:"))) * _KIB
            total += _sum_of_lines(f"/proc/{process}/status", (b"VmPTE:",))
        return total

    def _sockets_bytes(self) -> int:
        """What the sockets of the jail can hold."""
        if not self.has_network:
            return 0
        lines = _read(f"/proc/{self.launcher}/net/unix").count(b"\n")
        return max(0, lines - 1) * _largest_buffer()


@functools.cache
def _largest_buffer() -> int:
    with suppress(ValueError):
        return 2 * int(_read("/proc/sys/net/core/wmem_max"))
    return _BUFFERS_BYTES
