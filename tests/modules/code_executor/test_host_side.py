"""The executor's own side: what a program makes, writes, leaves unread or outlives must not hurt the process that runs it."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import Limits, Outcome, Program, Sandbox, SandboxBusy
from modules.code_executor.sandbox._inside import landlock_abi
from modules.code_executor.sandbox._levels import LANDLOCK_ABI_MIN, WEAK_LEVELS
from modules.code_executor.sandbox._remove import remove_folder
from modules.code_executor.sandbox.local import LocalSandbox

from .conftest import KINDS, MIB, Host, demand, until

AMPLE = Limits(wall_s=60.0, cpu_s=60.0)
IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
CANCELLED = {"docker": 200 if IS_SOAK else 6, "bubblewrap": 400 if IS_SOAK else 25, "unshare": 400 if IS_SOAK else 25}
"""How many runs are cancelled in each sandbox: a thousand in the long tests."""

OpenSandbox = Callable[..., Awaitable[Sandbox]]


@pytest.fixture(params=[pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: what is tested happens in worker threads and in the kernel."""
    return request.param


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Tell by how much this process was larger than now, at its largest."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # from here on, the largest is measured anew
    except OSError:
        pytest.skip("the kernel does not measure anew how large a process was")
    before = memory_bytes("VmRSS")
    yield lambda: memory_bytes("VmHWM") - before


# --- what it writes --------------------------------------------------------------------------------------------------


async def test_a_flood_does_not_fill_our_memory(sandbox: Sandbox, host: Host) -> None:
    source = (
        "import os\nfor _ in range(3): os.fork()\nwhile True: os.write(1, bytes(1 << 20)); os.write(2, bytes(1 << 20))"
    )
    await sandbox.run(Program("python", "print('warm')"))
    with growth() as grown:
        for _ in range(3):
            result = await sandbox.run(Program("python", host.program(source), limits=AMPLE))
            assert result.outcome is Outcome.OUTPUT_LIMIT, result
        assert grown() < 16 * MIB
    with growth() as grown:  # and it would be seen
        bytearray(32 * MIB).replace(b"\0", b"\1")
        assert grown() >= 16 * MIB
    await host.check_unharmed()


async def test_more_than_the_limit_is_the_verdict_even_where_the_program_ends_at_once(sandbox: Sandbox) -> None:
    source = "import os; os.write(1, b'x' * 80); os._exit(0)"
    outcomes = {
        (await sandbox.run(Program("python", source, limits=Limits(output_bytes=15)))).outcome for _ in range(3)
    }
    assert outcomes == {Outcome.OUTPUT_LIMIT}


@pytest.mark.parametrize(
    ("written", "cap", "kept"),
    [
        ("b'ab' + '€'.encode()", 4, "ab"),
        ("b'ab' + '€'.encode() + b'c'", 5, "ab€"),
        ("'😀😀'.encode()", 7, "😀"),
        (r"b'\xff' * 9", 4, "\ufffd" * 4),
        (r"b'\0\x1b[31m\x07' * 9", 8, "\0\x1b[31m\x07\0"),
    ],
)
async def test_what_is_kept_has_at_most_so_many_bytes_and_no_half_character(
    open_sandbox: OpenSandbox, written: str, cap: int, kept: str
) -> None:
    sandbox = await open_sandbox("unshare")
    told: list[str] = []
    program = Program("python", f"import os; os.write(1, {written})", limits=Limits(output_bytes=cap))
    result = await sandbox.run(program, on_output=lambda _, text: told.append(text))
    assert (result.stdout, result.stdout_truncated) == (kept, True)
    assert "".join(told) == kept


# --- what it is given ------------------------------------------------------------------------------------------------


