"""The embedded broker, `noida-db`: small, in a wheel, there wherever the extra `broker` is installed.

Its binary is started itself: the console script would not forward signals. It is killed at the end, since a SIGTERM makes it write its data
for seconds, while the next one may find its port taken.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from tests.brokers.processes import BrokerProcess, free_ports


@cache
def embedded_broker() -> BrokerProcess | str:
    """Return the one of this test run, started if need be, or why there is none."""
    return start_embedded()


def start_embedded() -> BrokerProcess | str:
    """Start another one, or return why there is none."""
    spec = importlib.util.find_spec("noida_db")
    if spec is None or spec.origin is None:
        return "noida-db is not installed (extra `broker`)"
    binary = Path(spec.origin).parent / "noida-db"
    (port,) = free_ports(1)
    command = [str(binary), "start", "--data-dir", "data", "--only", "kafka", "--kafka-port", str(port)]
    broker = BrokerProcess(command, port)
    broker.start()
    broker.wait_ready()
    return broker
