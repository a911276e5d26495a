"""The static files of the application's pages, read once: each with its media type, its entity tag and its compressed form."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served. Other files, such as licences, stay where they are."""

_LEFT_OUT = "build"
"""A folder with what a file was made from."""


class StaticFile(msgspec.Struct, frozen=True):
    """A file as it is sent.

    Attributes:
        content: Its bytes.
        compressed: The same, by gzip.
        media_type: What it is.
        tag: Its entity tag, without quotes: equal bytes have equal tags, on every replica.
    """

    content: bytes
    compressed: bytes
    media_type: str
    tag: str


class StaticFiles(msgspec.Struct, frozen=True):
    """All files of a folder.

    Attributes:
        files: The files, by their paths below the folder.
        version: What tells one state of the folder from another: it stands in their URLs, so that they may be kept for ever.
    """

    files: dict[str, StaticFile]
    version: str


def read(folder: Path) -> StaticFiles:
    """Read the files of a folder and of those in it. It blocks, so a thread calls it."""
    files: dict[str, StaticFile] = {}
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix not in MEDIA_TYPES or _LEFT_OUT in path.relative_to(folder).parts:
            continue
        content = path.read_bytes()
        files[name] = StaticFile(
            content,
            gzip.compress(content, mtime=0),
            MEDIA_TYPES[path.suffix],
            hashlib.sha256(content).hexdigest()[:16],
        )
        state.update(f"{name}\0{len(content)}\0".encode() + content)
    return StaticFiles(files, state.hexdigest()[:16])
