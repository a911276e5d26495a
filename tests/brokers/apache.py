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
from hashlib import sha256
from pathlib import Path

from attrs import define, field, frozen

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
    # A node that was killed is missed, and may come back, when its session has ended.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
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


@frozen
class Door:
    """The second listener of a node, whose clients are told to come to another port, where a test may have a proxy.

    Attributes:
        inner: The port where it listens, on 127.0.0.1.
        outer: The port that it tells its clients.
    """

    inner: int
    outer: int


@define(eq=False)
class Cluster:
    """Some nodes of one cluster, and the second listener of each, where they have one; and further ones of the first, by protocol."""

    nodes: Sequence[BrokerProcess]
    doors: Sequence[Door] = ()
    others: Mapping[str, str] = field(factory=dict[str, str])

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
    others: Sequence[str] = (),
    has_doors: bool = False,
    java_options: Sequence[str] | None = None,
) -> Cluster:
    """Start a cluster; it is ready when this returns.

    Args:
        nodes: How many nodes it has.
        properties: More properties of each node.
        format_arguments: More arguments for the formatting of its storage, such as SCRAM users.
        protocol: The security protocol of its listener for clients.
        others: The protocols of further listeners of a single node, each of which is called like its protocol.
        has_doors: Whether its nodes have second listeners, without security.
        java_options: More options of Java, instead of those that make it start sooner.
    """
    shared = _shared_classes() if java_options is None else ()
    java = _java(512, shared if java_options is None else java_options)
    ports = free_ports(4 * nodes + len(others))
    clients, controllers, inner, outer = (ports[number : 4 * nodes : 4] for number in range(4))
    doors = tuple(map(Door, inner, outer)) if has_doors else ()
    at_others = {name: f"127.0.0.1:{port}" for name, port in zip(others, ports[4 * nodes :], strict=True)}
    named = "".join(f",{name}://{server}" for name, server in at_others.items())
    protocols = "".join(f",{name}:{name}" for name in others)
    voters = ",".join(f"{number + 1}@127.0.0.1:{port}" for number, port in enumerate(controllers))
    copies = str(min(3, nodes))
    found: list[BrokerProcess] = []
    for number in range(nodes):
        node = BrokerProcess((), clients[number])
        found.append(node)
        listeners = f"CLIENTS://127.0.0.1:{clients[number]}"
        at_door = [f",PROXIED://127.0.0.1:{port}" for port in (inner[number], outer[number])] if has_doors else ["", ""]
        lines = {
            **_PROPERTIES,
            "node.id": str(number + 1),
            "controller.quorum.voters": voters,
            "listeners": f"{listeners}{at_door[0]}{named},CONTROLLER://127.0.0.1:{controllers[number]}",
            "advertised.listeners": listeners + at_door[1] + named,
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": f"CLIENTS:{protocol},PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}",
            "log.dirs": str(node.folder / "data"),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": "1",
            **(properties or {}),
        }
        (node.folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        node.command = [*java, "kafka.Kafka", "server.properties"]
    cluster = Cluster(found, doors, at_others)
    try:
        _format(found, _java(256, shared), format_arguments)
        for node in found:
            node.start()
        for node in found:
            node.wait_ready()
        if protocol == "PLAINTEXT":
            wait_serving(found)
    except BaseException:
        cluster.end()
        raise
    return cluster


def _java(heap_mib: int, more: Sequence[str]) -> list[str]:
    # The second tier of the compiler costs more than it brings to a broker that lives for a minute.
    options = [
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]
    return ["java", *options, *more, "-cp", str(jars() / "lib" / "*")]


@cache
def _shared_classes() -> tuple[str, ...]:
    """Return the options that let Java read Kafka's classes from an archive (JEP 350), which is made the first time.

    A node then starts with 60 % of the work; without them it starts all the same.
    """
    version = subprocess.run(["java", "-version"], capture_output=True, check=False).stderr
    path = jars().with_name(f"kafka-{VERSION}-{sha256(version).hexdigest()[:12]}.jsa")
    if not path.exists():
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        cluster = start_apache(java_options=(f"-XX:ArchiveClassesAtExit={aside}",))
        try:
            cluster.nodes[0].terminate()
            aside.rename(path)
        except (OSError, subprocess.TimeoutExpired):
            return ()
        finally:
            cluster.end()
            aside.unlink(missing_ok=True)
    return (f"-XX:SharedArchiveFile={path}",)


def _format(nodes: Sequence[BrokerProcess], java: Sequence[str], arguments: Sequence[str]) -> None:
    """Format the storage of the first node, and copy it to the others: a Java for each of them takes seconds."""
    first, *others = nodes
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")
    tool = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "server.properties", *arguments]
    done = subprocess.run(tool, cwd=first.folder, capture_output=True, text=True, check=False, timeout=START_S)
    if done.returncode != 0:
        raise BrokerFailed(f"Kafka's storage cannot be formatted: {(done.stdout + done.stderr)[-2000:]}")
    for number, node in enumerate(others, 2):
        shutil.copytree(first.folder / "data", node.folder / "data")
        # Without an id of its folder: a node gives itself one when it starts.
        lines = f"version=1\ncluster.id={cluster_id}\nnode.id={number}\n"
        (node.folder / "data" / "meta.properties").write_text(lines)


def wait_serving(nodes: Sequence[BrokerProcess]) -> None:
    """Wait until these nodes, and no others, are registered and answer: the ports are open before that. Not for use in an event loop."""
    wait_answering([node.server for node in nodes])


def wait_answering(servers: Sequence[str]) -> None:
    """Likewise, for nodes that are not processes of ours."""
    with ThreadPoolExecutor(1) as apart:  # a browser's tests have an event loop in this thread that runs all the time
        apart.submit(lambda: asyncio.run(_serving(servers))).result()


async def _serving(servers: Sequence[str]) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    async with asyncio.timeout(START_S):
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=list(servers), request_timeout_ms=5000)
            try:
                await admin.start()
                if len((await admin.describe_cluster())["brokers"]) == len(servers):
                    return
            except (KafkaError, OSError):
                pass
            finally:
                await admin.close()
            await asyncio.sleep(0.1)
