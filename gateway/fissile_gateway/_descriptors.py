"""The operating system's limit of open files, of which each connection takes one."""

from __future__ import annotations

import logging

SPARE = 200
"""What a process opens besides its connections: logs, databases, the connections to brokers."""

_logger = logging.getLogger("fissile.gateway")


def allow_connections(connections: int) -> None:
    """Raise this process's limit of open files to what so many connections need, as far as it may; warn where it may not.

    Systems give a process some thousand unless it asks for more, for the sake of programs that use `select`, which this is none of.

    Args:
        connections: How many.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):  # macOS refuses some values that it says are possible
        reachable = soft
    if reachable < wanted:
        _logger.warning(
            "%d connections are allowed (FISSILE_CONNECTIONS_AT_ONCE), but this process may open %d files; raise its limit (ulimit -Hn, "
            "LimitNOFILE of systemd, --ulimit nofile of Docker), or lower the setting",
            connections,
            reachable,
        )
