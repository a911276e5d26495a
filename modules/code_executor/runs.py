"""The runs that are kept: the newest ones, in memory, so many and no more."""

import hashlib
from collections import OrderedDict
from random import SystemRandom

from attrs import define, evolve, field

from fissile import Clock

from .contract import Run, RunPage, RunReport, RunSummary, UnknownRun


@define
class RunStore:
    """The newest runs.

    Attributes:
        under_way: Those that this process performs for who does not wait.

    Args:
        clock: Tells when a run was asked for.
        kept: How many runs are kept.
    """

    clock: Clock
    kept: int
    under_way: set[str] = field(factory=set[str], init=False)
    _runs: OrderedDict[str, Run] = field(factory=OrderedDict[str, Run], init=False)
    _secret: bytes = field(factory=lambda: SystemRandom().randbytes(16), init=False)

    def run_id(self, message_id: str) -> str:
        """Return the id of the run that a message asks for: the same for a repeat, and not to be guessed from another one."""
        return hashlib.blake2b(message_id.encode(), key=self._secret, digest_size=12).hexdigest()

    def add(self, run_id: str, language: str) -> None:
        """Note that a run was asked for, once."""
        if run_id not in self._runs:
            summary = RunSummary(run_id, language, "queued", None, self.clock.now().timestamp())
            self._runs[run_id] = Run(summary, None)
            while len(self._runs) > self.kept:
                self._runs.popitem(last=False)

    def running(self, run_id: str) -> None:
        """Note that a run has begun."""
        self._change(run_id, "running", None)

    def finished(self, report: RunReport) -> None:
        """Note that a run is over."""
        self._change(report.run_id, "done", report)

    def failed(self, run_id: str) -> None:
        """Note that a run could not be made."""
        self._change(run_id, "failed", None)

    def get(self, run_id: str) -> Run:
        """Return a run.

        Raises:
            UnknownRun: There is none, or no longer.
        """
        try:
            return self._runs[run_id]
        except KeyError:
            raise UnknownRun(run_id) from None

    def page(self, limit: int, before: str | None) -> RunPage:
        """Return up to `limit` runs older than `before`, the newest first.

        Raises:
            UnknownRun: There is no run `before`, or no longer.
        """
        if before is not None:
            self.get(before)
        newest_first = list(reversed(self._runs))
        start = 0 if before is None else newest_first.index(before) + 1
        end = start + limit
        page = newest_first[start:end]
        return RunPage(
            tuple(self._runs[run_id].summary for run_id in page),
            page[-1] if page and end < len(newest_first) else None,
        )

    def _change(self, run_id: str, state: str, report: RunReport | None) -> None:
        run = self._runs.get(run_id)
        if run is not None:
            outcome = None if report is None else report.outcome
            self._runs[run_id] = Run(evolve(run.summary, state=state, outcome=outcome), report)
