"""The boundaries between modules: of another module, a module imports the contract and nothing else; a contract imports only fissile.

What is checked is the text of the files, so that an import in a function or under `TYPE_CHECKING` counts as well: all of them would break
when the module runs in a process of its own, or make a contract drag its module along.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from fissile._application import Application
from fissile._errors import Fault
from fissile.cli._imports import Package, SourceFile, is_within, read_package, read_packages

_CONTRACT_MAY_IMPORT = {"fissile", "attrs", "attr", "msgspec", "typing_extensions", *sys.stdlib_module_names}


def boundary_faults(application: Application) -> Iterator[Fault]:
    """Yield each import that crosses a boundary, and each file that is not valid Python."""
    packages = read_packages(application)
    gateway = read_package(application.root, "gateway")
    for package in (*packages, *([gateway] if gateway is not None else [])):
        for file in package.files:
            if file.error is not None:
                where = file.place(file.error.lineno or 1)
                yield Fault(
                    f"{file.import_name} cannot be imported: SyntaxError: {file.error}.", where, "Correct the file."
                )
            yield from _crossings(file, package, packages)
            if is_within(file.import_name, package.contract_name):
                yield from _weight(file, package, packages)


def _crossings(file: SourceFile, package: Package, packages: tuple[Package, ...]) -> Iterator[Fault]:
    """Yield imports of other modules than their contracts."""
    for found in file.imports():
        for other in packages:
            if other is package or not other.holds(found.target) or is_within(other.import_name, package.import_name):
                continue
            if not is_within(found.target, other.contract_name):
                what = f"{file.import_name} imports {found.target}: of another module it may import the contract and nothing else."
                cure = (
                    f"Import from {other.contract_name}, and call the module through the bus; "
                    "what both need belongs to the contract, or to a library of its own."
                )
                yield Fault(what, file.place(found.line), cure)
            break


def _weight(file: SourceFile, package: Package, packages: tuple[Package, ...]) -> Iterator[Fault]:
    """Yield what a contract imports beyond fissile, attrs, msgspec and the standard library."""
    for found in file.imports():
        if found.module.partition(".")[0] in _CONTRACT_MAY_IMPORT or is_within(found.target, package.contract_name):
            continue
        if any(
            other is not package and other.holds(found.target) and not is_within(found.target, other.contract_name)
            for other in packages
        ):
            continue  # told as a crossing already
        if package.holds(found.target):
            cure = "Define it in the contract; whoever imports the contract would get that file too."
        elif any(is_within(found.target, other.contract_name) for other in packages):
            cure = "Repeat the fields it needs: a contract that needs another cannot change or be deployed without it."
        else:
            cure = "Use types of the standard library; whoever imports the contract would have to install it too."
        what = f"The contract {file.import_name} imports {found.target}: it may import only fissile, attrs, msgspec and the standard library."
        yield Fault(what, file.place(found.line), cure)
