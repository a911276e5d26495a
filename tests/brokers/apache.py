"""Apache Kafka itself, in KRaft mode and without Docker: from Apache's own Maven artifacts, with Java 17 or newer and Maven.

The jars are kept under the user's cache folder. One node, or several that are brokers and controllers at once.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from attrs import define

from tests.brokers.processes import START_S, BrokerFailed, BrokerProcess, free_ports

VERSION = "4.1.1"
"""The version of Apache Kafka that the tests run on."""
_JAVA = 17
_RESOLVE_S = 600.0

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fissile.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

_PROPERTIES = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    # A test waits for a group of one or two members: there are no others to wait for.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "3",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",
}


def why_not() -> str | None:
    """Return why it cannot be started here, or None."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    printed = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', printed)
    if found is None or int(found[1]) < _JAVA:
        return f"Java {_JAVA} or newer is needed"
    return None


@cache
def jars() -> Path:
    """Return the folder with the jars of Kafka, resolved by Maven the first time."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "fissile" / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made aside and moved into place: a run that is cut off leaves no half of it, and two runs do not meet.
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    pom = aside / "pom.xml"
    pom.write_text(_POM.format(version=VERSION))
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={aside / 'lib'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RESOLVE_S)
    if done.returncode != 0:
        shutil.rmtree(aside, ignore_errors=True)
        raise BrokerFailed(f"Maven cannot resolve Kafka {VERSION}: {(done.stdout + done.stderr)[-2000:]}")
    try:
        aside.rename(folder)
    except OSError:  # another run was quicker
        shutil.rmtree(aside, ignore_errors=True)
    return folder


@define(eq=False)
class Cluster:
    """Some nodes of one cluster."""

    nodes: Sequence[BrokerProcess]

    @property
    def servers(self) -> str:
        """Where clients connect."""
        return ",".join(node.server for node in self.nodes)

    def end(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.end()


def start_apache(
    nodes: int = 1,
    *,
    properties: Mapping[str, str] | None = None,
    format_arguments: Sequence[str] = (),
    protocol: str = "PLAINTEXT",
) -> Cluster:
    """Start a cluster; it is ready when this returns.

    Args:
        nodes: How many nodes it has.
        properties: More properties of each node.
        format_arguments: More arguments for the formatting of its storage, such as SCRAM users.
        protocol: The security protocol of its listener for clients.
    """
    ports = free_ports(2 * nodes)
    clients, controllers = ports[:nodes], ports[nodes:]
    voters = ",".join(f"{number + 1}@127.0.0.1:{port}" for number, port in enumerate(controllers))
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")
    copies = str(min(3, nodes))
    found: list[BrokerProcess] = []
    for number in range(nodes):
        node = BrokerProcess((), clients[number])
        found.append(node)
        lines = {
            **_PROPERTIES,
            "node.id": str(number + 1),
            "controller.quorum.voters": voters,
            "listeners": f"CLIENTS://127.0.0.1:{clients[number]},CONTROLLER://127.0.0.1:{controllers[number]}",
            "advertised.listeners": f"CLIENTS://127.0.0.1:{clients[number]}",
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": f"CLIENTS:{protocol},CONTROLLER:PLAINTEXT",
            "log.dirs": str(node.folder / "data"),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": "1",
            **(properties or {}),
        }
        (node.folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        node.command = [*_java(512), "kafka.Kafka", "server.properties"]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda node: _format(node, cluster_id, format_arguments), found))
        for node in found:
            node.start()
        for node in found:
            node.wait_ready()
        if protocol == "PLAINTEXT":
            asyncio.run(_serving(Cluster(found).servers, nodes))
    except BaseException:
        Cluster(found).end()
        raise
    return Cluster(found)


def _java(heap_mib: int) -> list[str]:
    # The second tier of the compiler costs more than it brings to a broker that lives for a minute.
    options = [
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]
    return ["java", *options, "-cp", str(jars() / "lib" / "*")]


def _format(node: BrokerProcess, cluster_id: str, arguments: Sequence[str]) -> None:
    command = [
        *_java(256),
        "kafka.tools.StorageTool",
        "format",
        "-t",
        cluster_id,
        "-c",
        "server.properties",
        *arguments,
    ]
    done = subprocess.run(command, cwd=node.folder, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise BrokerFailed(f"Kafka's storage cannot be formatted: {(done.stdout + done.stderr)[-2000:]}")


async def _serving(servers: str, nodes: int) -> None:
    """Wait until all nodes are registered and answer: the ports are open before that."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    async with asyncio.timeout(START_S):
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=5000)
            try:
                await admin.start()
                if len((await admin.describe_cluster())["brokers"]) == nodes:
                    return
            except (KafkaError, OSError):
                pass
            finally:
                await admin.close()
            await asyncio.sleep(0.1)
