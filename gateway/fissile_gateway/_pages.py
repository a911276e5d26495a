"""The application's own routes: every file of a package that has a `blueprint`, or `mounts` other ASGI applications."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import msgspec
from quart import Blueprint

from fissile import Fault, StartupFailed
from fissile_gateway._exchange import ASGIApp
from fissile_gateway._settings import GatewaySettings


class Pages(msgspec.Struct, frozen=True):
    """What the package of routes has.

    Attributes:
        blueprints: The blueprints, in the order of the files' names.
        mounts: Other ASGI applications, by the path below which they answer.
    """

    blueprints: tuple[Blueprint, ...] = ()
    mounts: Mapping[str, ASGIApp] = {}


def find_pages(package: str) -> Pages:
    """Import the files of a package, those whose names begin with `_` excepted.

    Args:
        package: Its import path; the default one may be missing.

    Raises:
        StartupFailed: It does not exist, or files cannot be imported; all of them are named.
    """
    if not _exists(package):
        if package == GatewaySettings().routes or not package:
            return Pages()
        fault = Fault(f"There is no package {package}.", "FISSILE_ROUTES", "Create it, or correct the setting.")
        raise StartupFailed((fault,))
    faults: list[Fault] = []
    blueprints: list[Blueprint] = []
    mounts: dict[str, ASGIApp] = {}
    parent = _import(package, faults)
    for info in sorted(iter_modules(getattr(parent, "__path__", [])), key=lambda info: info.name):
        file = None if info.name.startswith("_") else _import(f"{package}.{info.name}", faults)
        blueprint: Any = getattr(file, "blueprint", None)  # Any: whatever a developer called so
        if isinstance(blueprint, Blueprint):
            blueprints.append(blueprint)
        mounts.update(getattr(file, "mounts", {}))
    for path in mounts:
        if not path.startswith("/") or path.endswith("/"):
            faults.append(Fault(f"An application is mounted at {path!r}.", package, "Write a path such as '/legacy'."))
    if faults:
        raise StartupFailed(tuple(faults))
    return Pages(tuple(blueprints), mounts)


def _exists(package: str) -> bool:
    try:
        return bool(package) and find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _import(name: str, faults: list[Fault]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 -- whatever goes wrong in a developer's file is told as its fault
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else name
        what = f"The routes in {name} cannot be imported: {type(error).__name__}: {error}."
        faults.append(Fault(what, where, "Correct the file."))
        return None
