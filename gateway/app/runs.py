"""Watching a program run: its events, for who knows the id of the run."""

from __future__ import annotations

from quart import Blueprint, Response

from fissile_gateway import operation, stream
from modules.code_executor.contract import RunFailed, RunFinished, runs

blueprint = Blueprint("runs", __name__)


@blueprint.get("/runs/<run_id>/events")
@operation(media_type="text/event-stream")
async def watch(run_id: str) -> Response:
    """Tell what a program does from now on, or from `Last-Event-ID` on, and how it ends, with which the stream ends.

    The id of a run cannot be guessed, so whoever has it may watch. Whoever wants to miss nothing opens the stream of any run, `-` for instance,
    before they start one, and goes on after the first id that it gives. `get-run` has the report of what has ended.
    """
    return await stream(runs, key=run_id, until=lambda event: isinstance(event, RunFinished | RunFailed))
