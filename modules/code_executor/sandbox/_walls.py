"""The walls that we build ourselves: namespaces, a root of its own, the way down from root. Sent, like `_inside`."""

# ruff: noqa: PTH101, PTH102, PTH103, PTH112, PTH116, PTH120, PTH123, PTH211 - importing pathlib costs milliseconds, at each start of a jail

import ctypes
import os
from contextlib import suppress
from typing import Any

from ._inside import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    SIGKILL,
    carry_out,
    check,
    drop_capabilities,
    libc,
    prctl,
    read_order,
)

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
CLONE_WALLS = 0x20000000 | CLONE_NEWNS | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
"""New PID, mount, network, IPC, host name and cgroup namespaces."""
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
OVERFLOW_ID = 65534
STAGING = "/tmp"  # noqa: S108 - covered by a mount of the jail's own before anything is written there
FLAGS_OF_FOLDERS = MS_NOSUID | MS_NODEV | MS_NOEXEC
LARGEST_COPY = 256 << 10
LAYER = ".empty"
OPTIONS_OF_SHM = "size=4m,nr_inodes=256,mode=1777"
"""A limit on bytes alone would let in files without end: empty ones take memory of the kernel, which nobody sees."""


def options_of_tmp(disk_bytes: int) -> str:
    """What the run's folder may hold."""
    return f"size={disk_bytes},nr_inodes=1024,mode=1777"


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount, an empty text standing for no argument."""
    arguments = [text.encode() or None for text in (source, target, kind)]
    result = libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None)
    check(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, *, device: bool = False) -> None:
    """Show a path of the host inside, read-only unless it is a device."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    mount(source, target, "", MS_BIND | MS_REC)
    # mount_setattr(2) also reaches the mounts below, and keeps the flags that we are not allowed to clear.
    flags = MS_NOSUID | MS_NOEXEC if device else MS_RDONLY | MS_NOSUID | MS_NODEV
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    call = libc.syscall(
        SYS_MOUNT_SETATTR, ctypes.c_int(-100), target.encode(), ctypes.c_uint(0x8000), attributes, ctypes.c_size_t(32)
    )
    check(call, f"mount_setattr of {target}")


def show(source: str, target: str, layer: str) -> None:
    """Show a file or a folder of the host inside, so that the jail's table of mounts does not tell which disk it is on.

    A file is copied; a folder is the lower layer of an overlay, of which programs read the same pages as the host's. Where
    that cannot be (an older kernel, mounts below the folder, which an overlay would not show), it is a plain bind.

    Args:
        source: The path on the host.
        target: Where it is to be.
        layer: An empty folder: an overlay of one layer would be no overlay.
    """
    if not os.path.isdir(source):
        if os.stat(source).st_size > LARGEST_COPY:
            bind(source, target)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(source, "rb") as original, open(target, "xb") as copy:
            copy.write(original.read())
        os.chmod(target, 0o444)
        return
    if not has_mounts_below(source) and not any(sign in source for sign in ",:\\"):
        os.makedirs(target, exist_ok=True)
        try:
            mount("host", target, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, f"lowerdir={source}:{layer}")
        except OSError:
            pass
        else:
            return
    bind(source, target)


def has_mounts_below(folder: str) -> bool:
    """Whether something else is mounted in a folder."""
    below = os.path.realpath(folder).rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return any(line.split(" ", 5)[4].startswith(below) for line in file)


