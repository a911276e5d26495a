"""Watching a submission being judged: its events, for its author only."""

from __future__ import annotations

from quart import Blueprint, Response

from fissile_gateway import current_bus, operation, requires, stream
from modules.submissions.contract import GetSubmission, JudgingEnded, UnknownSubmission, progress

blueprint = Blueprint("submissions", __name__)


@blueprint.get("/submissions/<submission_id>/events")
@operation(media_type="text/event-stream", raises=(UnknownSubmission,))
@requires(*GetSubmission.required_scopes)
async def watch(submission_id: str) -> Response:
    """Tell of each case as it is judged, from the first one on, and of the verdict, with which the stream ends.

    Its last event is `end`. Of a submission that was judged more than a day ago nothing else may be left; `get-submission` has all of it.
    """
    found = await current_bus().ask(GetSubmission(submission_id))  # 404 for anybody but the author
    return await stream(
        progress,
        key=submission_id,
        start="earliest",
        until=lambda event: isinstance(event, JudgingEnded),
        follow=found.summary.state in ("queued", "judging"),
    )
