"""The key beside a log in a file: who can read and write the log's folder is who runs the application, so that it need not be configured."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def key_beside(log: Path) -> str:
    """Return the key of a log, made when it is first asked for; only the log's owner can read it.

    Args:
        log: The file of the log.

    Raises:
        OSError: It cannot be read, or made.
    """
    path = log.with_name(f"{log.name}.identity-key")
    if not path.exists():
        make_key(path)
    return path.read_text(encoding="ascii")


def make_key(path: Path) -> None:
    """Make a file with a key that only its owner can read; one that is there already is left as it is.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        os.link(made, path)  # whole, or not at all; the first of several processes wins
    except FileExistsError:
        pass
    finally:
        made.unlink()
