"""A file that processes append lines to, and that survives them."""

from __future__ import annotations

import os
from pathlib import Path


def append_note(path: str, line: str) -> None:
    """Append a line; it is there whatever happens to the process from then on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def read_notes(path: Path) -> list[str]:
    """Return all lines."""
    return path.read_text().splitlines() if path.exists() else []
