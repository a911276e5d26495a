"""The public surface: every public name has one home and a docstring, and importing it stays light."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fissile

PACKAGE = Path(fissile.__file__).parent
PUBLIC_MODULES = ("fissile", "fissile.abc", "fissile.testing")
HEAVY = (
    "quart", "quart_trio", "hypercorn", "trio", "structlog", "typed_settings", "rich", "cyclopts", "watchfiles", "aiokafka",
    "uvloop", "dotenv", "sqlalchemy", "docker", "fissile_gateway",
)  # fmt: skip


def exported(module: str) -> set[str]:
    """The names that the source of a module exports, by `from x import y as y`, or that it defines without an underscore."""
    found: set[str] = set()
    source = Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            found.update(
                alias.asname for alias in node.names if alias.asname is not None and alias.asname == alias.name
            )
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            found.add(node.name)
    return found


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_exists_and_nothing_else_is_public(module: str) -> None:
    there = {name for name in vars(importlib.import_module(module)) if not name.startswith("_")}
    assert exported(module) <= there
    if module == "fissile":
        submodules = {name for name in there if inspect.ismodule(getattr(fissile, name))}
        assert there - submodules == exported(module)


def test_every_public_name_has_one_home() -> None:
    homes: dict[str, list[str]] = {}
    for module in PUBLIC_MODULES:
        for name in exported(module):
            homes.setdefault(name, []).append(module)
    assert {name: at for name, at in homes.items() if len(at) > 1} == {}


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_has_a_docstring(module: str) -> None:
    imported = importlib.import_module(module)
    assert imported.__doc__
    missing = [
        name
        for name in exported(module)
        if (inspect.isclass(thing := getattr(imported, name)) or inspect.isfunction(thing))
        and not inspect.getdoc(thing)
    ]
    assert missing == []


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_method_has_a_docstring(module: str) -> None:
    imported = importlib.import_module(module)
    missing = [
        f"{name}.{method}"
        for name in sorted(exported(module))
        if inspect.isclass(cls := getattr(imported, name))
        for method, thing in vars(cls).items()
        if not method.startswith("_") and inspect.isfunction(thing) and not inspect.getdoc(getattr(cls, method))
    ]
    assert missing == []


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import fissile, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert sorted(loaded & set(HEAVY)) == []


def test_importing_it_leaves_what_runs_an_application_to_its_start() -> None:
    """A contract, a script and a test that only declare wait for none of it; and OpenSSL alone takes as long as fifty modules of ours."""
    names = (
        "fissile._running", "fissile._build", "fissile._remote", "fissile._local", "fissile._handler", "fissile._check",
        "fissile._delivery.consumer", "fissile._application", "fissile.transports", "hashlib", "ssl", "asyncio", "sqlite3", "subprocess",
    )  # fmt: skip
    code = f"import fissile, sys; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_it_has_no_effects() -> None:
    code = (
        "import threading, signal, logging; before = signal.getsignal(signal.SIGINT); import fissile; "
        "assert threading.active_count() == 1; assert not logging.getLogger().handlers; "
        "assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_but_the_library_lives_in_its_folder() -> None:
    assert [path.name for path in PACKAGE.parent.iterdir() if not path.name.startswith((".", "__"))] == ["fissile"]


def test_it_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_a_command_line_a_gateway_and_transports_are_not_imported_by_the_core() -> None:
    """The core knows the gateway by name only, and transports by the scheme of their URL."""
    for path in PACKAGE.glob("_*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        forbidden = {
            name for name in names if name.startswith(("fissile_gateway", "gateway", "modules", "fissile.cli"))
        }
        assert not (forbidden and path.name != "__main__.py"), f"{path.name} imports {forbidden}"
