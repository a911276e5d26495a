"""`fissile migrate`, as a person or a deployment calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.cli.example import ORDERS_SERVICE, fissile, write_application

TABLES = """
from sqlalchemy import Column, Integer, MetaData, String, Table

metadata = MetaData()
stock = Table("stock", metadata, Column("sku", String(20), primary_key=True), Column("left", Integer, nullable=False))
"""

SERVICE = "from fissile.database import Schema\nfrom .tables import metadata\n" + ORDERS_SERVICE.replace(
    "Module(contract)", "Module(contract, database=Schema(metadata))"
)


@pytest.fixture
def stocked_shop(tmp_path: Path) -> Path:
    """The example application, whose module orders has a database."""
    assert "database=Schema" in SERVICE
    return write_application(
        tmp_path / "shop", {"modules/orders/tables.py": TABLES, "modules/orders/service.py": SERVICE}
    )


def test_migrations_are_written_shown_and_applied(stocked_shop: Path) -> None:
    check = fissile("migrate", "--check", cwd=stocked_shop)
    assert check.returncode == 10
    assert "add table stock" in check.stdout
    assert "fissile migrate new orders" in check.stderr
    assert not (stocked_shop / "data").exists()

    written = fissile("migrate", "new", "orders", "first tables", cwd=stocked_shop)
    assert written.returncode == 0
    assert Path(written.stdout.strip()) == stocked_shop / "modules/orders/migrations/0001_first_tables.py"
    (shown,) = json.loads(fissile("migrate", "show", "--json", cwd=stocked_shop).stdout)
    assert shown["pending"][-1] == "0001 first tables"
    assert shown["drift"] == []

    applied = fissile("migrate", cwd=stocked_shop)
    assert applied.returncode == 0
    assert "orders: applied 0001 first tables" in applied.stdout
    again = fissile("migrate", cwd=stocked_shop)
    assert (again.returncode, again.stdout) == (0, "")
    assert fissile("migrate", "--check", cwd=stocked_shop).returncode == 0
    assert "Nothing to write" in fissile("migrate", "new", "orders", "more", cwd=stocked_shop).stderr


def test_a_migration_that_fails_tells_which_and_that_nothing_was_changed(stocked_shop: Path) -> None:
    folder = stocked_shop / "modules/orders/migrations"
    folder.mkdir()
    (folder / "0001_broken.py").write_text(
        'revision = "0001"\ndown_revision = None\n\ndef upgrade():\n    raise KeyError("mine")\n'
    )
    done = fissile("migrate", cwd=stocked_shop)
    assert done.returncode == 1
    assert "orders was not migrated: KeyError: 'mine'" in done.stderr
    assert "as it was" in done.stderr


def test_what_cannot_be_done_is_told_with_the_cure(stocked_shop: Path) -> None:
    unknown = fissile("migrate", "show", "ordrs", cwd=stocked_shop)
    assert unknown.returncode == 4
    assert "Did you mean orders?" in unknown.stderr
    without = fissile("migrate", "show", "billing", cwd=stocked_shop)
    assert without.returncode == 4
    assert "Module(contract, database=Schema(metadata))" in without.stderr
    assert fissile("migrate", "new", "orders", cwd=stocked_shop).returncode == 2
    assert fissile("migrate", "apply", "orders", "what", cwd=stocked_shop).returncode == 2
    away = fissile("migrate", cwd=stocked_shop, FISSILE_DATABASE="postgresql://app:hidden@127.0.0.1:1/shop")
    assert away.returncode == 7
    assert "Connection refused" in away.stderr
    assert "hidden" not in away.stderr


def test_a_message_of_several_words_without_quotes_is_told_to_be_quoted(stocked_shop: Path) -> None:
    done = fissile("migrate", "new", "orders", "first", "tables", cwd=stocked_shop)
    assert done.returncode == 2
    assert 'Put it into quotes: fissile migrate new orders "first tables"' in done.stderr
    assert not (stocked_shop / "modules/orders/migrations").exists()


def test_a_process_that_refuses_to_start_names_what_all_modules_lack_and_leaves_nothing_behind(
    stocked_shop: Path,
) -> None:
    billing = stocked_shop / "modules/billing"
    (billing / "tables.py").write_text(TABLES)
    service = (billing / "service.py").read_text()
    head = "from fissile.database import Schema\nfrom .tables import metadata\n"
    (billing / "service.py").write_text(
        head + service.replace("Module(contract)", "Module(contract, database=Schema(metadata))")
    )
    done = fissile("run", cwd=stocked_shop, FISSILE_BUS="")
    assert done.returncode == 3
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    lacking = [each["event"] for each in told if "there is no migration" in each["event"]]
    assert [text.split()[2] for text in lacking] == ["orders", "billing"]
    assert not (stocked_shop / "data").exists()


def test_it_works_on_postgresql(stocked_shop: Path, postgres_database: str) -> None:
    fissile("migrate", "new", "orders", "first tables", cwd=stocked_shop, FISSILE_DATABASE=postgres_database)
    assert fissile("migrate", cwd=stocked_shop, FISSILE_DATABASE=postgres_database).returncode == 0
    shown = fissile("migrate", "--check", cwd=stocked_shop, FISSILE_DATABASE=postgres_database)
    assert shown.returncode == 0
    assert "fissile:***@" in shown.stdout or "***" in shown.stdout


def test_the_library_imports_no_database() -> None:
    script = "import fissile, sys; sys.exit(any(name.split('.')[0] in ('sqlalchemy', 'alembic', 'psycopg') for name in sys.modules))"
    assert run([sys.executable, "-c", script], check=False).returncode == 0


def test_to_start_on_a_database_that_is_up_to_date_needs_no_alembic() -> None:
    script = "import fissile.database._migrations, sys; sys.exit(any(name.split('.')[0] == 'alembic' for name in sys.modules))"
    assert run([sys.executable, "-c", script], check=False).returncode == 0
