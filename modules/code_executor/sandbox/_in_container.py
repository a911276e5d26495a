"""The launcher in a container. Sent, like `_inside`, and the same but for two things.

There is no control socket: orders come on stdin, before the program's own input, and reports go out on stderr, each
marked with a word that the program cannot know. And the sums of the whole run are read from its control group.
"""

import os
import signal
import time
from typing import Any

from ._inside import PR_SET_DUMPABLE, carry_out, prctl, read_order

LOOK_EVERY_S = 0.05
GRACE_S = 10.0
OOM_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
CPU_COUNTS = (("/sys/fs/cgroup/cpu.stat", "usage_usec", 1e6), ("/sys/fs/cgroup/cpuacct/cpuacct.usage", "", 1e9))


def count(path: str, name: str) -> int:
    """Read one number out of a file of the control group, 0 where there is none."""
    try:
        with open(path) as file:  # noqa: PTH123 - importing pathlib costs milliseconds
            for line in file:
                words = line.split()
                if words[:-1] == ([name] if name else []):
                    return int(words[-1])
    except (OSError, ValueError):
        pass
    return 0


def cpu_s() -> float:
    """What all processes of the container have used so far."""
    return max(count(path, name) / unit for path, name, unit in CPU_COUNTS)


def main(stream: int) -> None:
    """Carry out the order that comes on a stream."""
    order: dict[str, Any] = read_order(stream)
    cpu_before_s = cpu_s()
    deadline_s = time.monotonic() + order["wall_s"] + GRACE_S
    told = False

    def tell(line: str, handle: int = 2) -> None:
        # Short enough to be written in one piece, whatever else is written to the same pipe.
        os.write(handle, b"\0" + order["mark"] + line.encode("utf-8", "replace")[:1000] + b"\n")

    def wait(program: int) -> int:
        nonlocal told
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            ended, status = os.waitpid(program, os.WNOHANG)
            if not ended:
                signal.sigtimedwait({signal.SIGCHLD}, LOOK_EVERY_S)
            if not told and any(count(path, "oom_kill") for path in OOM_COUNTS):
                told = True
                tell("memory")
            if not told and cpu_s() - cpu_before_s > order["cpu_s"]:
                told = True
                tell("cpu")
            if time.monotonic() > deadline_s:
                os._exit(1)  # the runtime that should have ended us is gone; the container ends with us
            if ended:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                return status

    try:
        # What is in our memory and our descriptors, the program must not reach through /proc.
        prctl(PR_SET_DUMPABLE, 0, "dumpable")
        carry_out(order, tell, stream, wait)
    except Exception as error:  # noqa: BLE001 - whatever it is must be told
        tell(f"failed {type(error).__name__}: {error}".replace("\n", " "))
    for handle in (1, 2):
        tell("over", handle)  # nothing is left that could write after this
