"""Apache Kafka in a container, where a Docker engine answers and has the image that docker-compose.services.yml pins. Nothing is pulled."""

from __future__ import annotations

import atexit
import subprocess
from functools import cache

from tests.brokers.apache import VERSION, wait_answering
from tests.brokers.processes import BrokerFailed, free_ports

IMAGE = f"apache/kafka:{VERSION}"
_ANSWERS_WITHIN_S = 10.0
_STARTS_WITHIN_S = 60.0

_VARIABLES = {
    "CLUSTER_ID": "Zmlzc2lsZS10ZXN0cy0wMQ",
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CLIENTS:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "INSIDE",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "3",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
}


@cache
def kafka_in_docker() -> str | None:
    """Return where the one of this test run is, started if need be, or None where there is no engine or no image."""
    if not _docker("image", "ls", "--quiet", IMAGE, within_s=_ANSWERS_WITHIN_S):
        return None
    (port,) = free_ports(1)
    listeners = {
        "KAFKA_LISTENERS": f"CLIENTS://:{port},INSIDE://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"CLIENTS://127.0.0.1:{port},INSIDE://localhost:9092",
    }
    variables = [part for name, value in {**_VARIABLES, **listeners}.items() for part in ("--env", f"{name}={value}")]
    published = ("--publish", f"127.0.0.1:{port}:{port}")
    container = _docker("run", "--detach", "--rm", *variables, *published, IMAGE, within_s=_STARTS_WITHIN_S)
    if not container:
        return None  # such as an engine without a network
    atexit.register(_docker, "rm", "--force", container, within_s=_STARTS_WITHIN_S)
    server = f"127.0.0.1:{port}"
    try:
        wait_answering([server])
    except TimeoutError:
        log = _docker("logs", "--tail", "20", container, within_s=_ANSWERS_WITHIN_S)
        raise BrokerFailed(f"Kafka in Docker does not answer: {log}") from None
    return server


def _docker(*arguments: str, within_s: float) -> str | None:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=within_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout or done.stderr).strip() if done.returncode == 0 else None
