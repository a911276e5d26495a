"""Taking away a folder that a stranger's program has filled: the one place where we touch names of its choice."""

# ruff: noqa: PTH208 - it is all about calls that do not follow links

import os
import secrets
import stat
from contextlib import suppress


def remove_folder(path: str) -> bool:
    """Remove a folder with all that is in it, and return whether it is gone.

    No link is followed. The tree is not descended into either, which would end at our own limits of depth, of open
    files or of the length of a path: what is in a folder is moved up before that folder is removed.

    Args:
        path: The folder. Nobody may change it any more.
    """
    with suppress(OSError):
        _open_up(path, None)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)  # noqa: PTH106
    return not os.path.lexists(path)


def _empty(top: int) -> None:
    prefix, moved = secrets.token_hex(8), 0
    left = os.listdir(top)
    while left:
        name = left.pop()
        with suppress(OSError):  # the others are to go nevertheless
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            _open_up(name, top)
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                for inner in os.listdir(folder):
                    if not _is_folder(inner, folder):
                        os.unlink(inner, dir_fd=folder)
                        continue
                    _open_up(inner, folder)  # else it could not be moved
                    moved += 1
                    os.rename(inner, f"{prefix}{moved}", src_dir_fd=folder, dst_dir_fd=top)
                    left.append(f"{prefix}{moved}")
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_up(name: str, parent: int | None) -> None:
    """Let ourselves into a folder that its owner has closed. Root needs no leave, and must not be led astray by it."""
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=parent)
