"""The runs that are kept: the newest ones, in memory, so many and no more, and so many bytes."""

import hashlib
import secrets
from collections import OrderedDict

import anyio
import msgspec
from attrs import define, evolve, field

from fissile import Clock

from .contract import Run, RunFailure, RunPage, RunReport, RunSummary, UnknownRun

_STEPS = {"queued": 0, "running": 1, "done": 2, "failed": 2}
_EMPTY_BYTES = 1024
"""What a run takes that has no report, about."""


class _Kept(msgspec.Struct, frozen=True):
    """A run. Its report stands as bytes: as text, one character of an alphabet far away makes all of it four times as large."""

    summary: RunSummary
    report: bytes = b""
    failure: RunFailure | None = None
    is_cancelled: bool = False

    @property
    def size(self) -> int:
        return _EMPTY_BYTES + len(self.report)


@define
class RunStore:
    """The newest runs. What is told of one may come twice and in any order, since it comes from other processes as well.

    Attributes:
        under_way: Those that this process performs for who does not wait; what is cancelled to end one.

    Args:
        clock: Tells when a run was asked for.
        kept: How many runs are kept.
        kept_bytes: How many bytes they may have together; the oldest ones make room.
    """

    clock: Clock
    kept: int
    kept_bytes: int
    under_way: dict[str, anyio.CancelScope] = field(factory=dict[str, anyio.CancelScope], init=False)
    _runs: OrderedDict[str, _Kept] = field(factory=OrderedDict[str, _Kept], init=False)
    _size: int = field(default=0, init=False)
    _asked: OrderedDict[str, str] = field(factory=OrderedDict[str, str], init=False)

    @property
    def size(self) -> int:
        """How many bytes all of them have, about."""
        return self._size

    def run_of(self, message_id: str) -> tuple[str, str]:
        """Return the run that a message asks for, the same for a repeat, and what tells others so. No id can be guessed from another one."""
        asked = hashlib.blake2b(message_id.encode(), digest_size=16).hexdigest()
        run_id = self._asked.get(asked) or secrets.token_hex(12)
        self.asked(asked, run_id)
        return run_id, asked

    def asked(self, asked: str, run_id: str) -> None:
        """Note which run it was that a message has asked for."""
        self._asked.setdefault(asked, run_id)
        while len(self._asked) > self.kept:
            self._asked.popitem(last=False)

    def knows(self, run_id: str) -> bool:
        """Whether a run is kept."""
        return run_id in self._runs

    def add(self, run_id: str, language: str) -> None:
        """Note that a run was asked for, once."""
        if run_id not in self._runs:
            self._put(run_id, _Kept(RunSummary(run_id, language, "queued", None, self.clock.now().timestamp())))

    def running(self, run_id: str) -> None:
        """Note that a run has begun."""
        self._change(run_id, "running")

    def finished(self, report: RunReport) -> None:
        """Note that a run is over."""
        self.add(report.run_id, report.language)
        self._change(report.run_id, "done", outcome=report.outcome, report=msgspec.msgpack.encode(report))

    def failed(self, run_id: str, failure: RunFailure) -> None:
        """Note that a run could not be made."""
        self._change(run_id, "failed", failure=failure)

    def cancel(self, run_id: str) -> None:
        """End a run if it is performed here, or as soon as it is."""
        if (kept := self._runs.get(run_id)) is not None:
            self._put(run_id, msgspec.structs.replace(kept, is_cancelled=True))
        if (scope := self.under_way.get(run_id)) is not None:
            scope.cancel()

    def is_cancelled(self, run_id: str) -> bool:
        """Whether a run is to end."""
        return run_id in self._runs and self._runs[run_id].is_cancelled

    def is_over(self, run_id: str) -> bool:
        """Whether a run that is kept has ended, in one way or the other."""
        return run_id in self._runs and self._runs[run_id].summary.state in ("done", "failed")

    def get(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            UnknownRun: There is none, or no longer.
        """
        try:
            kept = self._runs[run_id]
        except KeyError:
            raise UnknownRun(run_id) from None
        report = msgspec.msgpack.decode(kept.report, type=RunReport) if kept.report else None
        return Run(kept.summary, report, kept.failure)

    def page(self, limit: int, before: str | None) -> RunPage:
        """Return up to `limit` runs older than `before`, the newest first.

        Raises:
            UnknownRun: There is no run `before`, or no longer.
        """
        if before is not None and before not in self._runs:
            raise UnknownRun(before)
        newest_first = list(reversed(self._runs))
        start = 0 if before is None else newest_first.index(before) + 1
        end = start + limit
        page = newest_first[start:end]
        return RunPage(
            tuple(self._runs[run_id].summary for run_id in page),
            page[-1] if page and end < len(newest_first) else None,
        )

    def _change(
        self,
        run_id: str,
        state: str,
        *,
        outcome: str | None = None,
        report: bytes = b"",
        failure: RunFailure | None = None,
    ) -> None:
        kept = self._runs.get(run_id)
        if kept is not None and _STEPS[state] > _STEPS[kept.summary.state]:
            summary = evolve(kept.summary, state=state, outcome=outcome)
            self._put(run_id, msgspec.structs.replace(kept, summary=summary, report=report, failure=failure))

    def _put(self, run_id: str, kept: _Kept) -> None:
        before = self._runs.get(run_id)
        self._size += kept.size - (before.size if before else 0)
        self._runs[run_id] = kept
        while len(self._runs) > self.kept or (self._size > self.kept_bytes and len(self._runs) > 1):
            self._size -= self._runs.popitem(last=False)[1].size
