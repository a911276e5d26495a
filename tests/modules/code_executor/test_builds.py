"""What compilers make is kept: one source is compiled once, however many runs it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import Builds, Limits, Outcome, Program, Sandbox
from modules.code_executor.sandbox._base import COMPILING, Emit
from modules.code_executor.sandbox._builds import ARTIFACT_BYTES, Artifact, Refusal
from modules.code_executor.sandbox._model import Work
from modules.code_executor.sandbox._supervise import Ending
from modules.code_executor.sandbox.docker import DockerSandbox
from modules.code_executor.sandbox.languages import PROGRAM, Language
from modules.code_executor.sandbox.local import LocalSandbox

from .conftest import KINDS, MIB, Host, demand, missing, skip

AMPLE = Limits(wall_s=60.0, cpu_s=20.0)
ECHO = "#include <stdio.h>\nint main(void) { int c; while ((c = getchar()) != EOF) putchar(c); return 0; }"


ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
TRIO = pytest.param(("trio", {}), id="trio")
on_both = pytest.mark.parametrize("anyio_backend", [ASYNCIO, TRIO], indirect=True)


@pytest.fixture(params=[TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Where runs wait for each other, on asyncio, too; the rest does not know of the event loop."""
    return request.param


class Counting:
    """Counts how often the compiler is asked; a base for sandboxes."""

    compiled: int
    version: str
    first_waits = False
    """Whether the first compiler goes on for ever."""

    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        self.compiled = getattr(self, "compiled", 0) + work.is_compiling
        if work.is_compiling and self.first_waits and self.compiled == 1:
            await anyio.sleep_forever()
        ending: Ending = await super().carry_out(work, emit)  # type: ignore[misc]  # of the sandbox beside it
        return ending

    def toolchain(self, language: Language) -> str:
        toolchain: str = super().toolchain(language)  # type: ignore[misc]  # likewise
        return toolchain + getattr(self, "version", "")


class CountingLocal(Counting, LocalSandbox):
    pass


class CountingDocker(Counting, DockerSandbox):
    pass


Open = Callable[..., Any]


@pytest.fixture
def open_counting(request: pytest.FixtureRequest) -> Open:
    def open_one(kind: str, **settings: Any) -> Any:
        if kind == "docker":
            return CountingDocker(image=request.getfixturevalue("engine").image, spare=0, **settings)
        if reason := missing(kind):
            skip(kind, reason)
        return CountingLocal(levels=(kind,), **settings)

    return open_one


async def need_c(sandbox: Sandbox) -> None:
    await demand(sandbox, "c")


async def echo(sandbox: Sandbox, text: str, source: str = ECHO) -> None:
    result = await sandbox.run(Program("c", source, text, AMPLE))
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, text), result


@on_both
@pytest.mark.parametrize("kind", KINDS)
async def test_many_runs_of_one_source_compile_it_once_also_at_the_same_time(kind: str, open_counting: Open) -> None:
    async with open_counting(kind) as sandbox:
        await need_c(sandbox)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(echo, sandbox, f"{number}\n")
        await echo(sandbox, "after\n")
        assert sandbox.compiled == 1
        await echo(sandbox, "another\n", ECHO + "\n")
        assert sandbox.compiled == 2


async def test_another_version_of_the_tools_compiles_again(open_counting: Open) -> None:
    async with open_counting("unshare") as sandbox:
        await need_c(sandbox)
        for version in ("1", "2", "1"):
            sandbox.version = version
            await echo(sandbox, "x")
        assert sandbox.compiled == 2


@on_both
async def test_who_gives_up_in_the_middle_of_compiling_leaves_the_turn_to_the_next(open_counting: Open) -> None:
    async with open_counting("unshare") as sandbox:
        await need_c(sandbox)
        sandbox.first_waits = True
        async with anyio.create_task_group() as tasks:
            first = anyio.CancelScope()

            async def give_up() -> None:
                with first:
                    await echo(sandbox, "never")

            tasks.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(echo, sandbox, "x")
            await anyio.wait_all_tasks_blocked()
            first.cancel()
        assert first.cancelled_caught
        assert sandbox.compiled == 2


async def test_a_refusal_of_the_compiler_is_kept_for_a_while(open_counting: Open) -> None:
    now_s = [0.0]
    builds = Builds(refusals_s=60.0, now_s=lambda: now_s[0])
    async with open_counting("unshare", builds=builds) as sandbox:
        await need_c(sandbox)
        program = Program("c", "int main(void) { return nothing; }", limits=AMPLE)
        first = await sandbox.run(program)
        now_s[0] = 59.0
        second = await sandbox.run(program)
        assert (sandbox.compiled, second) == (1, first)
        assert (first.outcome, first.exit_code) == (Outcome.COMPILE_ERROR, 1)
        now_s[0] = 61.0
        await sandbox.run(program)
        assert sandbox.compiled == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_compiler_has_limits_of_its_own_and_says_which_one_it_came_to(
    kind: str, open_counting: Open, host: Host
) -> None:
    bomb = "#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(x)))\nint main(void) { B(B(B(;))) }"
    compiling = Limits(wall_s=30.0, cpu_s=1.0, memory_bytes=1024 * MIB)
    async with open_counting(kind, compiling=compiling) as sandbox:
        await need_c(sandbox)
        result = await sandbox.run(Program("c", bomb, limits=AMPLE))
        assert (result.outcome, result.exit_code) == (Outcome.COMPILE_ERROR, None), result
        assert "The compiler used too much" in result.stderr
        await sandbox.run(Program("c", bomb, limits=AMPLE))
        assert sandbox.compiled == 1
        await echo(sandbox, "still here")
    await host.check_unharmed()


