"""The headers of messages, as schemas: those of CloudEvents, and those of requests and outcomes."""

from __future__ import annotations

from typing import Any

from fissile._requests import BUDGET_MS, CHAIN, CORRELATION, OUTCOME, REPLY_TO
from fissile._signatures import HEADER
from fissile._trace import TRACEPARENT, TRACESTATE

EVENT_HEADERS = "event"
REQUEST_HEADERS = "request"
OUTCOME_HEADERS = "outcome"


def _text(description: str, **more: Any) -> dict[str, Any]:  # Any: JSON Schema
    return {"type": "string", "description": description, **more}


_CONTENT_TYPE = {"content-type": _text("The format of the body.", enum=["application/json", "application/msgpack"])}
_TRACE = {
    TRACEPARENT: _text("The span that it is part of, where its chain was given a trace (W3C)."),
    TRACESTATE: _text("What tracing systems add to that (W3C)."),
}
_CLOUD_EVENT = {
    "ce_specversion": _text("The version of CloudEvents.", const="1.0"),
    "ce_id": _text("The message's id; a repeat has the same."),
    "ce_type": _text("The message's name: contract, dot, class in kebab-case."),
    "ce_source": _text("The application, and the module if one sent it."),
    "ce_time": _text("When it was sent, in UTC.", format="date-time"),
    **_CONTENT_TYPE,
    "fissile-caller": _text("The module that sent it, if one did."),
    "fissile-cause": _text("The id of the message in whose handling it was sent."),
    "fissile-depth": _text("How deep in a chain that was.", pattern="^[0-9]+$"),
    HEADER: _text("For whom it was sent, signed."),
    **_TRACE,
}
_NEEDED = ["ce_specversion", "ce_id", "ce_type", "ce_source"]
_REQUEST = {
    CORRELATION: _text("What the reply has to carry."),
    REPLY_TO: _text("Topic and partition of the reply, such as `replies/7`.", pattern="^replies/[0-9]{1,6}$"),
    BUDGET_MS: _text("How long the caller waits, counted from when the record was stored.", pattern="^[0-9]{1,12}$"),
    CHAIN: _text("The handlers up the chain, as JSON."),
}
_OUTCOME = {
    CORRELATION: _text("That of the request."),
    OUTCOME: _text("What became of it.", pattern="^(replied|failed|invalid|forbidden|unauthenticated|declared:.+)$"),
    **_CONTENT_TYPE,
    **_TRACE,
}

HEADERS: dict[str, Any] = {  # Any: JSON
    EVENT_HEADERS: {"headers": {"type": "object", "properties": _CLOUD_EVENT, "required": _NEEDED}},
    REQUEST_HEADERS: {
        "headers": {
            "type": "object",
            "description": "Without `fissile-correlation` nobody waits for an answer.",
            "properties": _CLOUD_EVENT | _REQUEST,
            "required": _NEEDED,
            "dependencies": {CORRELATION: [REPLY_TO, BUDGET_MS]},
        }
    },
    OUTCOME_HEADERS: {"headers": {"type": "object", "properties": _OUTCOME, "required": [CORRELATION, OUTCOME]}},
}
"""The traits that messages refer to, by name."""
