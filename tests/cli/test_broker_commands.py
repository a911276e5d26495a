"""`plan`, `topics`, `ps`, `lag`, `tail` and `call` on a broker that processes share."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.cli.example import PATIENCE_S, Running, answer, environment, fissile, order, port_of, running


@pytest.fixture
def shared(embedded_kafka: str) -> dict[str, str]:
    """The settings of an application of its own on the shared broker."""
    return {
        "FISSILE_BUS": f"kafka://{embedded_kafka}",
        "FISSILE_PLACEMENT": "split",
        "FISSILE_KAFKA_PREFIX": f"test-{uuid4().hex[:8]}.",
        "FISSILE_PARTITIONS": "2",
    }


@contextmanager
def split_running(shop: Path, shared: dict[str, str]) -> Iterator[tuple[Running, int]]:
    """Run all processes of the application; yield them and the gateway's port."""
    with running("dev", "--split", "--no-reload", "--port", "0", cwd=shop, **shared) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        yield dev, port
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


def first_lines(count: int, *arguments: str, cwd: Path, **more: str) -> list[str]:
    """Run a command until it has written some lines to stdout, then end it with Ctrl-C, and expect a clean end."""
    command = [sys.executable, "-m", "fissile", *arguments]
    with subprocess.Popen(
        command, cwd=cwd, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            lines = [process.stdout.readline() for _ in range(count)]
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0, process.stderr.read()
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
    return lines


def test_plan_then_apply_then_plan(split_shop: Path, shared: dict[str, str]) -> None:
    prefix = shared["FISSILE_KAFKA_PREFIX"]
    before = fissile("plan", cwd=split_shop, **shared)
    assert before.returncode == 10, before.stderr
    assert f"{prefix}orders.placed" in before.stdout
    assert "+ to be made" in before.stdout
    applied = fissile("topics", "apply", cwd=split_shop, **shared)
    assert applied.returncode == 0, applied.stderr
    assert f"made {prefix}orders.placed with 2 partitions" in applied.stdout
    after = fissile("plan", cwd=split_shop, **shared)
    assert after.returncode == 0, after.stderr
    assert "No changes are pending." in after.stderr
    again = fissile("topics", "apply", cwd=split_shop, **shared)
    assert (again.returncode, again.stdout) == (0, "")
    assert "Nothing to do" in again.stderr


def test_another_number_of_partitions_is_shown_and_refused_with_the_cure(
    split_shop: Path, shared: dict[str, str]
) -> None:
    assert fissile("topics", "apply", cwd=split_shop, **shared).returncode == 0
    other = {**shared, "FISSILE_PARTITIONS": "3"}
    planned = fissile("plan", cwd=split_shop, **other)
    assert planned.returncode == 10
    assert "! has 2 partitions, not 3" in planned.stdout
    refused = fissile("topics", "apply", cwd=split_shop, **other)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "Nothing was made or changed" in refused.stderr
    assert "Set FISSILE_PARTITIONS" in refused.stderr
    told = json.loads(fissile("plan", "--json", cwd=split_shop, **other).stdout)
    placed = next(each for each in told["topics"] if each["topic"].endswith("orders.placed"))
    assert (placed["state"], placed["partitions"], placed["found_partitions"]) == ("differs", 3, 2)


def kept_by_hand(servers: str, topic: str) -> None:
    """Let a topic keep records for an hour, as somebody might by hand."""

    async def alter() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            resource = ConfigResource(
                ConfigResourceType.TOPIC, topic, {"retention.ms": "3600000", "max.message.bytes": "2000000"}
            )
            await admin.alter_configs([resource])
        finally:
            await admin.close()

    asyncio.run(alter())


@pytest.mark.parametrize("broker", ["embedded_kafka", "apache_kafka"])
def test_a_topic_that_keeps_records_otherwise_is_pending_and_changed(
    split_shop: Path, shared: dict[str, str], broker: str, request: pytest.FixtureRequest
) -> None:
    servers: str = request.getfixturevalue(broker)
    there = {**shared, "FISSILE_BUS": f"kafka://{servers}"}
    topic = f"{shared['FISSILE_KAFKA_PREFIX']}orders.placed"
    assert fissile("topics", "apply", cwd=split_shop, **there).returncode == 0
    kept_by_hand(servers, topic)
    planned = plan_that_ends_with(10, split_shop, there)
    assert "~ retention.ms is 3600000, not 604800000" in planned.stdout
    assert "1 change is pending: `fissile topics apply` changes the topics." in planned.stderr
    told = json.loads(fissile("plan", "--json", cwd=split_shop, **there).stdout)
    (placed,) = [each for each in told["topics"] if each["state"] == "outdated"]
    change = {"name": "retention.ms", "found": "3600000", "wanted": "604800000"}
    assert (placed["topic"], placed["alter"]) == (topic, [change])
    applied = fissile("topics", "apply", "--json", cwd=split_shop, **there)
    assert json.loads(applied.stdout) == {"created": [], "altered": [{"topic": topic, **change}]}
    plan_that_ends_with(0, split_shop, there)


def plan_that_ends_with(code: int, folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Return what `plan` says when the broker has taken over a change, which it answers before it has."""
    told = ""
    for _ in range(20):
        planned = fissile("plan", cwd=folder, **settings)
        if planned.returncode == code:
            return planned
        told = planned.stdout + planned.stderr
    pytest.fail(f"it never ended with {code}: {told}")


def test_the_plan_names_processes_groups_and_the_calls_that_become_remote(
    split_shop: Path, shared: dict[str, str]
) -> None:
    told = json.loads(fissile("plan", "--json", cwd=split_shop, **shared).stdout)
    prefix = shared["FISSILE_KAFKA_PREFIX"]
    assert {"process": "orders", "modules": ["orders"]} in told["processes"]
    assert {
        "group": f"{prefix}billing",
        "module": "billing",
        "process": "billing",
        "topics": [f"{prefix}billing.requests", f"{prefix}orders.placed"],
    } in told["groups"]
    calls = {(each["source"], each["name"]): each for each in told["remote_calls"]}
    assert calls.keys() == {
        ("billing", "orders.get-order"),
        ("gateway", "orders.place-order"),
        ("gateway", "orders.get-order"),
        ("gateway", "billing.get-total"),
    }
    assert calls["billing", "orders.get-order"]["places"] == ["modules/billing/service.py:13"]
    assert told["changes"] == len(told["topics"])


def test_without_a_broker_the_plan_is_shown_and_nothing_is_pending(split_shop: Path) -> None:
    done = fissile("plan", "--placement", "split", cwd=split_shop)
    assert done.returncode == 0
    assert "billing → orders" in done.stdout
    assert "The log is a file, whose topics the processes make and change by themselves." in done.stderr
    in_memory = fissile("plan", "--placement", "split", cwd=split_shop, FISSILE_BUS="memory://")
    assert "There is no broker to compare with" in in_memory.stderr
    monolith = fissile("plan", cwd=split_shop)
    assert "--placement split" in monolith.stderr


@pytest.mark.parametrize("command", [["ps"], ["lag"], ["tail"], ["topics", "apply"]])
def test_where_the_bus_is_in_memory_there_is_nothing_to_ask(split_shop: Path, command: list[str]) -> None:
    done = fissile(*command, cwd=split_shop, FISSILE_BUS="memory://")
    assert (done.returncode, done.stdout) == (5, "")
    assert "the bus is memory://" in done.stderr


@pytest.mark.parametrize("command", [["ps"], ["lag"], ["tail"]])
def test_where_nothing_has_run_that_is_said(split_shop: Path, shared: dict[str, str], command: list[str]) -> None:
    done = fissile(*command, cwd=split_shop, **shared)
    assert (done.returncode, done.stdout) == (5, "")
    assert "nothing has run there yet" in done.stderr or "no process hosts orders" in done.stderr


@pytest.mark.parametrize("command", [["plan"], ["topics", "apply"], ["ps"], ["lag"], ["tail"]])
def test_a_broker_that_does_not_answer_is_named(split_shop: Path, command: list[str]) -> None:
    done = fissile(*command, cwd=split_shop, FISSILE_BUS="kafka://127.0.0.1:9", FISSILE_PLACEMENT="split")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.splitlines() == [
        "error: Kafka cannot be reached: 127.0.0.1:9: Connection refused.",
        "  FISSILE_BUS is kafka://127.0.0.1:9. Is Kafka running there?",
    ]


def test_what_was_published_is_seen_by_tail_and_lag(split_shop: Path, shared: dict[str, str]) -> None:
    prefix = shared["FISSILE_KAFKA_PREFIX"]
    with split_running(split_shop, shared) as (dev, port):
        for sku in ("A1", "B2", "A1"):
            answer(order(port, sku))
        from_earliest = ["tail", "--from", "earliest", "--json"]
        told = [json.loads(line) for line in first_lines(3, *from_earliest, cwd=split_shop, **shared)]
        assert [each["key"] for each in told] == ["A1", "B2", "A1"], "from whatever partition, in the order of time"
        assert all(each["topic"] == "orders.placed" and each["name"] == "orders.order-placed" for each in told)
        assert all(each["event"] == {"sku": each["key"]} for each in told)

        (line,) = first_lines(1, "tail", "orders.placed", "--from", "earliest", "--key", "B2", cwd=split_shop, **shared)
        assert line.split()[1:] == ["orders.order-placed", "B2", '{"sku":"B2"}']

        after_first = first_lines(
            2, "tail", "orders.placed", "--from", told[0]["position"], "--json", cwd=split_shop, **shared
        )
        assert {json.loads(each)["id"] for each in after_first} == {each["id"] for each in told[1:]}

        def is_handled() -> bool:
            lags = json.loads(fissile("lag", "--json", cwd=split_shop, **shared).stdout)
            placed = [each for each in lags if each["group"] == f"{prefix}billing" and "placed" in each["topic"]]
            assert sum(each["end"] for each in placed) == 3
            return all(each["lag"] == 0 for each in lags)

        dev.wait_until(is_handled, "everything handled")
        nobody_reads = f"{sys.executable} -m fissile tail --from earliest | true"
        more = environment(**shared)
        cut = subprocess.run(
            nobody_reads, shell=True, cwd=split_shop, env=more, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S
        )
        assert "Error" not in cut.stderr

        table = fissile("lag", cwd=split_shop, **shared)
        assert table.stdout.splitlines()[0].split() == ["GROUP", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG"]
        assert "0 to be handled" in table.stderr


def test_what_is_not_handled_is_lag(split_shop: Path, shared: dict[str, str]) -> None:
    """Only the process of the orders runs: what billing subscribes to waits for it."""
    with running("run", "orders", cwd=split_shop, **shared) as orders:
        orders.wait_for('"ready"')
        assert fissile("call", "orders.place-order", "--sku", "A1", cwd=split_shop, **shared).returncode == 0
        lags = json.loads(fissile("lag", "--json", cwd=split_shop, **shared).stdout)
        billing = [
            each for each in lags if each["group"].endswith("billing") and each["topic"].endswith("orders.placed")
        ]
        assert sum(each["lag"] for each in billing) == 1
        assert {each["committed"] for each in billing} == {None}
        seen = fissile("ps", "--json", cwd=split_shop, **shared)
        told = json.loads(seen.stdout)
        assert [each["process"] for each in told["members"]] == ["orders"]
        assert told["modules_without_process"] == ["billing"]
        assert told["processes_not_seen"] == ["gateway"]
        other = fissile("ps", cwd=split_shop, **{**shared, "FISSILE_PLACEMENT": "monolith"})
        assert other.stdout.splitlines()[1].split()[:3] == ["orders", "orders", "shop.orders"]
        assert "the placement 'monolith' has no process 'orders'" in other.stderr
        orders.signal(signal.SIGTERM)
        assert orders.wait_exit() == 0


def test_a_call_over_the_bus_reaches_the_processes_that_run(split_shop: Path, shared: dict[str, str]) -> None:
    with split_running(split_shop, shared) as (dev, _):
        done = fissile("call", "orders.place-order", "--sku", "A1", "--quantity", "3", cwd=split_shop, **shared)
        assert (done.returncode, done.stdout, done.stderr) == (0, '"3 x A1 [] False"\n', "")
        assert dev.wait_for("placing A1").startswith("orders")
        nested = fissile("call", "billing.get-total", "--order-id", "1", cwd=split_shop, **shared)
        assert (nested.returncode, nested.stdout) == (0, "20\n")
        refused = fissile("call", "orders.place-order", "--sku", "none", cwd=split_shop, **shared)
        assert refused.returncode == 1
        assert json.loads(refused.stderr.splitlines()[-1])["error"] == "orders.out-of-stock"


def test_a_call_over_the_bus_needs_the_contracts_only(split_shop: Path, shared: dict[str, str]) -> None:
    with running("run", "orders", cwd=split_shop, **shared) as orders:
        orders.wait_for('"ready"')
        (split_shop / "modules/billing/service.py").write_text("import nothing_like_this\n")
        done = fissile("call", "orders.get-order", "--order-id", "1", cwd=split_shop, **shared)
        assert (done.returncode, done.stdout) == (0, '{"sku":"A1","quantity":2}\n')


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["orders.plaecd"], 4, "Did you mean orders.placed?"),
        (["--from", "yesterday"], 2, "neither earliest nor latest nor a position"),
    ],
)
def test_a_wrong_tail_is_told(
    split_shop: Path, shared: dict[str, str], arguments: list[str], code: int, text: str
) -> None:
    done = fissile("tail", *arguments, cwd=split_shop, **shared)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


def test_all_of_it_on_apache_kafka(split_shop: Path, shared: dict[str, str], apache_kafka: str) -> None:
    there = {**shared, "FISSILE_BUS": f"kafka://{apache_kafka}"}
    assert fissile("ps", cwd=split_shop, **there).returncode == 5
    assert fissile("plan", cwd=split_shop, **there).returncode == 10
    assert fissile("topics", "apply", cwd=split_shop, **there).returncode == 0
    assert fissile("plan", cwd=split_shop, **there).returncode == 0
    refused = fissile("topics", "apply", cwd=split_shop, **{**there, "FISSILE_PARTITIONS": "3"})
    assert refused.returncode == 3
    with split_running(split_shop, there) as (_, port):
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        done = fissile("call", "orders.place-order", "--sku", "B2", cwd=split_shop, **there)
        assert done.stdout == '"1 x B2 [] False"\n'
        lines = first_lines(2, "tail", "--from", "earliest", "--json", cwd=split_shop, **there)
        assert {json.loads(line)["key"] for line in lines} == {"A1", "B2"}
        lags = json.loads(fissile("lag", "--json", cwd=split_shop, **there).stdout)
        assert sum(each["end"] for each in lags if each["topic"].endswith("orders.placed")) == 2
        told = json.loads(fissile("ps", "--json", cwd=split_shop, **there).stdout)
        assert {each["process"]: each["partitions"] for each in told["members"]} == {"orders": 2, "billing": 4}