async def test_a_large_input_that_is_never_read_holds_up_no_other_run(open_sandbox: OpenSandbox, kind: str) -> None:
    sandbox = await open_sandbox(kind, at_once=2)
    started = anyio.Event()
    source = "import time; print('on', flush=True); time.sleep(600)"
    program = Program("python", source, "x" * (100 * MIB), AMPLE)

    async def run() -> None:
        await sandbox.run(program, on_output=lambda *_: started.set())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await started.wait()
        beside = await sandbox.run(Program("python", "print(input())", "beside\n", AMPLE))
        assert beside.stdout == "beside\n"
        tasks.cancel_scope.cancel()


async def test_a_large_input_is_read_whole(sandbox: Sandbox) -> None:
    text = "0123456789abcdeé" * (MIB // 4)
    source = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    result = await sandbox.run(Program("python", source, text, AMPLE))
    assert result.stdout.strip() == hashlib.sha256(text.encode()).hexdigest(), result


async def test_an_input_that_is_refused_in_the_middle_is_no_error(sandbox: Sandbox) -> None:
    source = "import os; os.read(0, 1000); os.close(0); print('refused')"
    result = await sandbox.run(Program("python", source, "x" * (8 * MIB), AMPLE))
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FINISHED, 0, "refused\n"), result


@pytest.mark.parametrize(
    ("source", "stdout"),
    [
        pytest.param("\ufeffprint('mark')", "mark\n", id="byte-order-mark"),
        pytest.param("#" + "x" * (10 * MIB) + "\nprint('large')", "large\n", id="10-MB"),
    ],
)
async def test_an_odd_source_is_run_as_it_is(sandbox: Sandbox, source: str, stdout: str) -> None:
    result = await sandbox.run(Program("python", source, limits=AMPLE))
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, stdout), result


async def test_a_compiler_that_is_sent_to_read_without_end_is_ended(sandbox: Sandbox, host: Host) -> None:
    await demand(sandbox, "c")
    result = await sandbox.run(Program("c", '#include "/dev/zero"\nint main(void) { return 0; }', limits=AMPLE))
    assert result.outcome is Outcome.COMPILE_ERROR, result
    await host.check_unharmed()


# --- what it leaves behind -------------------------------------------------------------------------------------------

RUBBISH = """
import os
os.symlink({victim!r}, 'link'); os.symlink({victim!r} + '/kept', 'link-to-file'); os.symlink('/', 'root')
os.symlink('loop', 'loop'); os.mkfifo('fifo'); os.mkdir('..hidden'); os.link('fifo', 'again')
os.close(os.open('sparse', os.O_WRONLY | os.O_CREAT)); os.truncate('sparse', 1 << 20)
for name in ('x' * 255, 'line\\nline', '-rf', '\\x1b[2J', '...'): os.mkdir(name); open(name + '/' + name, 'w').close()
open(b'\\xff\\xfe', 'w').close()
os.mkdir('many')
for number in range({many}): open(f'many/{{number}}', 'w').close()
os.mkdir('closed'); os.mkdir('closed/inner'); open('closed/inner/file', 'w').close()
os.symlink({victim!r}, 'closed/inner/link'); os.chmod('closed/inner', 0); os.chmod('closed', 0)
here = os.getcwd()
for _ in range(3000): os.mkdir('d'); os.chdir('d')
print(here)
"""


@pytest.mark.parametrize("level", WEAK_LEVELS)
async def test_a_folder_on_the_host_is_taken_away_whatever_is_in_it_and_nothing_else(
    level: str, tmp_path: Path
) -> None:
    """At the strong levels there is no such folder: it is in the jail, and ends with it."""
    if level == "landlock" and landlock_abi() < LANDLOCK_ABI_MIN:
        pytest.skip(f"the kernel has Landlock ABI {landlock_abi()}")
    (tmp_path / "kept").write_text("kept")
    async with LocalSandbox(levels=(level,), allow_weak=True) as sandbox:
        result = await sandbox.run(
            Program("python", RUBBISH.format(victim=str(tmp_path), many=100_000 if IS_SOAK else 2000), limits=AMPLE)
        )
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 0), result
    folder = anyio.Path(result.stdout.strip())
    assert folder.name.startswith("fissile-run-")
    assert not await folder.exists()
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_folder_that_was_exchanged_for_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    (victim / "kept").write_text("kept")
    link = tmp_path / "run"
    link.symlink_to(victim)
    assert not remove_folder(str(link))
    assert (victim / "kept").read_text() == "kept"


