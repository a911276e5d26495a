"""The key that `fissile dev --split` makes, and hands over to other commands of the same user: a file in the application's folder `data`.

It is for the bus that was chosen there, and for nothing that serves: `fissile run` wants a key that somebody has set.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from fissile._errors import Fault, StartupFailed
from fissile._identity_key import make_key

_CURE = "Remove it, and start `fissile dev --split` again; or set FISSILE_IDENTITY_KEYS."


def path_of_key(root: Path, bus: str) -> Path:
    """Return the file with the key of a bus; its name says nothing of the bus, whose URL may have a password.

    Args:
        root: The folder of the application.
        bus: The bus.
    """
    return root / "data" / f"dev-{hashlib.sha256(bus.encode()).hexdigest()[:12]}.identity-key"


def developers_key(root: Path, bus: str) -> str:
    """Return the key of a bus, made when it is first asked for. It is kept: what was signed with it may wait in the log.

    Args:
        root: The folder of the application.
        bus: The bus.

    Raises:
        StartupFailed: Others could read it.
        OSError: It cannot be read, or made.
    """
    path = path_of_key(root, bus)
    found = read_key(path)
    if found is None:
        make_key(path)
        found = read_key(path)
    if found is None:
        raise FileNotFoundError(path)
    return found


def read_key(path: Path) -> str | None:
    """Return the key in a file; None if there is none.

    Raises:
        StartupFailed: It is not this user's own, or others could read it.
        OSError: It cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        told = os.fstat(descriptor)
        problem = None
        if not stat.S_ISREG(told.st_mode) or (hasattr(os, "geteuid") and told.st_uid != os.geteuid()):
            problem = "The file with the key of `fissile dev --split` is not this user's own."
        elif os.name == "posix" and told.st_mode & 0o077:
            problem = "Others may read the key of `fissile dev --split`, or write it."
        if problem is not None:
            raise StartupFailed((Fault(problem, str(path), _CURE),))
        return file.read().strip()
