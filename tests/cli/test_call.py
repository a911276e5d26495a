"""`fissile call`: the reply on stdout, and every mistake named."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.example import fissile, running, with_vault


def test_the_reply_is_printed_as_json(shop: Path) -> None:
    done = fissile("call", "orders.get-order", "--order-id", "1", cwd=shop)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"sku":"A1","quantity":2}\n', "")


def test_a_reply_of_nothing_is_null(shop: Path) -> None:
    assert fissile("call", "orders.get-order", "--order-id=2", cwd=shop).stdout == "null\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_module_calls_another(shop: Path, backend: str) -> None:
    done = fissile("call", "billing.get-total", "--order-id", "1", cwd=shop, FISSILE_BACKEND=backend)
    assert (done.returncode, done.stdout) == (0, "20\n")


def test_options_are_read_as_the_types_of_their_fields(shop: Path) -> None:
    arguments = ["--sku", "-5", "--quantity", "3", "--tags", "a", "--tags=b c", "--gift"]
    done = fissile("call", "orders.place-order", *arguments, cwd=shop)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "3 x -5 ['a', 'b c'] True"


def test_fields_may_come_as_a_json_object_and_options_win(shop: Path) -> None:
    done = fissile("call", "orders.place-order", '{"sku": "A1", "quantity": 2}', "--quantity", "9", cwd=shop)
    assert json.loads(done.stdout) == "9 x A1 [] False"


def test_every_wrong_field_is_named_at_once(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--skv", "x", "--quantity", "two", cwd=shop)
    assert (done.returncode, done.stdout) == (2, "")
    for text in (
        "--skv: there is no such field. Did you mean --sku?",
        "--sku: it is missing, str.",
        "--quantity: expected int, got 'two'.",
        "usage: fissile call orders.place-order --sku STR [--quantity INT] [--tags STR...] [--gift]",
        "contract: modules/orders/contract.py:",
    ):
        assert text in done.stderr


def test_a_declared_error_is_json_on_stderr_and_exits_with_1(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--sku", "none", cwd=shop)
    assert (done.returncode, done.stdout) == (1, "")
    told = json.loads(done.stderr.splitlines()[-1])
    assert told == {"error": "orders.out-of-stock", "status": 409, "detail": "", "fields": {"sku": "none"}}


def test_a_handler_that_fails_is_told_without_its_traceback(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--sku", "broken", cwd=shop)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: orders.place-order failed with RuntimeError: the shelf fell over" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_traceback_comes_with_v(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--sku", "broken", "-v", cwd=shop)
    assert done.returncode == 1
    assert 'raise RuntimeError("the shelf fell over")' in done.stderr


def test_an_error_in_a_group_is_told_as_the_error_that_it_is(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--sku", "group", cwd=shop)
    assert done.returncode == 1
    assert "failed with RuntimeError: one of a group" in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("orders.place-ordr", "Did you mean place-order?"),
        ("order.place-order", "Did you mean orders.place-order?"),
        ("orders.order-placed", "is an event"),
        ("stock", "Modules: orders, billing."),
    ],
)
def test_an_unknown_name_exits_with_4_and_says_what_was_meant(shop: Path, name: str, meant: str) -> None:
    done = fissile("call", name, cwd=shop)
    assert (done.returncode, done.stdout) == (4, "")
    assert meant in done.stderr


def test_an_application_with_faults_exits_with_3(shop: Path) -> None:
    (shop / "modules/billing/service.py").write_text("import nothing_like_this\n")
    done = fissile("call", "orders.get-order", "--order-id", "1", cwd=shop)
    assert done.returncode == 3
    assert "needs nothing_like_this, which is not installed" in done.stderr


def test_ctrl_c_cancels_the_call_and_exits_with_130(shop: Path, tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("call", "orders.place-order", "--sku", f"wait:{begun}:{done}", cwd=shop) as call:
        call.wait_until(begun.exists)
        call.signal(signal.SIGINT)
        assert call.wait_exit() == 130
        assert "Traceback" not in call.text


@pytest.fixture
def vault(shop: Path) -> Path:
    """The example application with a module that requires scopes."""
    return with_vault(shop)


def test_a_call_is_made_for_whom_it_says(vault: Path) -> None:
    done = fissile(
        "call", "vault.open", "--as", "alice", "--scopes=vault:open,vault:see", cwd=vault, FISSILE_BUS="memory://"
    )
    assert (done.returncode, done.stdout) == (0, '"alice ()"\n'), done.stderr
    refused = fissile(
        "call", "vault.open", "--as=alice", "--scopes", "vault:see", cwd=vault, FISSILE_IDENTITY_KEYS="k" * 32
    )
    assert refused.returncode == 1
    assert "requires the scope vault:open, which its caller does not have" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_call_for_nobody_is_that_of_a_module_and_scopes_is_a_field_then(vault: Path) -> None:
    done = fissile("call", "vault.open", "--scopes", "a", cwd=vault)
    assert (done.returncode, done.stdout) == (0, "\"None ('a',)\"\n"), done.stderr


@pytest.mark.parametrize("wrong", [["--as"], ["--as", "a", "--as", "b"], ["--as", "a", "--scopes", "two words"]])
def test_for_whom_a_call_is_made_is_said_once(vault: Path, wrong: list[str]) -> None:
    done = fissile("call", "vault.open", *wrong, cwd=vault)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--as" in done.stderr


def test_ls_shows_what_is_required(vault: Path) -> None:
    rows = json.loads(fissile("ls", "commands", "--json", cwd=vault, FISSILE_BUS="memory://").stdout)
    assert {row["name"]: row["requires"] for row in rows}["vault.open"] == ["vault:open", "vault:see"]


def test_a_shared_bus_wants_a_key_where_something_is_required(vault: Path) -> None:
    bus = "kafka://localhost:9"
    refused = fissile("check", cwd=vault, FISSILE_BUS=bus)
    assert refused.returncode == 3
    assert "FISSILE_IDENTITY_KEYS" in refused.stderr + refused.stdout
    key = "k" * 32
    assert fissile("check", cwd=vault, FISSILE_BUS=bus, FISSILE_IDENTITY_KEYS=key).returncode == 0
    shown = fissile("config", cwd=vault, FISSILE_BUS=bus, FISSILE_IDENTITY_KEYS=key)
    assert "FISSILE_IDENTITY_KEYS" in shown.stdout
    assert key not in shown.stdout + shown.stderr
