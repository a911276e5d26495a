"""The warden of a jail, and the mother of all wardens. Sent, like `_inside`.

Three kinds of processes stand between the runtime and a program. The *mother* is started once, a bare interpreter with
this code loaded; for each jail she forks a *warden*, which costs a millisecond where starting an interpreter costs
twenty. The warden builds the walls and forks (or executes, with bubblewrap) the *launcher* inside; and when the
runtime's end of the control socket closes, for whatever reason, it kills the launcher. As the launcher is the first
process of a PID namespace, nothing in the jail outlives it, and the kernel lets the warden's wait return only when all
are gone; so the warden's end, seen by the runtime as the end of the control socket, means that nothing is left. Where
there is no PID namespace, the warden adopts and kills what the launcher leaves.

(The obvious tool, a parent-death signal from the runtime itself, cannot be used: it fires when the *thread* that made
the child ends, and the runtime's worker threads come and go.)
"""

# ruff: noqa: PTH123 - importing pathlib costs milliseconds, at each start of a jail

import marshal
import os
import select
import socket
import sys
import time
from typing import Any

from ._inside import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, SIGKILL, libc, prctl
from ._walls import become, enter_namespaces, forbid_namespaces, launch, make_folders

SIGCHLD = 17
HANDLES = 4
"""Control socket, stdin, stdout, stderr."""


def mother(control: int) -> None:
    """Fork a warden for each message, until the runtime lets go."""
    libc.signal(SIGCHLD, 1)  # ignored: the kernel reaps wardens by itself
    requests = socket.socket(fileno=control)
    while True:
        content, handles, _, _ = socket.recv_fds(requests, 1 << 16, HANDLES)
        if not content:
            return
        if os.fork() == 0:
            requests.close()
            warden(marshal.loads(content), handles)  # noqa: S302 - nobody else sends here
            os._exit(0)
        for handle in handles:
            os.close(handle)


def warden(spec: dict[str, Any], handles: list[int]) -> None:
    """Build the walls, start the launcher inside, and stand guard."""
    control = handles[0]
    try:
        libc.signal(SIGCHLD, None)
        os.setsid()
        for number, handle in enumerate(handles[1:]):
            os.dup2(handle, number)
            os.close(handle)
        os.write(control, f"warden {os.getpid()}\n".encode())
        prctl(PR_SET_CHILD_SUBREAPER, 1, "subreaper")
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if spec["uid"] and spec["kind"] in ("unshare", "bubblewrap"):
            become(spec["uid"])
        if spec["kind"] == "unshare":
            enter_namespaces()
            forbid_namespaces()
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        launcher = os.fork()
        if launcher == 0 and spec["kind"] == "bubblewrap":
            execute_bubblewrap(control, spec)
        elif launcher == 0:
            launch(control, spec)
    except BaseException as error:  # noqa: BLE001 - whatever it is must be told, and must end here
        os.write(control, f"failed {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        os._exit(1)
    # The program's pipes must not stay open in here: their end shows that all programs are gone.
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    guard(control, launcher, spec["uid"])


def execute_bubblewrap(control: int, spec: dict[str, Any]) -> None:
    """Become bubblewrap, and in its walls a launcher, with our code compiled already. Does not return."""
    make_folders(spec["disk_bytes"], spec["shown"])
    command = spec["bubblewrap"]
    prctl(PR_SET_PDEATHSIG, SIGKILL, "parent-death signal")
    code = os.memfd_create("jail", 0)
    os.write(code, sys.modules["jail"].compiled)
    os.lseek(code, 0, os.SEEK_SET)
    os.set_inheritable(control, True)  # noqa: FBT003
    os.execve(command[0], [*command, str(code), "_walls", "launch_in_bubblewrap", str(control)], {})  # noqa: S606


def guard(control: int, launcher: int, uid: int) -> None:
    """Kill the launcher when the runtime lets go, and stay until all that came of it are gone."""
    handle = os.pidfd_open(launcher)
    poller = select.poll()
    poller.register(control, select.POLLHUP | select.POLLRDHUP)
    poller.register(handle, select.POLLIN)
    poller.poll()
    os.kill(launcher, SIGKILL)  # it is not reaped yet, so the number is still its own
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            kill_children(uid)
            time.sleep(0.0005)


def kill_children(uid: int) -> None:
    """Kill what the launcher left: adopted orphans, where no PID namespace took them along."""
    if uid and os.geteuid() == 0:
        killer = os.fork()
        if killer == 0:
            try:
                become(uid)
                os.kill(-1, SIGKILL)  # all of this user at once, faster than any fork bomb
            finally:
                os._exit(0)
    try:
        with open("/proc/thread-self/children") as file:
            children = file.read().split()
    except OSError:  # our root is the jail's; its PID namespace needs no help
        return
    for child in children:
        try:
            os.kill(int(child), SIGKILL)
        except ProcessLookupError:
            continue
