"""`fissile version`: what runs here, for a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from fissile.cli._context import Context

_PACKAGES = ("fissile", "anyio", "trio", "uvloop", "msgspec", "quart", "hypercorn")


def version(*, context: Context) -> None:
    """Show the version of fissile, and of what it runs on.

    Args:
        context: What all commands are given.
    """
    found: dict[str, str | None] = {name: installed_version(name) for name in _PACKAGES}
    found["python"] = platform.python_version()
    if context.as_json:
        context.output.json(found)
        return
    others = ", ".join(f"{name} {number}" for name, number in found.items() if number and name != "fissile")
    context.output.data(f"fissile {found['fissile']} ({others})")


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None
