"""Names: how a class, a module and a place in the source are called towards people and on the wire."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")

_VERSION = re.compile(r"v[0-9]+\Z")


def kebab_case(class_name: str) -> str:
    """Return `run-code` for `RunCode` and `http-error` for `HTTPError`."""
    return _WORD_START.sub("-", class_name).lower().replace("_", "-")


def is_kebab_case(name: str) -> bool:
    """Tell whether a name consists of lower-case words joined by hyphens."""
    return _KEBAB.match(name) is not None


def is_version(name: str) -> bool:
    """Tell whether a name is that of a version, such as `v2`."""
    return _VERSION.match(name) is not None


def source_place(thing: Any) -> str:  # Any: a function, a class, whatever a developer declared
    """Return `file:line` of a function or class, the file relative to the working directory where it lies below it."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    try:
        code = getattr(thing, "__code__", None)
        if code is not None:
            return place(code.co_filename, code.co_firstlineno)
        file = inspect.getsourcefile(thing)
        _, line = inspect.getsourcelines(thing)
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"
    return place(file or "?", line)


def place(file: str, line: int) -> str:
    """Return `file:line`, the file relative to the working directory where it lies below it."""
    return f"{file.removeprefix(os.path.join(os.getcwd(), ''))}:{line}"  # noqa: PTH109, PTH118 -- a hundred times at start
