"""The migrations in a folder, read from their text: enough to tell what a database lacks when a process starts.

Alembic would import every migration, and importing Alembic takes as long as importing SQLAlchemy. What is not a simple line, one migration after
the other, is left to Alembic, which says what is wrong with it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec


class Link(msgspec.Struct, frozen=True):
    """One migration.

    Attributes:
        revision: Its number.
        follows: The number of the one before it; None for the first.
        title: What it does.
    """

    revision: str
    follows: str | None
    title: str

    def __str__(self) -> str:
        return f"{self.revision} {self.title}".strip()


def read_chain(folder: Path) -> tuple[Link, ...] | None:
    """Return the migrations of a folder in the order of their application, or None where they are not a simple line."""
    links: dict[str | None, Link] = {}
    for file in folder.glob("*.py"):
        if file.name == "__init__.py":
            continue
        link = _read(file)
        if link is None or link.follows in links:
            return None
        links[link.follows] = link
    chain: list[Link] = []
    last: str | None = None
    while (link := links.pop(last, None)) is not None:
        chain.append(link)
        last = link.revision
    return tuple(chain) if not links else None


def _read(file: Path) -> Link | None:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return None
    values: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            values[target.id] = value.value
    revision, follows = values.get("revision"), values.get("down_revision", "")
    if not isinstance(revision, str) or not (follows is None or (isinstance(follows, str) and follows)):
        return None
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Link(revision, follows, title)