def test_a_folder_that_is_filled_while_it_is_taken_away_does_not_keep_us_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    enough = threading.Event()

    def fill() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            try:
                (folder / str(number)).mkdir()
            except OSError:
                return

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        remove_folder(str(folder))
    finally:
        enough.set()
        thread.join()
    assert not folder.exists() or remove_folder(str(folder))


# --- when it ends ----------------------------------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_at_any_moment_leaves_no_process(sandbox: Sandbox, host: Host) -> None:
    await sandbox.probe()
    source = host.program("import os, time\nos.fork(); os.setsid() if os.getpid() % 2 else 0\ntime.sleep(600)")
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    latest_s = 0.6 if sandbox.level == "docker" else 0.08
    for _ in range(CANCELLED[sandbox.level]):
        with anyio.move_on_after(moments.uniform(0.0, latest_s)):
            await sandbox.run(Program("python", source, limits=AMPLE))
        if sandbox.level == "docker":  # the engine says that a container is gone a moment before its last process is
            await until(lambda: not host.survivors(), f"no process is left (seed {seed})")
        assert not host.survivors(), f"seed {seed}"
    await host.check_unharmed()
    assert (await sandbox.run(Program("python", "print('next')", limits=AMPLE))).stdout == "next\n"


@pytest.mark.timeout(600)
async def test_of_200_runs_asked_at_once_those_that_may_wait_are_run_and_the_others_told_at_once(
    open_sandbox: OpenSandbox, kind: str
) -> None:
    if kind != "unshare" and not IS_SOAK:
        pytest.skip("the queue is the same for all of them: set FISSILE_TEST_SOAK")
    at_once, waiting, asked = 2, 32, 200
    sandbox = await open_sandbox(kind, at_once=at_once, waiting=waiting)
    await sandbox.probe()
    go_on, done = anyio.Event(), 0
    refused: list[tuple[int, int]] = []

    async def run(number: int) -> None:
        nonlocal done
        await go_on.wait()
        try:
            result = await sandbox.run(Program("python", f"print({number})", limits=AMPLE))
        except SandboxBusy as error:
            refused.append((error.waiting, done))
        else:
            assert result.stdout == f"{number}\n", result
            done += 1

    async with anyio.create_task_group() as tasks:
        for number in range(asked):
            tasks.start_soon(run, number)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert done == at_once + waiting
    # Who is refused is told before any run has ended.
    assert refused == [(waiting, 0)] * (asked - at_once - waiting)
    assert (await sandbox.run(Program("python", "print('next')", limits=AMPLE))).stdout == "next\n"


async def test_what_ignores_sigterm_and_all_others_is_gone_when_the_answer_comes(sandbox: Sandbox, host: Host) -> None:
    source = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(4): os.fork()
if os.getpid() % 2 and os.getsid(0) != os.getpid(): os.setsid()
time.sleep(600)
"""
    result = await sandbox.run(Program("python", host.program(source), limits=Limits(wall_s=1.0)))
    assert result.outcome is Outcome.TIMEOUT, result
    await host.check_unharmed()


@pytest.mark.parametrize("jump_s", [-4e8, 4e8])
async def test_a_clock_that_jumps_changes_no_verdict(
    open_sandbox: OpenSandbox, kind: str, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await open_sandbox(kind)
    real = time.time

    def jump(*_: object) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)

    source = "print('on', flush=True); input(); print('end')"
    result = await sandbox.run(Program("python", source, "\n", AMPLE), on_output=jump)
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "on\nend\n"), result
    assert 0 < result.duration_ms < AMPLE.wall_s * 1000
    assert (await sandbox.run(Program("python", "print('next')", limits=AMPLE))).stdout == "next\n"
