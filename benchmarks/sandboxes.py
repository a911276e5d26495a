"""The rows of the code executor: from the call to the report, in each sandbox that this machine can do."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

from anyio.from_thread import BlockingPortal, start_blocking_portal

from benchmarks._rows import CannotRun, Row, Spec, by_turns
from modules.code_executor.sandbox import Limits, Outcome, Program, Sandbox, SandboxError
from modules.code_executor.sandbox._leases import LABEL
from modules.code_executor.sandbox.docker import DockerSandbox
from modules.code_executor.sandbox.languages import SEARCH_PATH
from modules.code_executor.sandbox.local import LocalSandbox
from tests.modules.code_executor.engine import Engine, NoEngine, open_engine

BARE = "python3 -I -c '', bare"
LOCAL = {kind: Spec(f"an empty Python program, {kind}", BARE, "ms", 3.0) for kind in ("bubblewrap", "unshare")}
LOCAL_COLD = Spec("the same, unshare, no jail kept ready", BARE, "ms")
POOL = Spec("the same, Docker, from the pool", BARE, "ms", 4.0)
POOL_MEMORY = Spec("the same, with other memory than the pool's", BARE, "ms")
COLD = Spec("the same, Docker, no container kept ready", BARE, "ms")
COMPILED = Spec("a C program that was compiled before, unshare", "gcc -O2 of it, bare", "ms", 1.0)

SPARE = 2
EMPTY = Program("python", "")
SOURCE = '#include <stdio.h>\nint main(void) { puts("42"); return 0; }\n'
SETTLED_WITHIN_S = 60.0


def rows(rounds: int) -> list[Row]:
    """Measure everything; what this machine lacks is told in its row."""
    logging.getLogger("modules.code_executor").setLevel(logging.CRITICAL)
    with start_blocking_portal() as portal:
        found = [_measured(LOCAL[kind], portal, partial(LocalSandbox, levels=(kind,)), rounds) for kind in LOCAL]
        found.append(_measured(LOCAL_COLD, portal, lambda: LocalSandbox(levels=("unshare",), spare=0), rounds))
        found.append(_compiled(portal, rounds))
        try:
            with open_engine() as engine:
                found += _containers(engine, portal, rounds)
        except NoEngine as error:
            found += [spec.cannot(str(error)) for spec in (POOL, POOL_MEMORY, COLD)]
    return found


def _containers(engine: Engine, portal: BlockingPortal, rounds: int) -> list[Row]:
    def settle(spare: int) -> Callable[[], None]:
        def wait() -> None:
            until_s = perf_counter() + SETTLED_WITHIN_S
            while len(engine.api.containers(all=True, filters={"label": LABEL})) != spare:
                if perf_counter() > until_s:
                    raise CannotRun("the pool is not filled")
                sleep(0.02)
            sleep(0.2)  # a started container's launcher loads its code

        return wait

    def opened(spare: int) -> Sandbox:
        return DockerSandbox(image=engine.image, spare=spare)

    other = Program("python", "", limits=Limits(memory_bytes=96 << 20))
    return [
        _measured(POOL, portal, lambda: opened(SPARE), rounds, settle=settle(SPARE)),
        _measured(POOL_MEMORY, portal, lambda: opened(SPARE), rounds, program=other, settle=settle(SPARE)),
        _measured(COLD, portal, lambda: opened(0), rounds, settle=settle(0)),
    ]


def _measured(
    spec: Spec,
    portal: BlockingPortal,
    make: Callable[[], Sandbox],
    rounds: int,
    *,
    program: Program = EMPTY,
    floor: Callable[[], float] | None = None,
    settle: Callable[[], None] | None = None,
) -> Row:
    python = shutil.which("python3", path=os.pathsep.join(SEARCH_PATH)) or "python3"

    def settled() -> None:
        if settle is not None:
            settle()

    def floor_ms() -> float:
        settled()  # containers that are being made or removed would slow it down
        return floor() if floor is not None else _process_ms(python, "-I", "-c", "")

    def run_ms(sandbox: Sandbox) -> float:
        settled()
        began = perf_counter()
        result = portal.call(sandbox.run, program)
        took_ms = (perf_counter() - began) * 1e3
        if result.outcome is not Outcome.FINISHED:
            raise CannotRun(f"{result.outcome}: {result.stderr[-200:]}")
        return took_ms

    try:
        with ExitStack() as stack:
            entered: AbstractContextManager[Sandbox] = portal.wrap_async_context_manager(make())
            sandbox = stack.enter_context(entered)
            portal.call(sandbox.probe)
            if program.language not in sandbox.languages():
                raise CannotRun(f"the tools of {program.language} are not there")
            return spec.row(by_turns(rounds, lambda: run_ms(sandbox), floor_ms))
    except (CannotRun, SandboxError) as error:
        return spec.cannot(str(error))


def _compiled(portal: BlockingPortal, rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "main.c")
        source.write_text(SOURCE)
        return _measured(
            COMPILED,
            portal,
            lambda: LocalSandbox(levels=("unshare",)),
            rounds,
            program=Program("c", SOURCE),
            floor=lambda: _process_ms("gcc", "-O2", "-pipe", "-o", f"{folder}/main", str(source)),
        )


def _process_ms(*command: str) -> float:
    began = perf_counter()
    subprocess.run(command, check=True)
    return (perf_counter() - began) * 1e3
