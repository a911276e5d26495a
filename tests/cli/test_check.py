"""`fissile check`: all faults at once, and the boundaries between modules."""

from __future__ import annotations

import json
from pathlib import Path

from fissile._application import Application
from fissile.cli._boundaries import boundary_faults
from tests.cli.example import BILLING_SERVICE, ORDERS_CONTRACT, ORDERS_SERVICE, PYPROJECT, fissile, write_application


def crossings(folder: Path) -> list[tuple[str, str]]:
    """The place and text of each boundary fault, by file, without the folder of the test."""
    faults = boundary_faults(Application.find(folder))
    return [(fault.where.removeprefix(f"{folder}/"), fault.what) for fault in faults]


def test_an_application_without_faults_passes(shop: Path) -> None:
    done = fissile("check", cwd=shop)
    assert (done.returncode, done.stdout, done.stderr) == (0, "shop: 2 modules, no faults\n", "")


def test_all_faults_are_listed_together_with_place_and_cure(tmp_path: Path) -> None:
    unhandled = ORDERS_SERVICE.replace("@module.query(GetOrder)\n", "")
    silent = unhandled.replace("PlaceOrder, idempotent=True", "PlaceOrder")
    crossing = BILLING_SERVICE.replace(
        "from modules.orders import contract as orders", "from modules.orders import contract as orders, service"
    )
    write_application(tmp_path, {"modules/orders/service.py": silent, "modules/billing/service.py": crossing})
    done = fissile("check", cwd=tmp_path, FISSILE_ORDERS_LIMIT="many")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "4 faults" in done.stderr
    for text in (
        "The query GetOrder has no handler.",
        "The handler of PlaceOrder does not say how it bears a repeat.",
        "modules.billing.service imports modules.orders.service",
        "FISSILE_ORDERS_LIMIT='many' cannot be used",
        "modules/billing/service.py:4",
        "modules/orders/contract.py:",
    ):
        assert text in done.stderr
    assert done.stderr.count("cure: ") == 4


def test_faults_as_json_are_data_on_stdout(tmp_path: Path) -> None:
    write_application(tmp_path, {"modules/orders/service.py": "def ("})
    done = fissile("check", "--json", cwd=tmp_path)
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["application"] == "shop"
    assert [fault["where"] for fault in told["faults"]] == ["modules/orders/service.py:1"], (
        "told once, and no other module is blamed"
    )
    assert set(told["faults"][0]) == {"what", "where", "cure"}


def test_a_broken_file_that_others_import_is_told_once(tmp_path: Path) -> None:
    write_application(tmp_path, {"modules/orders/contract.py": "def ("})
    told = json.loads(fissile("check", "--json", cwd=tmp_path).stdout)
    assert [fault["where"] for fault in told["faults"]] == ["modules/orders/contract.py:1"]


def test_a_configuration_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    write_application(tmp_path, {"pyproject.toml": PYPROJECT + "\nmodules = ["})
    done = fissile("check", cwd=tmp_path)
    assert done.returncode == 3
    assert "It is not valid TOML" in done.stderr


def test_a_placement_that_leaves_a_module_out_is_a_fault(tmp_path: Path) -> None:
    text = PYPROJECT + '\n[tool.fissile.placements.part]\nall = ["gateway", "orders"]\n'
    write_application(tmp_path, {"pyproject.toml": text})
    done = fissile("check", cwd=tmp_path, FISSILE_PLACEMENT="part")
    assert done.returncode == 3
    assert "The module 'billing' is in no process." in done.stderr


def test_of_another_module_only_the_contract_may_be_imported(tmp_path: Path) -> None:
    write_application(
        tmp_path,
        {
            "modules/orders/store/__init__.py": "",
            "modules/orders/store/rows.py": "from ..contract import Order\n",
            "modules/billing/bad.py": """\
                from typing import TYPE_CHECKING
                import modules.orders.contract
                from modules.orders.contract import GetOrder
                from ..orders import contract
                from ..orders.store import rows
                if TYPE_CHECKING:
                    from modules.orders.service import module
                def late():
                    import modules.orders.store.rows as rows
                    from modules import orders
                class Table:
                    async def read(self):
                        try:
                            pass
                        except* ValueError:
                            from modules.orders.store import rows
                        else:
                            from modules.orders.store import rows
                        finally:
                            from modules.orders.store import rows
                        for _ in ():
                            pass
                        else:
                            from modules.orders.store import rows
                        async with self:
                            match self:
                                case None:
                                    from modules.orders.store import rows
            """,
            "gateway/pages.py": "from modules.billing.service import module\nfrom modules.billing.contract import GetTotal\n",
        },
    )
    inner = _crossing("modules.billing.bad", "modules.orders.store.rows")
    assert sorted(crossings(tmp_path), key=lambda each: (each[0].split(":")[0][8:], int(each[0].split(":")[1]))) == [
        ("modules/billing/bad.py:5", _crossing("modules.billing.bad", "modules.orders.store.rows")),
        ("modules/billing/bad.py:7", _crossing("modules.billing.bad", "modules.orders.service.module")),
        ("modules/billing/bad.py:9", _crossing("modules.billing.bad", "modules.orders.store.rows")),
        ("modules/billing/bad.py:10", _crossing("modules.billing.bad", "modules.orders")),
        *((f"modules/billing/bad.py:{line}", inner) for line in (16, 18, 20, 24, 28)),
        ("gateway/pages.py:1", _crossing("gateway.pages", "modules.billing.service.module")),
    ]


def test_a_contract_may_import_only_fissile_attrs_msgspec_and_the_standard_library(tmp_path: Path) -> None:
    contract = ORDERS_CONTRACT.replace(
        "from attrs import frozen",
        "from attrs import frozen\nimport decimal, msgspec\nimport numpy\nfrom . import service\nfrom modules.billing.contract import GetTotal",
    )
    write_application(tmp_path, {"modules/orders/contract.py": contract})
    rule = "it may import only fissile, attrs, msgspec and the standard library."
    assert crossings(tmp_path) == [
        ("modules/orders/contract.py:4", f"The contract modules.orders.contract imports numpy: {rule}"),
        (
            "modules/orders/contract.py:5",
            f"The contract modules.orders.contract imports modules.orders.service: {rule}",
        ),
        (
            "modules/orders/contract.py:6",
            f"The contract modules.orders.contract imports modules.billing.contract.GetTotal: {rule}",
        ),
    ]


def test_a_file_that_nobody_imports_is_read_too(tmp_path: Path) -> None:
    write_application(tmp_path, {"modules/billing/forgotten.py": "x = (\n"})
    assert crossings(tmp_path)[0][0] == "modules/billing/forgotten.py:1"


def _crossing(who: str, what: str) -> str:
    return f"{who} imports {what}: of another module it may import the contract and nothing else."
