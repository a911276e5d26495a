"""What a composed answer says of the parts that it does without."""

from __future__ import annotations

from typing import Any

from fissile import Parts
from fissile_gateway._problems import problem_of


def missing_notes(parts: Parts) -> list[dict[str, Any]]:  # Any: JSON
    """Return why parts of an answer are missing, as JSON to go with it: the part's name, and the problem that it would have been alone.

    Args:
        parts: What `fissile.gather` gave; its block has ended.
    """
    notes: list[dict[str, Any]] = []
    for missing in parts.missing:
        problem = problem_of(missing.error)
        notes.append(
            {
                "part": missing.name,
                "type": f"/problems/{problem.name}",
                "status": problem.status,
                "detail": problem.detail,
                **problem.members,
            }
        )
    return notes
