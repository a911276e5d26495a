"""From a program and its limits to the order for the launcher, and the folder it runs in."""

import logging
import math
import os
import random
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._builds import ARTIFACT_BYTES
from ._jail import order
from ._levels import Level
from ._model import Limits, Work
from ._remove import remove_folder
from .languages import SEARCH_PATH, Language

_log = logging.getLogger(__name__)

JAIL_FOLDER = "/tmp"  # noqa: S108 - the jail's own, not the host's

ENVIRONMENT = {
    "PATH": os.pathsep.join(SEARCH_PATH),
    "LANG": "C.UTF-8",
    # Each malloc arena reserves 64 MiB of addresses, which a limit on addresses would count for each thread.
    "MALLOC_ARENA_MAX": "2",
}
"""What every program finds in its environment, beside its folder as HOME and TMPDIR."""
_NICE = 5
_CORES_PER_RUN = 2
_OPEN_FILES = 256
_PROCESSES_OF_OURS = 2
_ADDRESSES_MIN = 4 << 30
_COMPILER_MORE_S = 2
"""The sum is watched; a compiler's parts are not ended one by one before, or its driver would call that an error of its own."""
_COUNTS_PER_NAMESPACE = (5, 14)
"""From this kernel on, RLIMIT_NPROC counts in each user namespace for itself."""


@contextmanager
def run_folder(level: Level, uid: int) -> Generator[str]:
    """The private folder of a run, as the program sees it; gone afterwards."""
    if level.private_root:
        yield JAIL_FOLDER
        return
    folder = Path(tempfile.mkdtemp(prefix="fissile-run-"))
    try:
        if uid:
            os.chown(folder, uid, uid)
        yield str(folder)
    finally:
        if not remove_folder(str(folder)):
            _log.warning("The folder %s of a run could not be removed. Remove it by hand.", folder)


def order_for(level: Level, tools: Mapping[str, str], work: Work, folder: str) -> bytes:
    """Frame the order to do some work in a local jail.

    Args:
        level: The walls it will run in.
        tools: Where the tools of the languages are.
        work: What to do.
        folder: What `run_folder` gave.
    """
    cores = sorted(os.sched_getaffinity(0))
    return order(
        {
            **content_for(work, tools, folder, count_processes=_counts_the_jail_alone(level)),
            "cores": random.sample(cores, min(_CORES_PER_RUN, len(cores))),
            "landlock": [*level.landlock, (folder, "rw")] if level.landlock else [],
            "seccomp": level.seccomp,
        }
    )


def _counts_the_jail_alone(level: Level) -> bool:
    """Whether the kernel's limit on processes counts this jail's, and not all of the user who started us."""
    if os.geteuid() == 0:
        return True  # each jail is a user of its own
    version = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
    return level.private_root and version >= _COUNTS_PER_NAMESPACE


def content_for(work: Work, tools: Mapping[str, str], folder: str, *, count_processes: bool) -> dict[str, Any]:
    """What every order says, whatever walls stand around: see `_inside.carry_out`.

    Args:
        work: What to do.
        tools: Where the tools of the languages are.
        folder: The run's folder, as seen from inside.
        count_processes: Have the kernel count processes; not where it would count those of others as well.
    """
    language, limits, built = work.language, work.limits, work.built
    commands = language.commands(folder, tools, compiling=work.is_compiling, memory_bytes=limits.memory_bytes)
    rlimits = [
        limit
        for limit in _rlimits(language, limits, compiling=work.is_compiling)
        if count_processes or limit[0] != "RLIMIT_NPROC"
    ]
    files = {language.file: work.source.encode("utf-8", "surrogatepass")} if built is None else {}
    if work.is_compiling:
        files |= {name: text.encode() for name, text in language.beside}
    return {
        "folder": folder,
        "files": files,
        "disk_bytes": limits.disk_bytes,
        "nice": _NICE,
        "environment": {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder, **language.variables(folder)},
        "steps": [{"command": list(command), "rlimits": rlimits} for command in commands],
        "artifact": language.artifact if work.is_compiling else "",
        "artifact_bytes": ARTIFACT_BYTES,
        "program_bytes": 0 if built is None else built.size,
        "program_name": "" if language.is_native else language.artifact,
        "alone": False,
    }


def _rlimits(language: Language, limits: Limits, *, compiling: bool) -> list[tuple[str, int, int]]:
    """The kernel's limits for each process of a step, as names and soft and hard values."""
    cpu_s = max(1, math.ceil(limits.cpu_s))  # it counts in whole seconds
    if compiling:
        cpu_s += _COMPILER_MORE_S
    both = {
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NPROC": limits.processes + _PROCESSES_OF_OURS,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_RTPRIO": 0,
    }
    if language.bound_address_space and not compiling:
        # Far above the real limit, which the watchdog keeps: only what it could not see in time is refused here.
        both["RLIMIT_AS"] = max(_ADDRESSES_MIN, 4 * limits.memory_bytes)
    return [("RLIMIT_CPU", cpu_s, cpu_s + 1), *((name, value, value) for name, value in both.items())]
