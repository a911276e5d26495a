"""`fissile export openapi` and `asyncapi`: what the gateway serves, as files that can be checked for drift."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.example import fissile, write_application

DOCUMENTS = ["openapi", "asyncapi"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the example application, without its stand-in for the gateway."""
    folder = write_application(tmp_path / "shop")
    shutil.rmtree(folder / "fissile_gateway")
    return folder


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_is_written_to_stdout_or_a_file(shop: Path, what: str) -> None:
    shown = fissile("export", what, cwd=shop)
    assert shown.returncode == 0
    document = json.loads(shown.stdout)
    assert document["info"] == {**document["info"], "title": "shop", "version": "1"}
    assert fissile("export", what, "-o", "here.json", cwd=shop).returncode == 0
    assert (shop / "here.json").read_text() == shown.stdout


def test_the_openapi_document_has_the_routes_of_all_modules(shop: Path) -> None:
    document = json.loads(fissile("export", "openapi", cwd=shop).stdout)
    assert {"/api/orders/place-order", "/api/orders/topics/placed", "/livez"} <= document["paths"].keys()


def test_the_asyncapi_document_has_requests_and_topics(shop: Path) -> None:
    document = json.loads(fissile("export", "asyncapi", cwd=shop).stdout)
    assert {"orders.requests", "orders.placed", "replies"} <= document["channels"].keys()


def test_the_asyncapi_document_tells_how_often_what_nobody_waits_for_is_tried(shop: Path) -> None:
    operations = json.loads(fissile("export", "asyncapi", cwd=shop).stdout)["operations"]
    assert operations["orders.place-order"]["x-fissile-retry"] == "5 times from 0.2 s, at most 30 s, then dead letter"
    policy = "9 times from 0.5 s, at most 30 s, then dead letter"
    subscribers = operations["orders.placed"]["x-fissile-subscribers"]
    assert [(each["module"], each["retry"]) for each in subscribers] == [("billing", policy)]


@pytest.mark.parametrize("what", DOCUMENTS)
def test_the_version_is_that_of_the_settings(shop: Path, what: str) -> None:
    document = json.loads(fissile("export", what, cwd=shop, FISSILE_API_VERSION="2.1").stdout)
    assert document["info"]["version"] == "2.1"


@pytest.mark.parametrize("what", DOCUMENTS)
def test_check_passes_on_a_file_that_is_up_to_date(shop: Path, what: str) -> None:
    fissile("export", what, "-o", f"{what}.json", cwd=shop)
    done = fissile("export", what, "--check", cwd=shop)
    assert (done.returncode, done.stdout.endswith(f"{what}.json: up to date\n")) == (0, True)


@pytest.mark.parametrize("what", DOCUMENTS)
def test_check_shows_what_a_changed_contract_changes(shop: Path, what: str) -> None:
    fissile("export", what, "-o", f"{what}.json", cwd=shop)
    contract = shop / "modules" / "orders" / "contract.py"
    contract.write_text(contract.read_text().replace("quantity: int = 1", "quantity: int = 20"))
    done = fissile("export", what, "--check", cwd=shop)
    assert done.returncode == 10
    changed = [line for line in done.stdout.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    assert [line.split() for line in changed] == [["-", '"default":', "1"], ["+", '"default":', "20"]]
    assert f"{what}.json is stale." in done.stderr
    assert f"Write it anew: fissile export {what} -o {what}.json" in done.stderr


@pytest.mark.parametrize("what", DOCUMENTS)
def test_check_says_that_a_file_is_missing(shop: Path, what: str) -> None:
    done = fissile("export", what, "--check", cwd=shop)
    assert done.returncode == 10
    assert f"{what}.json does not exist." in done.stderr


def test_routes_that_cannot_be_imported_are_told(shop: Path) -> None:
    (shop / "gateway" / "app").mkdir(parents=True)
    (shop / "gateway" / "app" / "broken.py").write_text("1 / 0\n")
    done = fissile("export", "openapi", cwd=shop)
    assert done.returncode == 3
    assert "The routes in gateway.app.broken cannot be imported: ZeroDivisionError" in done.stderr
