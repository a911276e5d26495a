"""The history of a saga, and how its function is held against it.

The function of a saga is run again from its start whenever the saga goes on. Its n-th step is looked up in the history: what is there is
returned and not done again, as in Temporal (https://docs.temporal.io/workflows#replays) and DBOS
(https://docs.dbos.dev/architecture#how-workflow-recovery-works). Where the function does another step than the history has, the program was
changed under a saga that is under way, and nobody can tell which is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from fissile._errors import CallRefused
from fissile.database._digest import is_same
from fissile.database._saga_rows import StepRow


class Mismatch(Exception):
    """Raised when the program does something else than the history says; the text names both."""


@define
class History:
    """What a saga has done, and how far the function has come in it.

    Attributes:
        steps: The steps, in order.
        limit: How many steps there may be; each of several that are done at a time counts.
        time_ms: When the last step that the function has passed ended.
        position: Of the next step.
    """

    steps: list[StepRow]
    limit: int
    time_ms: int
    position: int = field(default=0, init=False)
    _by_position: dict[int, list[StepRow]] = field(factory=dict[int, list[StepRow]], init=False)

    def __attrs_post_init__(self) -> None:
        for step in self.steps:
            self._by_position.setdefault(step.position, []).append(step)

    @property
    def has_more(self) -> bool:
        """Whether there are steps that the function has not come to."""
        return self.position < len(self._by_position)

    def next(self, kind: str, wanted: Sequence[tuple[str, bytes]], now_ms: int) -> list[StepRow]:
        """Go on to the next step; return what is known of it, or new rows that are not stored yet.

        Args:
            kind: What is done.
            wanted: Its label and its digest; several where several things are done at a time.
            now_ms: The time.

        Raises:
            Mismatch: The history has another step here.
            CallRefused: There are too many.
        """
        found = self._by_position.get(self.position)
        if found is None:
            if len(self.steps) + len(wanted) > self.limit:
                raise CallRefused(
                    f"The saga has {len(self.steps)} steps and may have {self.limit} (setting FISSILE_SAGA_STEPS). "
                    "Let it end, and start another one that goes on."
                )
            found = [
                StepRow(self.position, branch, kind, label, digest, began_ms=now_ms)
                for branch, (label, digest) in enumerate(wanted)
            ]
            self.steps += found
            self._by_position[self.position] = found
        else:
            self._compare(kind, wanted, found)
        self.position += 1
        return found

    def _compare(self, kind: str, wanted: Sequence[tuple[str, bytes]], found: Sequence[StepRow]) -> None:
        number = self.position + 1
        before = f"{found[0].kind} {described([step.label for step in found])}"
        now = f"{kind} {described([label for label, _ in wanted])}"
        if found[0].kind != kind or [step.label for step in found] != [label for label, _ in wanted]:
            raise Mismatch(f"step {number} was `{before}`, and the program now does `{now}` there")
        for step, (_, digest) in zip(found, wanted, strict=True):
            if not is_same(step.digest, digest):
                raise Mismatch(
                    f"step {number} was `{before}` and the program now does the same with other content "
                    f"(digest {step.digest.hex()[:12]} in the history, {digest.hex()[:12]} now)"
                )

    def passed(self, steps: Sequence[StepRow]) -> None:
        """Note that steps have an outcome, which the function now gets."""
        self.time_ms = max((self.time_ms, *(step.ended_ms or 0 for step in steps)))


def described(labels: Sequence[str]) -> str:
    """Return how people call a step that does several things."""
    names = list(dict.fromkeys(labels))
    return f"{len(labels)} of {', '.join(names)}" if len(labels) > 1 else "".join(names)
