"""Tells at once that a process is dead: each holds a lock on one byte of a file, which the kernel lets go of when the process ends.

The locks are those of an open file description (Linux, `fcntl(2)`): they belong neither to the whole process nor to any file descriptor of
the same file in it, as POSIX's do. Where there are none, a process is dead when it has been silent for long enough.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class Alive:
    """The locks of one transport.

    Args:
        path: The log's file; the locks are in a file beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + "-alive")
        self._file: int | None = None

    def hold(self, number: int) -> bool:
        """Say that the process of this number lives; return False if that cannot be said here."""
        if sys.platform != "linux" or struct.calcsize("P") != 8:
            return False
        import fcntl

        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, number, 1, 0))
        except OSError:
            return False
        return True

    def look(self) -> None:
        """Be able to tell about others, without saying anything of this process."""
        with suppress(OSError):
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def is_dead(self, number: int) -> bool:
        """Tell whether the process of this number, which held its lock, has certainly ended."""
        if sys.platform != "linux" or self._file is None:
            return False
        import fcntl

        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, number, 1, 0)
            told = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked)
        except OSError:
            return False
        return bool(struct.unpack(_FLOCK, told)[0] == fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
