"""Hostile programs: each must get the verdict it deserves, and leave the host as it was."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.code_executor.sandbox import Limits, Outcome, Program, Result, Sandbox

from .conftest import MIB, QUICK, Host

AMPLE = Limits(wall_s=30.0, cpu_s=30.0)
"""A busy machine must not pass for an attack."""
CONTAINED = (Outcome.FINISHED, Outcome.KILLED)


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


async def test_a_fork_bomb_is_bounded_and_dies_at_the_deadline(sandbox: Sandbox, host: Host) -> None:
    source = """
        import os, signal
        for number in range(1, 32):
            if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
        while True:
            try: os.fork()
            except OSError: pass
    """
    result = await attack(sandbox, host, _dedent(source), limits=Limits(wall_s=2.0, cpu_s=60.0))
    assert result.outcome in (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT), result


async def test_memory_is_limited_over_all_processes_together(sandbox: Sandbox, host: Host) -> None:
    source = f"""
        import os, time
        for _ in range(7):
            if os.fork() == 0: break
        held = bytearray()
        for _ in range(100):
            held += os.urandom(1024) * 1024
        time.sleep(60)
        print({MIB})
    """
    limits = Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=200 * MIB)
    result = await attack(sandbox, host, _dedent(source), limits=limits)
    assert result.outcome is Outcome.MEMORY_LIMIT, result


async def test_memory_of_one_process_is_limited(sandbox: Sandbox, host: Host) -> None:
    source = "held = []\nwhile True: held.append(bytearray(1024 * 1024))"
    result = await attack(sandbox, host, source, limits=AMPLE)
    assert result.outcome is Outcome.MEMORY_LIMIT, result


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_endless_output_ends_at_the_limit(sandbox: Sandbox, host: Host, stream: str) -> None:
    source = f"import sys\nwhile True: sys.{stream}.write('x' * 100_000)"
    result = await attack(sandbox, host, source, limits=AMPLE)
    assert result.outcome is Outcome.OUTPUT_LIMIT, result
    assert len(getattr(result, stream)) == 64 * 1024
    assert getattr(result, f"{stream}_truncated")


async def test_the_disk_of_a_run_is_limited_in_bytes_and_in_files(sandbox: Sandbox, host: Host) -> None:
    source = """
        import os
        written = 0
        try:
            for number in range(10):
                with open(f'/tmp/{number}', 'wb') as file:
                    for _ in range(8): written += file.write(bytes(1 << 20))
        except OSError as error: print('bytes', error.errno)
        for number in range(10):
            try: os.unlink(f'/tmp/{number}')
            except OSError: pass
        try:
            with open('/tmp/sparse', 'wb') as file: file.truncate(1 << 40)
        except OSError as error: print('sparse', error.errno)
        print(written >> 20 <= 16)
    """
    result = await attack(sandbox, host, _dedent(source))
    assert result.stdout.splitlines() == ["bytes 28", "sparse 27", "True"], result


@contextmanager
def _service() -> Iterator[tuple[int, str, list[object]]]:
    """A TCP service on all addresses and an abstract socket, with a list of who has come."""
    came: list[object] = []
    name = "\0fissile-test-service"

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, address = server.accept()
                came.append(address)
                connection.close()

    with socket.create_server(("0.0.0.0", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        threads = [threading.Thread(target=serve, args=(server,)) for server in (tcp, abstract)]
        for thread in threads:
            thread.start()
        try:
            yield tcp.getsockname()[1], name, came
        finally:
            for server in (tcp, abstract):
                server.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


async def test_no_service_of_the_host_can_be_reached(sandbox: Sandbox, host: Host) -> None:
    source = """
        import socket, struct
        port, name = {port}, {name!r}
        hosts = ['127.0.0.1', '172.17.0.1', '{address}', 'localhost', '::1']
        for family, address in [(socket.AF_INET, (host, port)) for host in hosts] + [(socket.AF_UNIX, name)]:
            try:
                with socket.socket(family) as client:
                    client.settimeout(0.2)
                    client.connect(address)
                    print('reached', address)
            except OSError: pass
        for family in (socket.AF_NETLINK, socket.AF_PACKET, 40):
            try: socket.socket(family, socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_DGRAM).close()
            except OSError: continue
            print('socket', family)
        print('tried')
    """
    with _service() as (port, name, came):
        address = socket.gethostbyname(socket.gethostname())
        result = await attack(sandbox, host, _dedent(source).format(port=port, name=name, address=address))
        assert (result.outcome, result.stdout) == (Outcome.FINISHED, "tried\n"), result
        assert came == []


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


async def test_the_environment_of_the_host_cannot_be_read(sandbox: Sandbox, host: Host) -> None:
    source = """
        import os
        print(sorted(os.environ))
        for name in [*os.listdir('/proc'), 'self']:
            try: print(open(f'/proc/{name}/environ').read())
            except OSError: pass
    """
    result = await attack(sandbox, host, _dedent(source))
    assert result.outcome is Outcome.FINISHED, result
    assert host.secret not in result.stdout
    assert "FISSILE" not in result.stdout


async def test_nothing_survives_the_deadline_not_even_without_any_ties(sandbox: Sandbox, host: Host) -> None:
    source = """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 100)
                for number in range(1, 32):
                    if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
                time.sleep(3600)
            os._exit(0)
        time.sleep(3600)
    """
    result = await attack(sandbox, host, _dedent(source), limits=Limits(wall_s=0.5))
    assert result.outcome is Outcome.TIMEOUT, result


async def test_input_that_is_never_read_holds_nobody_up(sandbox: Sandbox, host: Host) -> None:
    result = await attack(sandbox, host, "print('done')", stdin="x" * 10_000_000)
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "done\n"), result
    result = await attack(sandbox, host, "import time; time.sleep(60)", stdin="x" * 10_000_000, limits=QUICK)
    assert result.outcome is Outcome.TIMEOUT, result


async def test_killing_the_parent_and_everybody_else_hurts_only_itself(sandbox: Sandbox, host: Host) -> None:
    source = f"""
        import os
        for target in (os.getppid(), 1, {host.canary.pid}, -{host.canary.pid}):
            for number in (9, 15, 19):
                try: os.kill(target, number)
                except OSError: pass
        print('alive', flush=True)
        try: os.kill(-1, 9)
        except OSError: pass
        os.kill(0, 9)
    """
    result = await attack(sandbox, host, _dedent(source))
    assert (result.outcome, result.stdout) == (Outcome.KILLED, "alive\n"), result


async def test_privileges_and_dangerous_calls_are_refused(sandbox: Sandbox, host: Host) -> None:
    source = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        def refused(name, result):
            if result != -1: print(name, result)
        refused('unshare', libc.unshare(0x10000000))
        refused('setns', libc.setns(0, 0))
        refused('mount', libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))
        refused('chroot', libc.chroot(b'/tmp'))
        refused('ptrace', libc.ptrace(16, 1, 0, 0))
        refused('setuid', libc.setuid(0))
        refused('sethostname', libc.sethostname(b'x', 1))
        for number in (425, 321, 323, 250, 248, 298, 319, 29, 68, 240, 272, 435, 317):
            refused(number, libc.syscall(number, 0, 0, 0, 0, 0))
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapAmb', 'CapInh'):
            if int(status[name], 16): print(name)
        print(status['NoNewPrivs'].strip(), status['Seccomp'].strip(), os.getuid() != 0, sorted(os.listdir('/dev/fd'))[:4])
    """
    result = await attack(sandbox, host, _dedent(source))
    assert result.stdout == "1 2 True ['0', '1', '2', '3']\n", result


async def test_what_a_program_writes_outside_of_its_folder_is_refused(sandbox: Sandbox, host: Host) -> None:
    source = """
        import os
        for folder in ('/', '/usr', '/usr/bin', '/usr/local', '/etc', '/dev', '/proc', '/var/tmp', '/run', '/home', '/lib'):
            try: open(folder + '/x', 'w')
            except OSError: continue
            print(folder)
        try: os.mknod('/tmp/device', 0o600 | 0o60000, os.makedev(8, 0)); print('device')
        except OSError: pass
        os.symlink('/etc/passwd', '/tmp/link')
        open('/tmp/tool', 'w').write('#!/bin/sh\\necho ran')
        os.chmod('/tmp/tool', 0o755)
        try: os.execv('/tmp/tool', ['tool'])
        except OSError as error: print(error.errno)
    """
    result = await attack(sandbox, host, _dedent(source))
    assert result.stdout == "13\n", result


def _dedent(source: str) -> str:
    lines = source.splitlines()
    return "\n".join(line[8:] if line.startswith(" " * 8) else line for line in lines)