async def test_a_program_larger_than_may_be_kept_is_refused(open_counting: Open) -> None:
    source = f"char many[{ARTIFACT_BYTES + 1}] = {{1}};\nint main(void) {{ return many[1]; }}"
    async with open_counting("unshare") as sandbox:
        await need_c(sandbox)
        result = await sandbox.run(Program("c", source, limits=AMPLE))
    assert result.outcome is Outcome.COMPILE_ERROR
    assert f"may have {ARTIFACT_BYTES}" in result.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "made",
    [
        "os.symlink('/etc/passwd', 'main')",
        "os.symlink('../../etc/passwd', 'main')",
        "os.mkfifo('main')",
        "os.mkdir('main')",
        "os.symlink('/dev/zero', 'main')",
        "pass",
    ],
)
async def test_what_a_compiler_leaves_is_taken_only_if_it_is_an_ordinary_file(
    kind: str, made: str, open_counting: Open
) -> None:
    code = f"import os; os.chdir(os.environ['HOME']); {made}"  # Python is in every image
    language = Language("odd", "main.odd", compile=(("python3", "-I", "-c", code),), run=(PROGRAM,))
    async with open_counting(kind) as sandbox:
        await sandbox.probe()
        ending = await sandbox.carry_out(Work(language, "", COMPILING, is_compiling=True), None)
    assert ending.stdout.content() == b""
    assert (ending.outcome, ending.status) == (Outcome.FINISHED, 0), ending.stderr.text()
    assert ending.refused


@pytest.mark.parametrize("kind", KINDS)
async def test_a_compiled_program_cannot_change_itself_for_the_runs_after_it(kind: str, open_counting: Open) -> None:
    source = r"""
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main(void) {
            int writes = open("/proc/self/exe", O_RDWR);
            int reads = open("/proc/self/exe", O_RDONLY);
            printf("%d %d %d\n", writes, reads >= 0, ftruncate(reads, 0));
            return chmod("/proc/self/exe", 0) && 0;
        }
    """
    async with open_counting(kind) as sandbox:
        await need_c(sandbox)
        for _ in range(2):
            result = await sandbox.run(Program("c", source, limits=AMPLE))
            assert (result.outcome, result.stdout) == (Outcome.FINISHED, "-1 1 -1\n"), result
        assert sandbox.compiled == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_can_be_executed_from_the_folder_of_a_run(kind: str, open_counting: Open) -> None:
    async with open_counting(kind) as sandbox:
        source = (
            "import os, shutil, sys\nshutil.copy(os.path.realpath(sys.executable), 'mine')\nos.execv('mine', ['mine'])"
        )
        result = await sandbox.run(Program("python", source, limits=AMPLE))
        assert "Permission" in result.stderr, result


def test_the_least_used_make_room_in_count_and_in_bytes() -> None:
    builds = Builds(count_max=3, bytes_max=ARTIFACT_BYTES)
    for key in "abc":
        builds.keep(key, Artifact(b"1234"))
    assert builds.find("a") is not None
    builds.keep("d", Artifact(b"1234"))
    assert [builds.find(key) is not None for key in "abcd"] == [True, False, True, True]
    builds.keep("e", Artifact(bytes(ARTIFACT_BYTES - 4)))
    assert [builds.find(key) is not None for key in "acde"] == [False, False, True, True]
    assert builds.bytes_kept == ARTIFACT_BYTES
    builds.keep("f", Refusal(256, "a message", False, 1.0, float("inf")))
    assert [builds.find(key) is not None for key in "def"] == [False, False, True]


def test_what_a_run_holds_can_be_read_when_it_has_lost_its_place_and_is_closed_afterwards() -> None:
    builds = Builds(count_max=1)
    before = len([*Path("/proc/self/fd").iterdir()])
    held = Artifact(b"held")
    builds.keep("held", held)
    builds.keep("next", Artifact(b"next"))
    assert builds.find("held") is None
    assert held.part(1, 10) == b"eld"
    del held
    assert len([*Path("/proc/self/fd").iterdir()]) == before + 1
    builds.clear()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_no_room_for_one_compiled_program_is_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match="Room for one compiled program"):
        Builds(bytes_max=ARTIFACT_BYTES - 1)
