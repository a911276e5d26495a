"""What the probe runs inside a jail: real attacks, each of which must fail. Not imported: sent as a program.

It reads its targets as JSON from stdin and prints the names of the attacks that got through, as JSON. What it leaves
behind on purpose, a process that has cut all ties, is looked for by the probe outside.
"""

# ruff: noqa: ARG001, PTH118, PTH123, SIM105 - the attacks are called alike, and stay as plain as the attacker's

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def network(targets: dict[str, Any]) -> bool:
    """Reach services of the host, over TCP and over an abstract socket."""
    for family, address in ((socket.AF_INET, ("127.0.0.1", targets["port"])), (socket.AF_UNIX, targets["abstract"])):
        try:
            with socket.socket(family) as client:
                client.settimeout(0.5)
                client.connect(address)
        except OSError:
            continue
        return True
    return False


def read_host_file(targets: dict[str, Any]) -> bool:
    """Read a secret in a file that everybody may read."""
    try:
        with open(targets["secret_file"]) as file:
            return bool(file.read())
    except OSError:
        return False


def write_outside(targets: dict[str, Any]) -> bool:
    """Write where everybody may write, and where root may."""
    for folder in (targets["open_folder"], "/usr", "/etc", "/"):
        try:
            with open(folder + "/written-from-the-jail", "w"):
                return True
        except OSError:
            continue
    return False


def read_environment(targets: dict[str, Any]) -> bool:
    """Find the runtime's environment, in our own or in its."""
    try:
        with open("/proc/{}/environ".format(targets["runtime"]), "rb") as file:
            theirs = bool(file.read())
    except OSError:
        theirs = False
    return (theirs and foreign(targets["runtime"])) or any(name in os.environ for name in targets["variables"])


def kill_outside(targets: dict[str, Any]) -> bool:
    """Signal a process of the host."""
    try:
        os.kill(targets["mother"], 0)
    except OSError:
        return False
    return foreign(targets["mother"])


def foreign(process: int) -> bool:
    """Whether a number is surely not one of the jail's own few processes."""
    return process > 20


def kill_launcher(targets: dict[str, Any]) -> bool:
    """End the one that watches over us. If that works, we end as well, and print nothing."""
    try:
        os.kill(os.getppid(), 9)
    except OSError:
        pass
    return False


def privileges(targets: dict[str, Any]) -> bool:
    """Be root, have capabilities, be able to gain some."""
    try:
        with open("/proc/self/status") as file:
            status = dict(line.split(":", 1) for line in file)
    except OSError:
        return os.geteuid() == 0 or libc.prctl(39, 0, 0, 0, 0) != 1
    bad = int(status["CapEff"], 16) != 0 or int(status["CapPrm"], 16) != 0 or status["NoNewPrivs"].strip() != "1"
    return bad or os.geteuid() == 0


def new_namespace(targets: dict[str, Any]) -> bool:
    """Make a user namespace, to be root in it."""
    return bool(libc.unshare(ctypes.c_int(0x10000000)) == 0)


def forbidden_calls(targets: dict[str, Any]) -> bool:
    """Reach parts of the kernel that have often been broken: io_uring, namespaces, mounts, bpf, userfaultfd, keyrings, perf.

    All are called with zeros, which a kernel that is reached refuses as well: only the filter's own answers count.
    """
    if not targets["filtered"]:
        return False
    numbers = [*range(425, 434), 435, 438, 440, 442]  # io_uring, the new calls for mounts, clone3, others' processes
    # bpf, userfaultfd, add_key, request_key, keyctl, perf_event_open, process_vm_*, kcmp, file handles, modules, kexec
    numbers += {
        "x86_64": (321, 323, 248, 249, 250, 298, 310, 311, 312, 303, 304, 175, 313, 246, 101),
        "aarch64": (280, 282, 217, 218, 219, 241, 270, 271, 272, 264, 265, 105, 273, 104, 117),
    }.get(os.uname().machine, ())
    for number in numbers:
        result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
        if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            return True
    return False


def survive(targets: dict[str, Any]) -> bool:
    """Leave a process behind that has cut all ties. Whether it lives on, the probe sees outside."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            libc.prctl(15, targets["survivor"].encode(), 0, 0, 0)
            for number in range(1, 32):
                if number not in (9, 19):
                    libc.signal(number, 1)
            libc.sleep(60)
        os._exit(0)
    return False


def work(targets: dict[str, Any]) -> bool:
    """No attack: a program must be able to use its own folder. A jail where nothing works holds nothing."""
    path = os.path.join(os.environ["HOME"], "mine")
    with open(path, "w") as file:
        file.write("mine")
    with open(path) as file:
        return file.read() != "mine"


ATTACKS: tuple[Callable[[dict[str, Any]], bool], ...] = (
    work,
    network,
    read_host_file,
    write_outside,
    read_environment,
    privileges,
    new_namespace,
    forbidden_calls,
    kill_outside,
    survive,
    kill_launcher,
)


def main() -> None:
    """Try everything."""
    targets = json.load(sys.stdin)
    attacks = [attack for attack in ATTACKS if not targets["only"] or attack.__name__ in targets["only"]]
    sys.stdout.write(json.dumps([attack.__name__ for attack in attacks if attack(targets)]))


if __name__ == "__main__":
    main()
