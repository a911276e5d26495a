"""Watching a submission over HTTP: its author sees each case as it is judged, from the first one on, and nobody else sees anything."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from modules.submissions.service import SubmissionsSettings
from tests.gateway.auth.issuer import rsa, token, trusting
from tests.gateway.serving import Frame, Shop, Stream, serving, streaming

from .court import CASES, QUICK, Court, Executor, count, modules_with, program, settings_of


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncGenerator[tuple[Shop, Court]]:
    """The application behind its gateway."""
    executor = Executor()
    async with serving(
        *modules_with(executor),
        settings=settings_of(tmp_path, database_migrate=True),
        overrides={SubmissionsSettings: SubmissionsSettings(**cast("dict[str, Any]", QUICK))},
        routes="gateway.app",
        **trusting(tmp_path, rsa()),
    ) as running:
        await running.app.bus.execute(count())
        yield running, Court(running.app.bus, executor)


def as_(name: str, scope: str = "submissions:write") -> dict[str, Any]:
    return {"authorization": f"Bearer {token(time.time(), sub=name, scope=scope)}"}


async def read(stream: Stream, count: int) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < count:
        frame = await stream.frame()
        assert frame is not None, found
        if frame.event is not None:
            found.append(frame)
    return found


async def test_the_author_sees_each_case_and_the_verdict_whenever_they_come(watched: tuple[Shop, Court]) -> None:
    running, court = watched
    held = program(ms=2.0)
    court.executor.holds.add(held)
    submission_id = await court.submit("ann", held)
    path = f"/submissions/{submission_id}/events"
    async with streaming(running, path, **as_("ann")) as stream:
        assert stream.status == 200
        assert stream.headers["cache-control"].startswith(("no-store", "private"))
        court.executor.holds.clear()
        frames = await read(stream, CASES + 2)
        assert await stream.frame() is None
    assert [frame.event for frame in frames] == ["case-judged"] * CASES + ["judging-ended", "end"]
    assert sorted(frame.data["result"]["number"] for frame in frames[:CASES]) == [*range(CASES)]
    assert frames[CASES].data["verdict"] == "accepted"
    async with streaming(running, path, **as_("ann")) as late:
        assert [(frame.event, frame.data) for frame in await read(late, CASES + 2)] == [
            (frame.event, frame.data) for frame in frames
        ]
        assert await late.frame() is None
    assert frames[-1].id is not None
    async with streaming(running, path, Last_Event_ID=frames[-1].id, **as_("ann")) as over:
        assert over.status == 204


async def test_nobody_else_sees_anything(watched: tuple[Shop, Court]) -> None:
    running, court = watched
    submission_id = await court.submit("ann", program())
    path = f"/submissions/{submission_id}/events"
    for headers, status, name in (
        (as_("bob"), 404, "unknown-submission"),
        ({}, 401, "unauthenticated"),
        (as_("ann", "challenges:read"), 403, "forbidden"),
    ):
        answer = await running.client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{name}")
    assert (await running.client.get("/submissions/none/events", headers=as_("ann"))).status_code == 404
    assert (await running.client.get("/api/submissions/topics/progress", headers=as_("ann"))).status_code == 404
    told = (await running.client.get("/openapi.json")).json()["paths"]["/submissions/{submission_id}/events"]["get"]
    assert "text/event-stream" in told["responses"]["200"]["content"]
    assert {"401", "403", "404"} <= set(told["responses"])
