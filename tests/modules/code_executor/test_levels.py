"""Which level of local walls is taken, and what is said about it."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from modules.code_executor.sandbox import NoSandbox, Outcome, Program, Sandbox, choose
from modules.code_executor.sandbox import _levels as levels
from modules.code_executor.sandbox import _probe as probe
from modules.code_executor.sandbox._inside import landlock_abi
from modules.code_executor.sandbox._mother import Mother
from modules.code_executor.sandbox._users import Users
from modules.code_executor.sandbox._watch import descendants
from modules.code_executor.sandbox.local import LocalSandbox

from .conftest import Host, missing, skip, until

OpenSandbox = Callable[..., Awaitable[Sandbox]]


async def test_the_local_sandbox_reaches_a_level_that_holds_and_says_which(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with choose("local") as sandbox:
        assert sandbox.level == "unprobed"
        level = await sandbox.probe()
        assert sandbox.level == level
        assert level in levels.STRONG_LEVELS
    assert f"'{level}'" in caplog.text


def test_the_attacks_of_the_probe_get_through_where_there_are_no_walls() -> None:
    """Without this, a probe whose attacks are blunt would call every jail tight."""
    users, mother = Users(), Mother(levels.interpreters()[0])
    try:
        bare = levels.level("rlimits", mother, landlock_abi=0)
        names = ("network", "read_host_file", "write_outside", "new_namespace")
        assert probe.attack(bare, users, only=names) == list(names)
    finally:
        mother.close()
        users.close()


@pytest.mark.parametrize("name", ["unshare", "landlock"])
def test_no_attack_of_the_probe_gets_through_the_walls(name: str) -> None:
    if name == "landlock" and landlock_abi() < levels.LANDLOCK_ABI_MIN:
        pytest.skip(f"the kernel has Landlock ABI {landlock_abi()}")
    users, mother = Users(), Mother(levels.interpreters()[0])
    try:
        assert probe.attack(levels.level(name, mother, landlock_abi=landlock_abi()), users) == []
    finally:
        mother.close()
        users.close()


async def test_weak_levels_are_refused_unless_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "STRONG_LEVELS", ())
    async with LocalSandbox(levels=("rlimits",)) as sandbox:
        with pytest.raises(NoSandbox, match="Cure: Install bubblewrap"):
            await sandbox.run(Program("python", "pass"))


async def test_where_no_walls_can_be_built_the_reason_of_each_level_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_walls(self: Mother, spec: dict[str, object], handles: list[int]) -> None:
        real(self, {**spec, "devices": ["/dev/no-such-device"], "bubblewrap": ["/bin/false"]}, handles)

    real = Mother.fork
    monkeypatch.setattr(Mother, "fork", no_walls)
    async with LocalSandbox() as sandbox:
        with pytest.raises(NoSandbox, match=r"nothing is run\. bubblewrap .*: .*; unshare with .*no-such-device"):
            await sandbox.probe()


@pytest.mark.parametrize("name", levels.WEAK_LEVELS)
async def test_a_weak_level_runs_programs_and_warns_loudly(
    name: str, caplog: pytest.LogCaptureFixture, host: Host
) -> None:
    if name == "landlock" and landlock_abi() < levels.LANDLOCK_ABI_MIN:
        pytest.skip(f"the kernel has Landlock ABI {landlock_abi()}")
    async with LocalSandbox(levels=(name,), allow_weak=True) as sandbox:
        source = host.program("import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(60)\nprint(os.getcwd())")
        result = await sandbox.run(Program("python", source))
        assert (result.outcome, result.level) == (Outcome.FINISHED, name)
        assert Path(result.stdout.strip()) not in temporary_folders()
        await host.check_unharmed()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any(f"weak level '{name}'" in text for text in warnings)


async def test_a_jail_or_its_maker_that_somebody_has_killed_is_replaced(open_sandbox: OpenSandbox) -> None:
    sandbox = await open_sandbox("unshare", spare=1)
    assert (await sandbox.run(Program("python", "print(1)"))).stdout == "1\n"
    ours = [process for process in descendants(os.getpid()) if b"_warden" in command_of(process)]
    assert ours
    for process in ours:
        os.kill(process, signal.SIGKILL)
    assert (await sandbox.run(Program("python", "print(2)"))).stdout == "2\n"
    assert (await sandbox.run(Program("python", "print(3)"))).stdout == "3\n"


async def test_nothing_is_left_when_the_sandbox_closes(open_sandbox: OpenSandbox) -> None:
    before = set(descendants(os.getpid()))
    async with LocalSandbox(spare=3) as sandbox:
        await sandbox.run(Program("python", "pass"))
        assert set(descendants(os.getpid())) > before
    await until(lambda: set(descendants(os.getpid())) <= before, "the spare jails have ended")


async def test_a_run_that_is_cancelled_at_any_moment_leaves_nothing(open_sandbox: OpenSandbox, host: Host) -> None:
    sandbox = await open_sandbox("unshare", spare=0)
    await sandbox.probe()
    handles = open_handles()
    source = host.program("import time; time.sleep(60)")
    for step in range(40):
        with anyio.move_on_after(step * 0.001):
            await sandbox.run(Program("python", source))
        assert not host.survivors()
    await host.check_unharmed()
    await until(lambda: open_handles() <= handles + 2, "all descriptors are closed")


@pytest.mark.parametrize("kind", ["bubblewrap", "unshare"])
async def test_nothing_outlives_an_executor_that_is_killed(kind: str, host: Host) -> None:
    if reason := missing(kind):
        skip(kind, reason)
    source = host.program("import os, time\nif os.fork() == 0: os.setsid()\nprint('on', flush=True)\ntime.sleep(60)")
    code = f"""
import anyio
from modules.code_executor.sandbox import Program
from modules.code_executor.sandbox.local import LocalSandbox
async def main():
    async with LocalSandbox(levels=({kind!r},)) as sandbox:
        await sandbox.run(Program("python", {source!r}), on_output=lambda *_: print("on", flush=True))
anyio.run(main)
"""
    async with await anyio.open_process([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) as executor:
        assert executor.stdout is not None
        assert (await executor.stdout.receive()).startswith(b"on")
        family = descendants(executor.pid)
        assert host.survivors()
        executor.kill()
        await executor.wait()
    await host.check_unharmed()
    await until(lambda: not any(Path(f"/proc/{process}").exists() for process in family), "its helpers have ended")


async def test_several_runs_at_once_do_not_see_each_other(open_sandbox: OpenSandbox) -> None:
    sandbox = await open_sandbox("unshare", at_once=4)
    source = "import os, sys\nopen('/tmp/mine', 'x').write(sys.stdin.read())\nprint(os.listdir('/tmp'), os.getpid())"
    texts: list[str] = []

    async def run(number: int) -> None:
        texts.append((await sandbox.run(Program("python", source, str(number)))).stdout)

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(run, number)
    assert len(texts) == 8
    assert len(set(texts)) == 1, texts


def temporary_folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).iterdir())


def open_handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
