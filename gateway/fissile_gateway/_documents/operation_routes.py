"""What `/api/operations/<id>` says of itself in the OpenAPI document: what has become of a command whose client does not wait."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]  # Any: JSON

OPERATION_REF = "#/components/schemas/Operation"

OPERATION: Json = {
    "title": "Operation",
    "description": "A command whose client does not wait (`Prefer: respond-async`), and what has become of it.",
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "command": {"type": "string", "description": "The name of the message."},
        "state": {"type": "string", "enum": ["running", "succeeded", "failed", "cancelled"]},
        "status": {"type": "integer", "description": "The status that its client would have got for waiting."},
        "reply": {"description": "The reply, where it has succeeded."},
        "problem": {"$ref": "#/components/schemas/Problem"},
    },
    "required": ["id", "command", "state"],
}
"""The document of an operation."""

_ANSWER: Json = {
    "description": "What has become of it.",
    "headers": {"Retry-After": {"$ref": "#/components/headers/Retry-After"}},
    "content": {"application/json": {"schema": {"$ref": OPERATION_REF}}},
}
_PROBLEM: Json = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_UNKNOWN: Json = {
    "description": "`unknown-operation`: it has ended some time ago, is another's, or is not of this gateway.",
    "content": _PROBLEM,
}
_OTHERS: Json = {str(status): {"$ref": f"#/components/responses/Problem-{status}"} for status in (401, 429, 500, 503)}

SHOW: Json = {"tags": ["operations"], "responses": {"200": _ANSWER, "404": _UNKNOWN, **_OTHERS}}
"""Members of the operation object of GET."""

CANCEL: Json = {
    "tags": ["operations"],
    "responses": {
        "200": _ANSWER,
        "404": _UNKNOWN,
        "409": {"description": "`operation-ended`: there is nothing to cancel.", "content": _PROBLEM},
        **_OTHERS,
    },
}
"""Members of the operation object of DELETE."""
