"""Which files `fissile dev` watches, and how a change is told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from importlib.util import cache_from_source
from pathlib import Path

from attrs import frozen
from watchfiles import Change, DefaultFilter, awatch

from fissile._application import Application

CONFIGURATION = ("pyproject.toml", "fissile.toml", ".env", ".env.local")
_LOOK_MS = 200
"""How often the watcher looks whether it shall end, in milliseconds: it runs in a thread, which cannot be cancelled."""
_SUFFIXES = (".py", ".toml", ".env", ".html", ".jinja", ".css", ".js", ".sql", ".yaml", ".yml")


@frozen
class Watched:
    """What is watched: folders with all that is in them, and the configuration files of one folder.

    Attributes:
        root: The folder of the configuration.
        folders: Folders and files of the application's own code.
    """

    root: Path
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, application: Application | None, root: Path) -> Watched:
        """Return what to watch for an application, or for one whose configuration cannot be read."""
        if application is None:
            return cls(root, ())
        root = application.root
        tops = ["gateway", *(path.partition(":")[0].partition(".")[0] for path in application.paths)]
        candidates = [each for top in dict.fromkeys(tops) for each in (root / top, root / f"{top}.py")]
        return cls(root, tuple(path for path in candidates if path.exists()))

    def names(self) -> tuple[str, ...]:
        """Return what people call it."""
        folders = [f"{path.name}/" if path.is_dir() else path.name for path in self.folders]
        return (*sorted(folders), *(name for name in CONFIGURATION if (self.root / name).is_file()))

    async def folder_changes(self) -> AsyncIterator[set[Path]]:
        """Yield the files that have changed in the folders, a burst of changes at once."""
        async for changes in awatch(*self.folders, watch_filter=_SourceFilter(), step=50, rust_timeout=_LOOK_MS):
            yield {Path(path) for _, path in changes}

    async def configuration_changes(self) -> AsyncIterator[set[Path]]:
        """Yield the configuration files that have changed. The folder is watched, since editors replace files."""
        names = _ConfigurationFilter()
        async for changes in awatch(self.root, watch_filter=names, step=50, rust_timeout=_LOOK_MS, recursive=False):
            yield {Path(path) for _, path in changes}

    def shown(self, paths: Iterable[Path]) -> str:
        """Return changed files as people call them: the first one, and how many more."""
        names = sorted(os.path.relpath(path, self.root) for path in paths)
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


class _SourceFilter(DefaultFilter):
    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


class _ConfigurationFilter:
    def __call__(self, _change: Change, path: str) -> bool:
        return Path(path).name in CONFIGURATION


def forget_compiled(paths: Iterable[Path]) -> None:
    """Remove the compiled form of changed files.

    Python takes a compiled file for current if the source has the same size and the same second of change. Two saves within a second
    would run the first.
    """
    for path in paths:
        if path.suffix == ".py":
            Path(cache_from_source(str(path))).unlink(missing_ok=True)