def build_root(spec: dict[str, Any]) -> None:
    """Make an almost empty root out of `spec` and leave the host's behind."""
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("jail", STAGING, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=512,mode=755")
    for folder in ("proc", "dev/shm", "tmp", "etc", LAYER):
        os.makedirs(f"{STAGING}/{folder}")
    for path, target in spec["links"]:
        os.symlink(target, STAGING + path)
    for path in spec["shown"]:
        show(path, STAGING + path, f"{STAGING}/{LAYER}")
    for path in spec["devices"]:
        bind(path, STAGING + path, device=True)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, f"{STAGING}/dev/{name}")
    for name, text in spec["etc"].items():
        with open(f"{STAGING}/etc/{name}", "w") as file:
            file.write(text)
    mount_proc(f"{STAGING}/proc")
    mount("shm", f"{STAGING}/dev/shm", "tmpfs", FLAGS_OF_FOLDERS, OPTIONS_OF_SHM)  # noqa: S108
    os.chdir(STAGING)
    # The old root is stacked onto the new one, and taken off again: no folder for it is needed.
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")
    mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def mount_proc(target: str) -> None:
    """Mount the processes of the jail, and of the kernel's settings nothing where it can be told so."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for options in ("subset=pid", ""):
        try:
            mount("proc", target, "proc", flags, options)
        except OSError:  # an older kernel, or a container whose own /proc is covered in part
            continue
        return
    # Without /proc the usual languages still work.


def become(uid: int) -> None:
    """Go down from root to an unprivileged user that nobody else is."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_DUMPABLE, 1, "dumpable")  # or /proc/self/uid_map would belong to root


def enter_namespaces(walls: int = CLONE_WALLS) -> None:
    """Make a user namespace and others, and be nobody in them."""
    uid, gid = os.geteuid(), os.getegid()
    check(libc.unshare(ctypes.c_int(CLONE_NEWUSER | walls)), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{OVERFLOW_ID} {uid} 1"),
        ("gid_map", f"{OVERFLOW_ID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def forbid_namespaces() -> None:
    """Have no further user namespaces in this one, filter or not: in one, a program would be root over much of the kernel."""
    with suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")


def make_folders(disk_bytes: int, shown: list[str]) -> None:
    """Make the folders that bubblewrap is to show: its own know neither a limit on files nor one on execution.

    What it shows of the host is put there as well, numbered: its own way is a bind, which tells of the host's disks.
    """
    enter_namespaces(CLONE_NEWNS)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("jail", STAGING, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=64,mode=755")
    for name, options in (("tmp", options_of_tmp(disk_bytes)), ("shm", OPTIONS_OF_SHM)):
        os.mkdir(f"{STAGING}/{name}")
        mount(name, f"{STAGING}/{name}", "tmpfs", FLAGS_OF_FOLDERS, options)
    os.mkdir(f"{STAGING}/{LAYER}")
    for number, path in enumerate(shown):
        show(path, f"{STAGING}/{number}", f"{STAGING}/{LAYER}")


def launch(control: int, spec: dict[str, Any]) -> None:
    """Be the launcher: the first process inside. Does not return."""

    def tell(line: str) -> None:
        os.write(control, line.encode("utf-8", "replace") + b"\n")

    code = 1
    try:
        if spec["kind"] == "unshare":
            prctl(PR_SET_PDEATHSIG, SIGKILL, "parent-death signal")
            libc.sethostname(b"jail", ctypes.c_size_t(4))
            build_root(spec)
        elif spec["kind"] in ("landlock", "rlimits"):
            if spec["uid"]:
                become(spec["uid"])
            prctl(PR_SET_PDEATHSIG, SIGKILL, "parent-death signal")
            prctl(PR_SET_CHILD_SUBREAPER, 1, "subreaper")
        os.set_inheritable(control, False)  # noqa: FBT003
        tell("ready")
        order = read_order(control)
        if spec["kind"] == "unshare":
            mount("tmp", "/tmp", "tmpfs", FLAGS_OF_FOLDERS, options_of_tmp(order["disk_bytes"]))  # noqa: S108
        drop_capabilities()
        # What is in our memory and our descriptors, the program must not reach through /proc.
        prctl(PR_SET_DUMPABLE, 0, "dumpable")
        carry_out(order, tell, control)
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is must be told, and must end here
        tell(f"failed {type(error).__name__}: {error}".replace("\n", " "))
    finally:
        os._exit(code)


def launch_in_bubblewrap(control: int) -> None:
    """Be the launcher inside walls that bubblewrap has built."""
    launch(control, {"kind": "bubblewrap"})
