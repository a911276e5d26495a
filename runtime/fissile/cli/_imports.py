"""Reads what the files of a module import, without running them: for the boundaries of `check` and the edges of `graph`."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from fissile._application import Application
from fissile._names import place

_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
"""Where statements hold others."""
_SKIPPED = {"__pycache__", "node_modules"}


@frozen
class Import:
    """One name that a file imports.

    Attributes:
        module: The import name of the module, made absolute.
        name: What is imported from it, or None for `import module`.
        bound: The name it has in the file.
        line: Where.
    """

    module: str
    name: str | None
    bound: str
    line: int

    @property
    def target(self) -> str:
        """The longest dotted name: what is imported from a package may be a module in it."""
        return self.module if self.name is None else f"{self.module}.{self.name}"


@frozen
class SourceFile:
    """A parsed file of a package.

    Attributes:
        import_name: Its import name, such as `modules.orders.service`.
        path: Where it is.
        is_package: Whether it is an `__init__.py`.
        tree: Its syntax tree, or None if it is not valid Python.
        error: What is wrong with it then.
    """

    import_name: str
    path: Path
    is_package: bool
    tree: ast.Module | None
    error: SyntaxError | None = None

    def place(self, line: int) -> str:
        """Return `file:line`."""
        return place(str(self.path), line)

    def imports(self) -> Iterator[Import]:
        """Yield everything that the file imports, at any level and under `TYPE_CHECKING` too."""
        for node in _statements(self.tree) if self.tree is not None else ():
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, alias.asname or alias.name, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    yield Import(module, alias.name, alias.asname or alias.name, node.lineno)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.import_name.split(".")
        up = node.level - 1 if self.is_package else node.level
        base = parts[: len(parts) - up] if up else parts
        return ".".join([*base, *([node.module] if node.module else [])])


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all statements of a file. An import is one: expressions, of which a file mostly consists, need not be looked at."""
    waiting: deque[ast.AST] = deque(tree.body)
    while waiting:
        node = waiting.popleft()
        yield node
        for block in _BLOCKS:
            waiting.extend(getattr(node, block, ()))


@frozen
class Package:
    """A package of the application: a module's, or the gateway's own.

    Attributes:
        import_name: Such as `modules.orders`.
        files: Its files.
    """

    import_name: str
    files: tuple[SourceFile, ...]

    @property
    def contract_name(self) -> str:
        """The import name of its contract."""
        return f"{self.import_name}.contract"

    def holds(self, import_name: str) -> bool:
        """Tell whether a module is in the package."""
        return is_within(import_name, self.import_name)


def is_within(import_name: str, package: str) -> bool:
    """Tell whether an import name is a package or something in it."""
    return import_name == package or import_name.startswith(f"{package}.")


def read_packages(application: Application) -> tuple[Package, ...]:
    """Read the packages of an application's modules."""
    names = [path.partition(":")[0] for path in application.paths]
    return tuple(
        package for name in dict.fromkeys(names) if (package := read_package(application.root, name)) is not None
    )


def read_package(root: Path, import_name: str) -> Package | None:
    """Read a package below a folder; None if it is not there (a module may be an installed package)."""
    folder = root.joinpath(*import_name.split("."))
    file = folder.with_suffix(".py")
    if folder.is_dir():
        return Package(import_name, tuple(_read_file(root, path) for path in sorted(_python_files(folder))))
    return Package(import_name, (_read_file(root, file),)) if file.is_file() else None


def _python_files(folder: Path) -> Iterator[Path]:
    """Yield the files that can be imported; what is named otherwise, such as `wrong-answer.py`, is data."""
    for path in folder.iterdir():
        if not path.stem.isidentifier():
            continue
        if path.is_dir() and path.name not in _SKIPPED:
            yield from _python_files(path)
        elif path.suffix == ".py":
            yield path


def _read_file(root: Path, path: Path) -> SourceFile:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    import_name = ".".join(parts[:-1] if is_package else parts)
    try:
        return SourceFile(import_name, path, is_package, ast.parse(path.read_bytes(), str(path)))
    except (SyntaxError, ValueError) as error:
        broken = error if isinstance(error, SyntaxError) else SyntaxError(str(error))
        return SourceFile(import_name, path, is_package, None, broken)
