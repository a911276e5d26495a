"""What a caller learns about a program."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from modules.code_executor.sandbox import Limits, Outcome, Program, Sandbox, SandboxBusy, Stream, UnknownLanguage

from .conftest import QUICK, Host, demand


async def test_the_exit_code_and_both_streams_are_told_apart(sandbox: Sandbox) -> None:
    source = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    result = await sandbox.run(Program("python", source))
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 7)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


async def test_cpu_time_is_told_and_waiting_is_none(sandbox: Sandbox) -> None:
    burn = "import time\nwhile time.process_time() < {}: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn.format(0.3)!r}])"
    waiting = await sandbox.run(Program("python", "import time; time.sleep(1)"))
    burning = await sandbox.run(Program("python", burn.format(0.3)))
    children = await sandbox.run(Program("python", child))
    assert waiting.cpu_ms is not None
    assert burning.cpu_ms is not None
    assert children.cpu_ms is not None
    assert waiting.cpu_ms < 700 < waiting.duration_ms
    assert 300 <= burning.cpu_ms < 2000
    assert 300 <= children.cpu_ms < 2000


async def test_a_crash_is_told_by_its_signal(sandbox: Sandbox) -> None:
    result = await sandbox.run(Program("python", "import os; os.abort()"))
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.KILLED, None, 6)


async def test_the_warnings_of_a_compiler_are_not_mixed_into_the_output_of_the_program(sandbox: Sandbox) -> None:
    await demand(sandbox, "c")
    result = await sandbox.run(Program("c", "#warning beware\nint main(void) { return 3; }"))
    assert (result.outcome, result.exit_code, result.stderr) == (Outcome.FINISHED, 3, "")


async def test_an_unknown_language_is_refused_with_the_list_of_known_ones(sandbox: Sandbox) -> None:
    with pytest.raises(UnknownLanguage, match=r"'cobol'.*python") as caught:
        await sandbox.run(Program("cobol", "STOP RUN."))
    assert "python" in caught.value.available


async def test_output_is_told_while_the_program_runs(sandbox: Sandbox) -> None:
    source = "import sys\nprint('first', flush=True)\nsys.stdin.read()\nsys.stderr.write('last')"
    seen: list[tuple[Stream, str]] = []
    result = await sandbox.run(Program("python", source), on_output=lambda stream, text: seen.append((stream, text)))
    assert sorted(seen) == [("stderr", "last"), ("stdout", "first\n")]  # the two streams have no common order
    assert result.outcome is Outcome.FINISHED


async def test_both_streams_are_told_while_the_program_runs(sandbox: Sandbox, host: Host) -> None:
    source = "import sys, time\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\ntime.sleep(60)"
    seen: dict[Stream, str] = {"stdout": "", "stderr": ""}
    with anyio.CancelScope() as scope:

        def note(stream: Stream, text: str) -> None:
            seen[stream] += text
            if all(text.endswith("\n") for text in seen.values()):
                scope.cancel()

        await sandbox.run(Program("python", host.program(source), limits=Limits(wall_s=50.0)), on_output=note)
    assert scope.cancelled_caught, "the program had ended before all was told"
    assert seen == {"stdout": "out\n", "stderr": "err\n"}
    await host.check_unharmed()


async def test_runs_get_their_places_in_the_order_in_which_they_have_asked(
    open_sandbox: Callable[..., Awaitable[Sandbox]],
) -> None:
    sandbox = await open_sandbox("unshare", at_once=1)
    order: list[int] = []

    async def run(number: int) -> None:
        await sandbox.run(Program("python", "print(1)"), on_output=lambda *_: order.append(number))

    await sandbox.probe()
    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(run, number)
            await anyio.wait_all_tasks_blocked()
    assert order == list(range(8))


async def test_an_error_of_the_listener_ends_the_run_and_reaches_the_caller(sandbox: Sandbox, host: Host) -> None:
    def refuse(stream: Stream, text: str) -> None:
        raise ZeroDivisionError(stream + text)

    source = host.program("import time\nprint('x', flush=True)\ntime.sleep(60)")
    with pytest.raises(ZeroDivisionError):
        await sandbox.run(Program("python", source), on_output=refuse)
    await host.check_unharmed()


async def test_output_is_cut_between_two_characters(sandbox: Sandbox) -> None:
    program = Program("python", "print('é' * 40, flush=True)", limits=Limits(output_bytes=15))
    result = await sandbox.run(program)
    assert (result.outcome, result.stdout, result.stdout_truncated) == (Outcome.OUTPUT_LIMIT, "é" * 7, True)


async def test_output_of_exactly_the_limit_is_whole(sandbox: Sandbox) -> None:
    result = await sandbox.run(Program("python", "print('x' * 14)", limits=Limits(output_bytes=15)))
    assert (result.outcome, len(result.stdout), result.stdout_truncated) == (Outcome.FINISHED, 15, False)


async def test_output_that_is_no_text_is_decoded_with_replacement_characters(sandbox: Sandbox) -> None:
    source = r"import sys; sys.stdout.buffer.write(b'\xff\x00\x1b[31m\xe2\x82')"
    result = await sandbox.run(Program("python", source))
    assert result.stdout == "\ufffd\x00\x1b[31m\ufffd"


async def test_a_source_that_is_no_program_is_an_answer_and_no_error(sandbox: Sandbox) -> None:
    for source in ("\ud800", "\x00", "(" * 90_000, "\ufeffprint(1)"):
        result = await sandbox.run(Program("python", source))
        assert result.outcome in (Outcome.FINISHED, Outcome.KILLED, Outcome.OUTPUT_LIMIT)


async def test_a_deadline_ends_a_program_that_only_waits(sandbox: Sandbox) -> None:
    result = await sandbox.run(Program("python", "import time; time.sleep(60)", limits=Limits(wall_s=0.3)))
    assert (result.outcome, result.exit_code) == (Outcome.TIMEOUT, None)
    assert result.duration_ms >= 300


async def test_output_before_the_deadline_is_kept(sandbox: Sandbox) -> None:
    source = "import time; print('so far', flush=True); time.sleep(60)"
    result = await sandbox.run(Program("python", source, limits=Limits(wall_s=0.5)))
    assert (result.outcome, result.stdout) == (Outcome.TIMEOUT, "so far\n")


async def test_cpu_time_is_summed_over_processes(sandbox: Sandbox) -> None:
    source = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = await sandbox.run(Program("python", source, limits=Limits(wall_s=30.0, cpu_s=1.0)))
    assert result.outcome is Outcome.CPU_LIMIT


async def test_a_program_that_closes_its_output_is_still_waited_for(sandbox: Sandbox) -> None:
    source = "import os\nos.close(1); os.close(2)\nos.read(0, 1)\nos._exit(5)"
    result = await sandbox.run(Program("python", source, "x"))
    assert (result.outcome, result.exit_code) == (Outcome.FINISHED, 5)


async def test_an_orphan_that_keeps_the_output_open_does_not_hold_up_the_answer(sandbox: Sandbox, host: Host) -> None:
    source = host.program("import os, time\nif os.fork() == 0:\n  time.sleep(60)\nprint('done')")
    result = await sandbox.run(Program("python", source))
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "done\n")
    await host.check_unharmed()


async def test_a_cancelled_run_has_ended_with_all_its_processes(sandbox: Sandbox, host: Host) -> None:
    source = host.program("import os, time\nos.fork()\nprint('on', flush=True)\ntime.sleep(60)")
    with anyio.CancelScope() as scope:
        await sandbox.run(Program("python", source), on_output=lambda stream, text: scope.cancel())
    assert scope.cancelled_caught
    await host.check_unharmed()
    after = await sandbox.run(Program("python", "print('next')"))
    assert after.stdout == "next\n"


async def test_runs_beyond_the_places_wait_and_beyond_the_queue_are_refused(
    open_sandbox: Callable[..., Awaitable[Sandbox]],
) -> None:
    sandbox = await open_sandbox("unshare", at_once=1, waiting=1)
    await sandbox.probe()
    outcomes: list[Outcome] = []
    running = anyio.Event()

    async def run(source: str) -> None:
        result = await sandbox.run(Program("python", source, limits=QUICK), on_output=lambda *_: running.set())
        outcomes.append(result.outcome)

    async with anyio.create_task_group() as group:
        group.start_soon(run, "import time; print('on', flush=True); time.sleep(60)")
        await running.wait()
        group.start_soon(run, "pass")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(SandboxBusy, match="1 runs wait"):
            await sandbox.run(Program("python", "pass"))
    assert outcomes == [Outcome.TIMEOUT, Outcome.FINISHED]
