"""What a jail's processes use in sum, read from /proc: no single-process limit of the kernel bounds a sum."""

import os
from pathlib import Path

from attrs import frozen

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@frozen
class Usage:
    """What the processes use now.

    Attributes:
        resident_bytes: Sum of resident memory. Pages that are shared count once for each process: never too low.
        cpu_s: CPU seconds used by all, those that have ended included.
    """

    resident_bytes: int
    cpu_s: float


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - hundreds of times a second
            return file.read()
    except OSError:  # it has ended
        return ""


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


def _cpu_fields(process: int) -> tuple[int, int]:
    """CPU ticks of the process itself, and of its children that have ended."""
    _, _, after_name = _read(f"/proc/{process}/stat").rpartition(")")
    fields = after_name.split()
    if len(fields) < 15:
        return 0, 0
    return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def usage(launcher: int) -> Usage:
    """Sum up everything that descends from the launcher of a jail."""
    resident_pages = 0
    _, cpu_ticks = _cpu_fields(launcher)
    for process in descendants(launcher):
        fields = _read(f"/proc/{process}/statm").split()
        resident_pages += int(fields[1]) if len(fields) > 1 else 0
        cpu_ticks += sum(_cpu_fields(process))
    return Usage(resident_pages * _PAGE_BYTES, cpu_ticks / _TICKS_PER_S)


def proportional_bytes(launcher: int) -> int | None:
    """The same memory with shared pages counted once in all: exact, but slow; None where the kernel does not tell."""
    total = 0
    for process in descendants(launcher):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return None
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
                break
    return total
