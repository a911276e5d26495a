"""A route of the application that asks several modules at a time, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.gateway.serving import serving

PAGE = """
from quart import Blueprint, jsonify
from fissile import gather
from fissile_gateway import current_bus, missing_notes
from tests.gateway.shop import Behave, Find, GetOrder

blueprint = Blueprint("composed", __name__)


@blueprint.get("/overview/<order_id>")
async def overview(order_id):
    async with gather(current_bus(), timeout_s=5) as parts:
        order = parts.ask(GetOrder(order_id))
        found = parts.try_ask(Find(limit=3))
        advice = parts.try_execute(Behave("fail" if order_id == "7" else "fine"), name="advice")
    return jsonify(
        total=order.value.total, found=found.value, advice=advice.value, missing=missing_notes(parts)
    )


@blueprint.get("/strict")
async def strict():
    async with gather(current_bus(), timeout_s=0.05) as parts:
        parts.execute(Behave("hang"))
    return "never"
"""


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"pages_{uuid4().hex}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "page.py").write_text(PAGE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


async def test_a_page_is_made_of_what_several_modules_say(routes: str) -> None:
    async with serving(routes=routes) as running:
        answer = await running.client.get("/overview/1")
    assert answer.status_code == 200
    assert answer.json() == {"total": 1, "found": ["3"], "advice": "fine", "missing": []}


async def test_an_optional_part_that_fails_is_null_and_noted_without_its_inside(routes: str) -> None:
    async with serving(routes=routes) as running:
        answer = await running.client.get("/overview/7")
    document = answer.json()
    assert (answer.status_code, document["total"], document["advice"]) == (200, 1, None)
    (note,) = document["missing"]
    assert (note["part"], note["type"], note["status"]) == ("advice", "/problems/handler-failed", 500)
    assert note["message_id"]
    assert "secret" not in answer.text


async def test_a_required_part_that_fails_is_the_problem_of_the_whole(routes: str) -> None:
    async with serving(routes=routes) as running:
        answer = await running.client.get("/strict")
        with_cancelled: Callable[[], bool] = running.watch.cancelled.is_set
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
        assert with_cancelled()
