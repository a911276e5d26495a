"""What the sqlite transport is told: the file of the URL, and bounds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fissile._errors import Fault, StartupFailed
from fissile._settings import Settings

OVERHEAD_BYTES = 65_536
"""What key and headers may add to a message of the largest size: those of a dead letter have its traceback. As on the other transports."""

_SCHEME = "sqlite:///"
_HEARTBEAT_S = 1.0


class Options(msgspec.Struct, frozen=True):
    """What the transport is made with.

    Attributes:
        path: The file.
        retention_bytes: How much a partition keeps, in bytes.
        max_record_bytes: The largest record: value, key and headers.
        buffer_bytes: How much may be waiting to be stored.
        append_s: How long what is to be stored waits for a file that another program has locked, in seconds.
        revoke_s: How long a member may take to hand its partitions over, in seconds.
        session_s: After which silence a process is thought dead, in seconds.
        heartbeat_s: How often a process says that it lives, and looks after the others, in seconds.
        housekeeping_s: How often it looks for what is no longer to be kept, in seconds.
        compact_after_s: How long an older record of a key is kept in a compacted topic, in seconds: who reads along sees it.
        poll_s: How often it looks for what other processes have stored while something happens, in seconds.
        idle_poll_s: How often it looks at least.
    """

    path: Path
    retention_bytes: int = 256 * 1024 * 1024
    max_record_bytes: int = 1024 * 1024 + OVERHEAD_BYTES
    buffer_bytes: int = 64 * 1024 * 1024
    append_s: float = 10.0
    revoke_s: float = 5.0
    session_s: float = 10.0
    heartbeat_s: float = _HEARTBEAT_S
    housekeeping_s: float = 10.0
    compact_after_s: float = 60.0
    poll_s: float = 0.002
    idle_poll_s: float = 0.25


def path_of(bus: str) -> Path:
    """Return the file of a URL: `sqlite:///relative/path` or `sqlite:////absolute/path`.

    Raises:
        StartupFailed: It names none.
    """
    rest = bus.removeprefix(_SCHEME)
    if rest == bus or not rest.strip("/") or rest.endswith("/") or rest == ":memory:" or "?" in rest:
        fault = Fault(
            f"{bus} names no file.",
            "FISSILE_BUS",
            "Write sqlite:///data/log.sqlite3 (relative to the application), or sqlite:////var/lib/app/log.sqlite3.",
        )
        raise StartupFailed((fault,))
    return Path(rest)


def absolute(bus: str, root: Path) -> str:
    """Return a URL whose file is absolute; anything else stays as it is.

    Args:
        bus: The URL.
        root: The folder that a relative file is in.
    """
    rest = bus.removeprefix(_SCHEME)
    is_relative = rest != bus and rest and not rest.startswith(("/", ":"))
    return f"{_SCHEME}{(root / rest).resolve()}" if is_relative else bus


def options_of(settings: Settings) -> Options:
    """Read the options from the settings.

    Raises:
        StartupFailed: The URL names no file.
    """
    return Options(
        path=path_of(settings.bus).absolute(),
        retention_bytes=settings.sqlite_retention_bytes,
        max_record_bytes=settings.max_message_bytes + OVERHEAD_BYTES,
        session_s=settings.sqlite_session_s,
        heartbeat_s=min(_HEARTBEAT_S, settings.sqlite_session_s / 4),
    )
