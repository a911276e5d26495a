"""`fissile config`, `ls` and `graph`: what an application is, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.example import BILLING_SERVICE, PYPROJECT, fissile, write_application


def rows(text: str) -> list[list[str]]:
    """The cells of a plain table, without its headings."""
    return [[cell for cell in line.split("  ") if cell] for line in text.splitlines()[1:]]


# --- config ----------------------------------------------------------------------------------------------------------


def test_config_shows_every_value_and_where_it_came_from(shop: Path) -> None:
    (shop / ".env").write_text("FISSILE_DRAIN_S=2\nFISSILE_WINDOW=8\n")
    (shop / ".env.local").write_text("FISSILE_WINDOW=9\n")
    done = fissile("config", cwd=shop, FISSILE_BACKEND="trio")
    assert done.returncode == 0
    found = {row[0]: [cell.strip() for cell in row[1:]] for row in rows(done.stdout)}
    assert found["FISSILE_BACKEND"] == ["trio", "environment"]
    assert found["FISSILE_WINDOW"] == ["9", ".env.local"]
    assert found["FISSILE_DRAIN_S"] == ["2.0", ".env"]
    assert found["FISSILE_ORDERS_LIMIT"] == ["7", "pyproject.toml"]
    assert found["FISSILE_PORT"] == ["8000", "default"]


def test_secrets_are_masked_everywhere(shop: Path) -> None:
    secrets = {"FISSILE_ORDERS_TOKEN": "hunter2", "FISSILE_BUS": "kafka://me:swordfish@broker:9092"}
    for command in (
        ["config"],
        ["config", "--json"],
        ["ls", "settings"],
        ["ls", "settings", "--json"],
        ["check"],
        ["run"],
    ):
        done = fissile(*command, cwd=shop, **secrets)
        assert "hunter2" not in done.stdout + done.stderr
        if command[0] in ("config", "ls"):
            assert "swordfish" not in done.stdout + done.stderr
            assert "********" in done.stdout
            assert "kafka://me:********@broker:9092" in done.stdout


def test_config_as_json_has_values_of_their_types(shop: Path) -> None:
    told = json.loads(fissile("config", "--json", cwd=shop).stdout)
    by_name = {each["setting"]: each for each in told["settings"]}
    assert by_name["FISSILE_ORDERS_LIMIT"]["value"] == 7
    assert by_name["FISSILE_ORDERS_LIMIT"]["source"] == "pyproject.toml"
    assert by_name["FISSILE_ORDERS_TOKEN"]["secret"] is True


def test_a_slip_of_the_pen_is_a_warning(shop: Path) -> None:
    done = fissile("config", cwd=shop, FISSILE_DRIAN_S="1")
    assert done.returncode == 0
    assert (
        "warning: FISSILE_DRIAN_S (environment) is no setting of this application. Did you mean FISSILE_DRAIN_S?"
        in done.stderr
    )


def test_config_shows_what_it_can_and_then_the_faults(shop: Path) -> None:
    done = fissile("config", cwd=shop, FISSILE_ORDERS_LIMIT="many")
    assert done.returncode == 3
    assert "FISSILE_PLACEMENT" in done.stdout
    assert "FISSILE_ORDERS_LIMIT='many' cannot be used" in done.stderr


# --- ls --------------------------------------------------------------------------------------------------------------


def listed(shop: Path, kind: str) -> list[dict[str, Any]]:
    """What `ls --json` tells."""
    told: list[dict[str, Any]] = json.loads(fissile("ls", kind, "--json", cwd=shop).stdout)
    return told


def test_ls_shows_the_modules_unless_told(shop: Path) -> None:
    done = fissile("ls", cwd=shop)
    assert done.stdout.splitlines()[0].split() == [
        "MODULE",
        "PROCESS",
        "COMMANDS",
        "QUERIES",
        "TOPICS",
        "SUBSCRIPTIONS",
        "DATABASE",
        "CONTRACT",
    ]
    assert [row[0] for row in rows(done.stdout)] == ["orders", "billing", "gateway"]
    assert "\x1b" not in done.stdout


def test_ls_commands_shows_fields_reply_and_errors(shop: Path) -> None:
    (command,) = listed(shop, "commands")
    assert command["name"] == "orders.place-order"
    assert command["fields"] == ["sku: str", "quantity: int = 1", "tags: tuple[str, ...] = ()", "gift: bool = False"]
    assert (command["reply"], command["errors"], command["idempotent"]) == ("str", ["out-of-stock"], True)


def test_ls_queries_shows_replies_as_they_are_written(shop: Path) -> None:
    assert [each["reply"] for each in listed(shop, "queries")] == ["Order | None", "int"]


def test_ls_topics_shows_who_subscribes(shop: Path) -> None:
    (topic,) = listed(shop, "topics")
    assert (topic["topic"], topic["events"], topic["subscribers"]) == ("orders.placed", ["OrderPlaced"], ["billing"])


def test_ls_subscriptions_shows_the_retry_policy(shop: Path) -> None:
    (subscription,) = listed(shop, "subscriptions")
    assert subscription["retry"] == "9 times from 0.5 s, at most 30 s, then dead letter"
    assert subscription["handler"].startswith("modules/billing/service.py:")


def test_ls_of_something_else_names_what_there_is(shop: Path) -> None:
    done = fissile("ls", "topic", cwd=shop)
    assert done.returncode == 2
    assert '"topics"' in done.stderr


# --- graph -----------------------------------------------------------------------------------------------------------


def test_graph_shows_calls_and_subscriptions(shop: Path) -> None:
    done = fissile("graph", cwd=shop)
    assert done.stdout.splitlines() == [
        "billing ─query→ orders  orders.get-order  (modules/billing/service.py:13)",
        "orders  ═event═▶ billing  orders.placed  (modules/billing/service.py:17)",
    ]


def test_graph_finds_messages_however_they_are_imported(tmp_path: Path) -> None:
    service = BILLING_SERVICE.replace(
        "module = Module(contract)", "module = Module(contract)\nimport modules.orders.contract\n"
    ) + (
        "\n    from ..orders.contract import PlaceOrder as Buy"
        "\n    await bus.execute(Buy('A1'))"
        "\n    await bus.ask(modules.orders.contract.GetOrder('1'))\n"
    )
    write_application(tmp_path, {"modules/billing/service.py": service, "pyproject.toml": PYPROJECT})
    edges = json.loads(fissile("graph", "--json", cwd=tmp_path).stdout)["edges"]
    found = {(edge["source"], edge["kind"], edge["name"]): len(edge["places"]) for edge in edges}
    assert found == {
        ("billing", "command", "orders.place-order"): 1,
        ("billing", "query", "orders.get-order"): 2,
        ("orders", "event", "orders.placed"): 1,
    }


def test_graph_as_mermaid(shop: Path) -> None:
    assert fissile("graph", "--mermaid", cwd=shop).stdout.splitlines() == [
        "flowchart LR",
        '  m_orders["orders"]',
        '  m_billing["billing"]',
        '  m_billing -->|"get-order"| m_orders',
        '  m_orders ==>|"placed"| m_billing',
    ]
