"""Routes with streams: each wants something else of them."""

from __future__ import annotations

from quart import Blueprint, Response

from fissile import Topic
from fissile_gateway import current_bus, operation, stream
from tests.gateway.watched import FindJob, Finished, NoSuchJob, Stepped, Whispered, losses, steps, whispers

blueprint = Blueprint("pages", __name__)

elsewhere = Topic("elsewhere.whispers", Whispered, key=lambda event: event.text)
"""A topic of no module."""


def is_finished(event: Stepped | Finished) -> bool:
    return isinstance(event, Finished)


@blueprint.get("/jobs/<job>/all")
@operation(media_type="text/event-stream", raises=(NoSuchJob,))
async def everything(job: str) -> Response:
    """Watch a job from its first step to its last."""
    await current_bus().ask(FindJob(job))
    return await stream(steps, key=job, start="earliest", until=is_finished)


@blueprint.get("/jobs/<job>/from-now")
async def from_now(job: str) -> Response:
    return await stream(steps, key=job, until=is_finished)


@blueprint.get("/jobs/<job>/so-far")
async def so_far(job: str) -> Response:
    return await stream(steps, key=job, start="earliest", follow=False)


@blueprint.get("/jobs")
async def of_all() -> Response:
    return await stream(steps, start="earliest")


@blueprint.get("/whispers")
async def hear() -> Response:
    return await stream(whispers)


@blueprint.get("/broken")
async def broken() -> Response:
    return await stream(steps, start="earliest", until=lambda event: bool(1 // len(event.job[1:])))


@blueprint.get("/nowhere")
async def nowhere() -> Response:
    return await stream(elsewhere)


@blueprint.get("/contradictory")
async def contradictory() -> Response:
    return await stream(steps, follow=False)


@blueprint.get("/losses")
async def of_losses() -> Response:
    return await stream(losses)
