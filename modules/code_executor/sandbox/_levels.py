"""The levels of local walls, strongest first: what each one needs and how its jails are specified."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from ._jail import Walls, walls
from ._model import Limits
from ._mother import Mother
from ._syscalls import allow_list
from ._walls import LAYER, STAGING
from .languages import LANGUAGES, SEARCH_PATH

STRONG_LEVELS = ("bubblewrap", "unshare")
WEAK_LEVELS = ("landlock", "rlimits")
LANDLOCK_ABI_MIN = 6
"""From here on it also refuses foreign abstract sockets and signals; below, the level is not worth its name."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_FOLDERS_OF_PROGRAMS = ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_ETC_SHOWN = ("ld.so.cache", "alternatives", "java-*-openjdk")
"""Below /etc; Debian keeps there what its Java does not start without."""
_ETC_READ = ("/etc/ssl/openssl.cnf",)
"""Node does not start where it may not read this."""
_COVERED = ("fs", "scsi", "cmdline", "diskstats", "mdstat", "modules", "partitions", "swaps")
"""Below /proc: what tells of the host's disks and how it was started. The rest is what runtimes of languages ask for."""
_ETC_MADE = {
    "passwd": "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "group": "nogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
}


def interpreters() -> list[str]:
    """The Pythons that may be inside: one that the system shows to every user first, ours last."""
    found = (shutil.which("python3", path=os.pathsep.join(SEARCH_PATH)), _our_interpreter())
    return list(dict.fromkeys(path for path in found if path))


def _our_interpreter() -> str:
    """Our interpreter itself: not the link to it in a virtual environment, which the jail does not show."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = Path(sys.base_prefix, "bin", name)
    return str(path) if path.exists() else os.path.realpath(sys.executable)


def tools(python: str) -> dict[str, str]:
    """Where the tools of all languages are, on this machine and so in the jail."""
    path = os.pathsep.join(SEARCH_PATH)
    found = {tool: shutil.which(tool, path=path) for language in LANGUAGES.values() for tool in language.tools}
    return {tool: where for tool, where in found.items() if where} | {"python3": python}


class Level(msgspec.Struct, frozen=True):
    """One way to build walls, on this machine.

    Attributes:
        name: `bubblewrap`, `unshare`, `landlock` or `rlimits`.
        walls: How its jails are started.
        seccomp: The filter of its programs, empty where libseccomp is missing.
        landlock: The rules of its programs, without the run's own folder; empty where it is not used.
        private_root: Its jails have a file system of their own, with the run's folder in it.
    """

    name: str
    walls: Walls
    seccomp: bytes
    landlock: tuple[tuple[str, str], ...]
    private_root: bool


def level(name: str, mother: Mother, *, landlock_abi: int, disk_bytes: int = Limits().disk_bytes) -> Level:
    """Specify a level.

    Args:
        name: One of `STRONG_LEVELS` and `WEAK_LEVELS`.
        mother: Where its wardens come from; her interpreter is the one inside.
        landlock_abi: What the kernel offers, 0 for nothing.
        disk_bytes: Size of the run's folder, where it must be known before the run: with bubblewrap.
    """
    strong = name in STRONG_LEVELS
    links = [(path, str(Path(path).readlink())) for path in _FOLDERS_OF_PROGRAMS if Path(path).is_symlink()]
    shown = ["/usr", *(path for path in _FOLDERS_OF_PROGRAMS if Path(path).is_dir() and not Path(path).is_symlink())]
    if not mother.python.startswith("/usr/"):
        shown.append(sys.base_prefix)
    etc = [str(path) for shown_name in _ETC_SHOWN for path in sorted(Path("/etc").glob(shown_name))]
    devices = [path for path in _DEVICES if Path(path).exists()]
    spec: dict[str, Any] = {
        "kind": name,
        "links": links,
        "shown": shown + etc,
        "devices": devices,
        "etc": _ETC_MADE,
        "disk_bytes": disk_bytes,
        "has_network": strong,
    }
    bubblewrap = _bubblewrap(spec) if name == "bubblewrap" else ()
    rules = [(path, "rx") for path in (*shown, *_FOLDERS_OF_PROGRAMS)]
    # In a root of its own all of these show the jail; elsewhere they would show the host.
    rules += [(path, "r") for path in (["/etc", "/proc"] if strong else [*etc, *_ETC_READ])]
    rules += [(path, "rw") for path in ([*devices, "/dev/shm"] if strong else devices)]  # noqa: S108 - the jail's own
    return Level(
        name=name,
        walls=walls(mother, spec, bubblewrap),
        seccomp=(allow_list(unix_sockets=strong) or b"") if name != "rlimits" else b"",
        landlock=tuple(rules) if landlock_abi and name != "rlimits" else (),
        private_root=strong,
    )


def _bubblewrap(spec: dict[str, Any]) -> tuple[str, ...]:
    """The command of bubblewrap up to the program. Its arguments are the security of it."""
    command = [shutil.which("bwrap", path=os.pathsep.join(SEARCH_PATH)) or "bwrap"]
    command += ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    command += ["--as-pid-1", "--uid", "65534", "--gid", "65534", "--hostname", "jail", "--cap-drop", "ALL"]
    for path, target in spec["links"]:
        command += ["--symlink", target, path]
    command += ["--proc", "/proc", "--dev", "/dev", "--bind", f"{STAGING}/shm", "/dev/shm"]  # noqa: S108
    command += ["--remount-ro", "/dev", "--bind", f"{STAGING}/tmp", "/tmp"]  # noqa: S108
    for number, path in enumerate(spec["shown"]):
        command += ["--ro-bind", f"{STAGING}/{number}", path]
    for name in _COVERED:  # its /proc is a whole one
        if (path := Path("/proc", name)).exists():
            command += ["--ro-bind", f"{STAGING}/{LAYER}" if path.is_dir() else "/dev/null", str(path)]
    return (*command, "--remount-ro", "/", "--clearenv", "--chdir", "/tmp", "--")  # noqa: S108 - the jail's own
