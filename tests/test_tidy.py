"""Style that no linter checks: sizes, and names with a better one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("runtime", "gateway", "modules", "tests", "benchmarks")
NOT_OURS = {"__pycache__", "seeds", "migrations"}  # programs that are right and wrong on purpose; what Alembic writes
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if not NOT_OURS & set(path.parts))
SOURCES = [path for path in FILES if "tests" not in path.relative_to(ROOT).parts]

FUNCTION_LINES = 70
FILE_LINES = 500
LONGER: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {
    "call": 80,  # of _local.py, the hottest path: each call that it made of a part of itself would cost 0.05 µs
}

BANNED = {
    r"\bprint\(": "Data goes through the console of fissile.cli, the rest to a logger.",
    r"\btime\.sleep\(": "Wait on the clock of the environment, or in a thread for a condition.",
    r"\basyncio\.(create_task|gather|wait_for|get_event_loop)\(": "Use a task group or a scope of AnyIO; see ARCHITECTURE.md.",
    r"\bfrom unittest(\.mock)? import|\bimport unittest": "Write a fake; see fissile.testing.",
    r"\bos\.environ\b": "Read settings through fissile._settings, once.",
    r"\bdatetime\.(utcnow|now)\(\)": "Ask the clock of the environment.",
    r"(?i)\b(TODO|FIXME|XXX)\b": "Do it, or write an issue.",
    r"\b(timeout|delay|interval|ttl)\s*: (int|float)\b": "Say the unit: timeout_s.",
}
MAY = {
    r"\bprint\(": ("cli/", "__main__", "benchmarks/", "sandbox/", "testing/_host"),
    r"\btime\.sleep\(": ("sandbox/_", "benchmarks/"),
    r"\basyncio\.(create_task|gather|wait_for|get_event_loop)\(": ("kafka", "benchmarks/", "fissile_gateway/"),
    r"\bos\.environ\b": ("_settings.py", "_health.py", "cli/", "sandbox/", "benchmarks/", "modules/"),
    r"\bdatetime\.(utcnow|now)\(\)": ("benchmarks/",),
}


def inner_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
        else:
            yield from inner_functions(child)


def _lines(node: ast.AST) -> int:
    return (getattr(node, "end_lineno", None) or 0) - getattr(node, "lineno", 0) + 1


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file with its number of lines, without its docstring and the functions within it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            is_docstring = (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            )
            docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0
            yield node.name, _lines(node) - docstring - sum(map(_lines, inner_functions(node)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGER.get(path.name, FILE_LINES), f"{path.name} has {lines} lines: divide it by what it holds."
    long = {name: count for name, count in functions(path) if count > LONGER_FUNCTIONS.get(name, FUNCTION_LINES)}
    assert not long, f"Divide {long}."


@pytest.mark.parametrize("pattern", BANNED)
def test_no_name_is_used_that_has_a_better_one(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        if not any(part in str(path) for part in MAY.get(pattern, ()))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == [], f"{BANNED[pattern]}\n" + "\n".join(found)
