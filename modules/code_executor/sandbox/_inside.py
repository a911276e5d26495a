"""The launcher: the last trusted code before a stranger's program, and the one that waits for it.

It runs inside the walls, as the first process there, and is not imported but *sent* there as text (the jail does not
see this file), to an interpreter that may be older than ours: standard library only, Python 3.9 and later, and few
imports, for they are paid at each start. It reads one order, and for each step of it forks, gives up what the program
must not have, and executes. Every call below returns -1 on failure and is checked: a wall that cannot be built is a
failed run, never a run without the wall.
"""

# ruff: noqa: PTH112 - importing pathlib costs milliseconds, at each start of a jail

import ctypes
import marshal
import os
import resource
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 444, 445, 446  # alike on all architectures
SIGPIPE, SIGXFSZ, SIGKILL = 13, 25, 9
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 1, 2, 16
F_ADD_SEALS, SEALS = 1033, 1 | 2 | 4 | 8
"""Of a file in memory: no further seal, no shrinking, no growing, no writing, for its owner neither."""
PROGRAM = "PROGRAM"

# Landlock's file rights: what its rules may grant, by our letters. Making devices is granted to nobody.
READ, WRITE, EXECUTE = (1 << 2) | (1 << 3), (1 << 1) | (1 << 14), 1 << 0
CHANGE_FOLDER = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10) | (1 << 12) | (1 << 13)
RIGHTS_OF_FILES = READ & ~(1 << 3) | WRITE | EXECUTE
RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
RIGHTS_TODAY = (1 << 16) - 1


def check(result: int, what: str) -> int:
    """Raise with the reason where a C call failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int, what: str) -> None:
    """Call the system with one argument, the others zero."""
    zero = ctypes.c_ulong(0)
    check(libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), what)


def drop_capabilities() -> None:
    """Give up every capability, also for programs executed later. Needs no privilege beyond having them."""
    number = 0
    while libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1  # the first number that the kernel does not know ends the loop
    libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def landlock_abi() -> int:
    """The version of Landlock in this kernel, 0 where there is none."""
    version = int(libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    return max(version, 0)


def landlock(rules: list[tuple[str, str]]) -> None:
    """Restrict this process to the paths in `rules`, and to no TCP, no outside abstract sockets, no outside signals.

    Args:
        rules: Pairs of a path and letters: r(ead), w(rite), x (execute). A path that is not there is no fault.
    """
    abi = landlock_abi()
    handled = RIGHTS_BY_ABI.get(abi, RIGHTS_TODAY)
    attributes = (ctypes.c_uint64 * 3)(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = check(
        libc.syscall(SYS_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock"
    )
    for path, letters in rules:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = READ if "r" in letters else 0
        if "w" in letters:
            rights |= WRITE | CHANGE_FOLDER
        if "x" in letters:
            rights |= EXECUTE
        if not os.path.isdir(path):
            rights &= RIGHTS_OF_FILES
        rule = (rights & handled).to_bytes(8, sys.byteorder) + handle.to_bytes(4, sys.byteorder)
        add = libc.syscall(SYS_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        check(add, f"landlock rule for {path}")
        os.close(handle)
    check(libc.syscall(SYS_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock")
    os.close(ruleset)


def seccomp(bpf: bytes) -> None:
    """Put the system call filter on this process and all that come of it."""

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    program = Filter(len(bpf) // 8, bpf)
    check(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0), "seccomp")


def become_the_program(order: dict[str, Any], step: dict[str, Any]) -> None:
    """In the forked child: give up everything, then execute. Does not return, except by an exception."""
    if order["artifact"]:
        # A compiler has nothing to read, and what it says belongs together: stdout is the launcher's.
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
    for signal in (SIGPIPE, SIGXFSZ):  # Python ignores these two, and what is ignored stays so through exec
        libc.signal(signal, None)
    os.setsid()
    os.chdir(order["folder"])
    os.umask(0o077)
    os.nice(order["nice"])
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])
    for name, soft, hard in step["rlimits"]:
        resource.setrlimit(getattr(resource, name), (soft, hard))
    prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    if order["landlock"]:
        landlock(order["landlock"])
    if order["seccomp"]:
        seccomp(order["seccomp"])
    program, *arguments = step["command"]
    if program == PROGRAM:
        # By its descriptor (execveat) and not by its name in /proc, which a jail in a container may not have.
        os.execve(order["program"], ["./main", *arguments], order["environment"])  # noqa: S606
    program = program or sys.executable  # for whoever has to find out what there is
    os.execve(program, [program, *arguments], order["environment"])  # noqa: S606 - there must be no shell


def wait_for(program: int) -> int:
    """Wait until a child has ended and return its wait status. Orphans that end meanwhile are reaped on the way."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == program:
            return status


