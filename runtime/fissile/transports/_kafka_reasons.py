"""Why Kafka cannot be reached, in the words of people.

aiokafka's error names the hosts, as a list of tuples; why each of them could not be connected stands in its log only. So its log is listened to.
"""

from __future__ import annotations

import logging
import os
import re

_HOST = re.compile(r"\('([^']+)', (\d+)")
_CANNOT_CONNECT = "Unable connect to"


class _Listener(logging.Filter):
    """Remembers why the hosts could not be connected; lets everything pass."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[tuple[str, str], str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        if isinstance(arguments, tuple) and len(arguments) == 3 and str(record.msg).startswith(_CANNOT_CONNECT):
            host, port, error = arguments
            self.reasons[str(host), str(port)] = _why(error)
        return True


_listener = _Listener()


def listen() -> None:
    """Listen to aiokafka's log from now on; more than once is once."""
    logging.getLogger("aiokafka").addFilter(_listener)


def reason(error: BaseException | None) -> str:
    """Return why a try to reach Kafka has failed, such as `127.0.0.1:9092: Connection refused`.

    Args:
        error: What aiokafka has raised; None where it was cancelled in there.
    """
    if error is None:
        return "it was cancelled"
    hosts = _HOST.findall(str(error)) if type(error).__name__ == "KafkaConnectionError" else []
    if not hosts:
        return _why(error)
    return "; ".join(f"{host}:{port}: {_listener.reasons.get((host, port), 'no answer')}" for host, port in hosts)


def _why(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0 and type(error).__module__ != "ssl":
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:  # of a name that is not known
        return error.strerror
    text = str(error).rstrip(".")
    if not isinstance(error, BaseException):
        return text
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
