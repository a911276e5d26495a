"""How a run ends that did not end by itself: it was stopped, or could not be made."""

import logging

from attrs import define, field

from fissile import Clock

from .contract import ExecutorBusy, NoSandbox, RunFailure, RunReport, UnknownLanguage

_logger = logging.getLogger(__name__)


@define(eq=False)
class Written:
    """What a program has written so far, for the report of one that is stopped.

    Attributes:
        clock: Tells how long it ran.
    """

    clock: Clock
    _texts: dict[str, list[str]] = field(factory=lambda: {"stdout": [], "stderr": []}, init=False)
    _since_s: float | None = field(default=None, init=False)

    def begin(self) -> None:
        """Note that it has begun to run."""
        self._since_s = self.clock.monotonic()

    def add(self, stream: str, text: str) -> None:
        """Note what it writes. A sandbox passes on no more than a report may hold."""
        self._texts[stream].append(text)

    def report(self, run_id: str, language: str, sandbox: str) -> RunReport:
        """Return the report of a run that was stopped."""
        ran_s = 0.0 if self._since_s is None else self.clock.monotonic() - self._since_s
        return RunReport(
            run_id=run_id,
            outcome="cancelled",
            exit_code=None,
            stdout="".join(self._texts["stdout"]),
            stderr="".join(self._texts["stderr"]),
            duration_ms=round(ran_s * 1000, 1),
            signal=None,
            truncated=False,
            language=language,
            sandbox=sandbox,
        )


def failure_of(error: Exception) -> RunFailure:
    """Say in words for people why a run could not be made."""
    match error:
        case ExecutorBusy():
            return RunFailure("busy", "Too many programs wait for their turn. Try again in a while.")
        case NoSandbox(reason):
            return RunFailure("no_sandbox", reason)
        case UnknownLanguage(language):
            return RunFailure("unknown_language", f"The language {language} cannot be run here.")
        case _:
            _logger.error("a run has failed", exc_info=error)
            return RunFailure("error", "Something went wrong on our side. Try again.")
