"""The rows of the import and the start."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import split_start
from benchmarks._process import serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, by_turns, environment, python, run

READY = re.compile(r'"event":"ready".*?"at":\["http://([^"]+)"')

IMPORT = Spec("import fissile", "import anyio, attrs, msgspec", "ms", 2.0)
START = Spec("monolith, start to ready", "import quart, hypercorn.asyncio in a bare Python", "ms", 2.5)
RUN = Spec("run-code of an empty Python program, through the gateway, local sandbox", "python3 -I -c ''", "ms", 3.0)


def rows(rounds: int) -> list[Row]:
    """Measure the import, the start, the first answer of a split, and a run of a program."""
    few = max(3, rounds // 3)
    return [_import(rounds), _start(few), *split_start.rows(few), _run_code(rounds)]


def _import(rounds: int) -> Row:
    try:
        return IMPORT.row(by_turns(rounds, lambda: _import_ms("fissile"), lambda: _import_ms("anyio, attrs, msgspec")))
    except CannotRun as error:
        return IMPORT.cannot(str(error))


def _import_ms(names: str) -> float:
    """Return how long an import takes in a new process, without the start of the interpreter, which would flatter the ratio."""
    program = f"from time import perf_counter; began = perf_counter(); import {names}; print(perf_counter() - began)"
    return float(run(python("-c", program))) * 1e3


def _start(rounds: int) -> Row:
    try:
        with _data() as values:

            def start_ms() -> float:
                with serving(python("-m", "fissile", "run"), ROOT, READY, FISSILE_PORT="0", **values) as server:
                    return server.ready_s * 1e3

            start_ms()  # stores what an application stores once, such as its challenges
            return START.row(by_turns(rounds, start_ms, _bare_start_ms))
    except CannotRun as error:
        return START.cannot(str(error))


@contextmanager
def _data() -> Generator[dict[str, str]]:
    """Make databases as `fissile migrate` does, in a folder that goes; return what a process has to be told to use them."""
    with TemporaryDirectory() as folder:
        values = {"FISSILE_DATABASE": f"sqlite:///{folder}", "FISSILE_BUS": f"sqlite:///{folder}/log.sqlite3"}
        arguments = python("-m", "fissile", "migrate")
        done = subprocess.run(
            arguments, cwd=ROOT, env=environment(**values), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CannotRun(done.stderr.strip()[-300:])
        yield values


def _bare_start_ms() -> float:
    return _process_ms("import quart, hypercorn.asyncio")


def _process_ms(program: str, *flags: str) -> float:
    began = perf_counter()
    subprocess.run(python(*flags, "-c", program), env=environment(), check=True)
    return (perf_counter() - began) * 1e3


# --- a run -----------------------------------------------------------------------------------------------------------


def _run_code(rounds: int) -> Row:
    try:
        with (
            _data() as values,
            serving(
                python("-m", "fissile", "run"),
                ROOT,
                READY,
                **values,
                FISSILE_PORT="0",
                FISSILE_CODE_EXECUTOR_SANDBOX="local",
                FISSILE_ROUTE_LIMITS="{}",  # one client asks for more than one may
            ) as server,
        ):
            connection = server.connect()

            def request_ms() -> float:
                began = perf_counter()
                connection.request(
                    "POST",
                    "/api/code-executor/run-code",
                    '{"language": "python", "source": ""}',
                    {"content-type": "application/json"},
                )
                response = connection.getresponse()
                body = response.read()
                if response.status != 200 or b'"finished"' not in body:
                    raise CannotRun(body.decode(errors="replace")[:300])
                return (perf_counter() - began) * 1e3

            return RUN.row(by_turns(rounds, request_ms, lambda: _process_ms("", "-I")))
    except (CannotRun, OSError) as error:
        return RUN.cannot(str(error))
