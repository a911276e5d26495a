"""Which level holds on this machine: found out by attacking our own jail, not by asking for versions."""

import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from . import _levels
from ._inside import landlock_abi
from ._jail import Jail
from ._levels import Level
from ._model import Limits, NoSandbox, Outcome, SandboxError, Work
from ._mother import Mother
from ._orders import ENVIRONMENT, order_for, run_folder
from ._supervise import Ending, Supervisor
from ._users import Users
from .languages import LANGUAGES, SEARCH_PATH

_NOBODY_LISTENS = 9

_CURE = (
    "Install bubblewrap (Debian: apt install bubblewrap), or let users make namespaces (sysctl "
    "user.max_user_namespaces above 0; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), or set the sandbox "
    "to docker where an engine runs. In a container, the engine's default profile refuses namespaces: give the "
    "executor an engine instead. For your own programs on your own machine, weak levels can be allowed."
)


def find_level(names: tuple[str, ...], users: Users, *, disk_bytes: int = Limits().disk_bytes) -> Level:
    """Return the first level that holds.

    Args:
        names: The levels to try, in this order.
        users: Where the jails' users come from.
        disk_bytes: How much the files of a usual run may have.

    Raises:
        NoSandbox: None holds. The text tells why each one failed, and the cure.
    """
    reasons: list[str] = []
    for python in _levels.interpreters():
        mother = Mother(python)
        try:
            for name in names:
                reason = _missing(name)
                if not reason:
                    candidate = _levels.level(name, mother, landlock_abi=landlock_abi(), disk_bytes=disk_bytes)
                    reason = _weakness(candidate, users)
                    if not reason:
                        return candidate
                reasons.append(f"{name} with {python}: {reason}")
        except BaseException:
            mother.close()
            raise
        mother.close()
    raise NoSandbox(f"No sandbox holds on this machine, so nothing is run. {'; '.join(reasons)}. Cure: {_CURE}")


def _missing(name: str) -> str:
    """What a level lacks on this machine, or nothing."""
    if name == "bubblewrap" and not shutil.which("bwrap", path=os.pathsep.join(SEARCH_PATH)):
        return "bwrap is not installed"
    if name == "landlock" and landlock_abi() < _levels.LANDLOCK_ABI_MIN:
        return f"the kernel has Landlock ABI {landlock_abi()}, {_levels.LANDLOCK_ABI_MIN} is needed"
    return ""


def _weakness(level: Level, users: Users) -> str:
    """Attack a jail of this level and return what got through, or nothing."""
    try:
        # Nobody expects rlimits to hold; all that is asked of them is that programs run.
        broken = attack(level, users, only=("work",) if level.name == "rlimits" else ())
    except SandboxError as error:
        return str(error).rstrip(".")
    return f"its jail let through: {', '.join(broken)}" if broken else ""


def attack(level: Level, users: Users, *, only: tuple[str, ...] = ()) -> list[str]:
    """Run the attacks of `_attacks` in a jail of this level.

    Args:
        level: Whose jail.
        users: Where its user comes from.
        only: The names of the attacks to run; none means all.

    Returns:
        The names of those that got through.

    Raises:
        SandboxError: The jail could not be made, or the attacks did not run to their end.
    """
    survivor = "jail" + secrets.token_hex(4)
    with ExitStack() as stack:
        targets: dict[str, Any] = {
            "only": only,
            "survivor": survivor,
            "variables": sorted(set(os.environ) - set(ENVIRONMENT) - {"HOME", "TMPDIR", "LC_CTYPE"}),
            "runtime": os.getpid(),
            "mother": level.walls.mother.process_id,
            "filtered": bool(level.seccomp),
            **_targets(stack, survivor),
        }
        ending = _run(level, users, json.dumps(targets))
    if ending.outcome is not Outcome.FINISHED or ending.status != 0:
        words = ending.stderr.text().strip().splitlines()
        raise SandboxError(f"The attacks ended as {ending.outcome}: {words[-1] if words else 'no message'}.")
    broken: list[str] = json.loads(ending.stdout.text())
    if survivor in _names_of_processes():
        broken.append("survive")
    return broken


def _targets(stack: ExitStack, name: str) -> dict[str, Any]:
    """Put up what the attacks aim at: two services, a secret that all may read, a folder where all may write."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fissile-probe-")))
    folder.chmod(0o755)
    secret_file, open_folder = folder / "secret", folder / "open"
    secret_file.write_text("secret")
    secret_file.chmod(0o644)
    open_folder.mkdir()
    open_folder.chmod(0o777)
    port = _NOBODY_LISTENS
    with suppress(OSError):  # a machine without IPv4
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind("\0" + name)
    abstract.listen()
    return {
        "secret_file": str(secret_file),
        "open_folder": str(open_folder),
        "port": port,
        "abstract": "\0" + name,
    }


def _run(level: Level, users: Users, stdin: str) -> Ending:
    source = Path(__file__).with_name("_attacks.py").read_text(encoding="utf-8")
    work = Work(LANGUAGES["python"], source, Limits(wall_s=5.0), stdin)
    tools = {"python3": level.walls.mother.python}
    uid = users.take()
    try:
        jail = Jail.start(level.walls, uid)
    except BaseException:
        users.give_back(uid)
        raise
    poke = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        jail.wait_ready()
        with run_folder(level, uid) as folder:
            return Supervisor(
                jail=jail,
                order=order_for(level, tools, work, folder),
                work=work,
                poke=poke,
                emit=None,
                on_start=lambda: None,
            ).run()
    finally:
        os.close(poke)
        jail.close()
        if jail.gone:
            users.give_back(uid)


def _names_of_processes() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            yield path.read_text().strip()
        except OSError:
            continue
