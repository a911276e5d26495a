"""Hostile programs that need another run or an input beside them. The others are in the list of attacks, each of which runs once."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import Limits, Outcome, Program, Result, Sandbox

from .conftest import QUICK, Host

AMPLE = Limits(wall_s=30.0, cpu_s=30.0)
"""A busy machine must not pass for an attack."""


@pytest.fixture(params=[pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: the walls do not know of it."""
    return request.param


async def attack(sandbox: Sandbox, host: Host, source: str, *, stdin: str = "", limits: Limits = AMPLE) -> Result:
    result = await sandbox.run(Program("python", host.program(source), stdin, limits))
    await host.check_unharmed()
    after = await sandbox.run(Program("python", "print('still here')"))
    assert after.stdout == "still here\n", after
    return result


async def test_the_files_of_another_run_and_of_the_host_cannot_be_read(
    sandbox: Sandbox, host: Host, tmp_path: Path
) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    hidden = tmp_path / "hidden"
    hidden.write_text(host.secret)
    hidden.chmod(0o644)
    first = "open('/tmp/mine', 'w').write({secret!r}); open('/dev/shm/mine', 'w').write({secret!r}); input()"
    search = f"""
        import os
        for top in ('/tmp', '/dev/shm', '/var/tmp', '/home', '/root', '/run', '/mnt', {str(tmp_path)!r}):
            for folder, _, files in os.walk(top):
                for name in files:
                    try: text = open(os.path.join(folder, name), errors='replace').read()
                    except OSError: continue
                    if name != 'main.py' and text: print(folder, name, text[:50])
        for path in ({str(hidden)!r}, '/etc/shadow', '/proc/1/root{hidden}', '/proc/1/mem'):
            try: print(path, open(path).read(50))
            except OSError: pass
        print('searched')
    """
    async with anyio.create_task_group() as group:
        started = anyio.Event()
        source = f"print('on', flush=True)\n{first.format(secret=host.secret)}\nimport time; time.sleep(60)"
        program = Program("python", host.program(source), "\n", Limits(wall_s=30.0))

        async def run_first() -> None:
            await sandbox.run(program, on_output=lambda *_: started.set())

        group.start_soon(run_first)
        await started.wait()
        result = await sandbox.run(Program("python", _dedent(search)))
        group.cancel_scope.cancel()
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "searched\n"), result
    again = await attack(sandbox, host, _dedent(search))
    assert again.stdout == "searched\n", again


async def test_input_that_is_never_read_holds_nobody_up(sandbox: Sandbox, host: Host) -> None:
    result = await attack(sandbox, host, "print('done')", stdin="x" * 10_000_000)
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "done\n"), result
    result = await attack(sandbox, host, "import time; time.sleep(60)", stdin="x" * 10_000_000, limits=QUICK)
    assert result.outcome is Outcome.TIMEOUT, result


def _dedent(source: str) -> str:
    lines = source.splitlines()
    return "\n".join(line[8:] if line.startswith(" " * 8) else line for line in lines)