def run_step(
    order: dict[str, Any], step: dict[str, Any], tell: Callable[[str], None], wait: Callable[[int], int]
) -> int:
    """Run one command to its end and return its wait status."""
    program = os.fork()
    if program == 0:
        try:
            become_the_program(order, step)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the child must end here
            tell(f"failed {type(error).__name__}: {error}".replace("\n", " "))
        finally:
            os._exit(127)
    return wait(program)


def carry_out(
    order: dict[str, Any],
    tell: Callable[[str], None],
    stream: int,
    wait: Callable[[int], int] = wait_for,
) -> None:
    """Put the files of a run into its folder and run its steps, until one of them fails.

    Args:
        order: What `_orders.content_for` made.
        tell: Sends one line to the runtime: `start`, `end STATUS CPU_S`, `artifact BYTES` or `failed TEXT`.
        stream: Where the order came from, and what was compiled before follows.
        wait: Waits for a child, and returns its wait status.
    """
    os.umask(0o022)
    for name, text in order["files"].items():
        with make_file(order, name) as file:
            file.write(text)
    if order["program_bytes"] and order["program_name"]:
        with make_file(order, order["program_name"]) as file:
            pass_on(stream, file.fileno(), order["program_bytes"])
    elif order["program_bytes"]:
        order["program"] = sealed(stream, order["program_bytes"])
    tell("start")
    status = 0
    for step in order["steps"]:
        status = status or run_step(order, step, tell, wait)
        if order["alone"] or os.getpid() == 1:
            with suppress(ProcessLookupError):
                os.kill(-1, SIGKILL)  # what a compiler left behind must not change what it made
    if status == 0 and order["artifact"]:
        hand_over(order, tell)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    tell(f"end {status} {used.ru_utime + used.ru_stime:.4f}")


def make_file(order: dict[str, Any], name: str) -> Any:
    """Open a new file in the folder of the run, for writing."""
    path = "{}/{}".format(order["folder"], name)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "wb")


def pass_on(source: int, target: int, left: int) -> None:
    """Copy exactly so many bytes from a stream to a file."""
    while left:
        part = take(source, min(left, 1 << 18))
        left -= len(part)
        while part:
            part = part[os.write(target, part) :]


def sealed(stream: int, size: int) -> int:
    """Put a program that follows on the stream into memory, where nobody can change it any more, and return its handle.

    It has no path and no folder that would have to allow execution.
    """
    import fcntl  # not for everybody

    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        handle = os.memfd_create("program", flags | MFD_EXEC)
    except OSError:  # a kernel before 6.3 knows no such flag, and needs none
        handle = os.memfd_create("program", flags)
    pass_on(stream, handle, size)
    fcntl.fcntl(handle, F_ADD_SEALS, SEALS)
    return handle


def hand_over(order: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Write what the compiler made to stdout, if it is what it should be: an ordinary file, and not too large."""
    path = "{}/{}".format(order["folder"], order["artifact"])
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        tell(f"artifact -1 {error.strerror}")
        return
    seen = os.fstat(handle)
    if not stat.S_ISREG(seen.st_mode):
        tell("artifact -1 it is not an ordinary file")
    elif not 0 < seen.st_size <= order["artifact_bytes"]:
        tell(f"artifact -1 it has {seen.st_size} bytes, and may have {order['artifact_bytes']}")
    else:
        tell(f"artifact {seen.st_size}")
        pass_on(handle, 1, seen.st_size)
    os.close(handle)


def take(handle: int, left: int) -> bytes:
    """Read exactly so many bytes. Where the other side has let go, there is nothing more to do: end."""
    parts: list[bytes] = []
    while left:
        part = os.read(handle, left)
        if not part:
            os._exit(0)
        left -= len(part)
        parts.append(part)
    return b"".join(parts)


def read_order(handle: int) -> dict[str, Any]:
    """Read one message of the runtime: eight digits of length, then the message."""
    order: dict[str, Any] = marshal.loads(take(handle, int(take(handle, 8))))  # noqa: S302 - nobody else sends here
    return order
