"""What a program's run says about a case: the verdict, and what its author is told of it."""

import unicodedata

import msgspec

from modules.challenges.contract import Case
from modules.code_executor.contract import RunReport

from .contract import CannotBeJudged

ACCEPTED = "accepted"
LATER, CHANGED, OVER = "later", "changed", "over"
"""What there is instead of a verdict: the case cannot be run now; the challenge is another one by now; nobody waits for it any more."""

_BLANK = " \t\r\f\v"
_VERDICTS = {
    "killed": "runtime_error",
    "timeout": "time_limit",
    "cpu_limit": "time_limit",
    "memory_limit": "memory_limit",
    "output_limit": "output_limit",
    "compile_error": "compile_error",
}


class Limits(msgspec.Struct, frozen=True):
    """What a program may use, as its author is told."""

    time_s: float
    memory_mib: int


def verdict_of(report: RunReport, case: Case) -> str:
    """Return what a run comes to.

    Raises:
        CannotBeJudged: The executor says something that nobody here has heard of.
    """
    if report.outcome == "finished":
        if report.exit_code != 0:
            return "runtime_error"
        if report.truncated:
            return "output_limit"
        return ACCEPTED if is_same(report.stdout, case.stdout) else "wrong_answer"
    try:
        return _VERDICTS[report.outcome]
    except KeyError:
        raise CannotBeJudged(f"the executor reports the outcome {report.outcome!r}") from None


def time_of(report: RunReport) -> float:
    """Return how long a program took, in milliseconds: its CPU time, since the clock tells how busy the machine was, too."""
    return report.duration_ms if report.cpu_ms is None or report.outcome != "finished" else report.cpu_ms


def is_same(written: str, wanted: str) -> bool:
    """Compare outputs; white space at the ends of lines, and whatever is blank at the end, makes no difference."""
    return _plain(written) == _plain(wanted)


def _plain(text: str) -> list[str]:
    lines = [line.rstrip(_BLANK) for line in text.split("\n")]  # not splitlines, which knows a dozen ends of lines
    while lines and not lines[-1]:
        lines.pop()
    return lines


def detail_of(verdict: str, report: RunReport, case: Case, limits: Limits, most: int) -> str:
    """Return what a case that everybody sees has come to, in words, or what the compiler has said.

    Args:
        verdict: The verdict.
        report: What became of the program.
        case: The case.
        limits: What the program might use.
        most: How many characters of each text are shown.
    """
    match verdict:
        case "accepted":
            return ""
        case "compile_error":
            return shown(report.stderr or report.stdout, most)
        case "wrong_answer":
            return f"Expected:\n{shown(case.stdout, most)}\nGot:\n{shown(report.stdout, most)}"
        case "time_limit":
            if report.outcome == "timeout":
                return f"It was still running after {report.duration_ms / 1000:.1f} s by the clock. It may use {limits.time_s:g} s of CPU time."
            return f"It used more than {limits.time_s:g} s of CPU time."
        case "memory_limit":
            return f"It used more than {limits.memory_mib} MiB."
        case "output_limit":
            return f"It wrote too much:\n{shown(report.stdout, most)}"
        case _:
            how = f"the exit code {report.exit_code}" if report.exit_code is not None else f"the signal {report.signal}"
            if report.exit_code is None and report.signal is None:
                how = "a signal"
            return f"It ended with {how}.\n{shown(report.stderr, most, keeps_end=True)}".rstrip()


def shown(text: str, most: int, *, keeps_end: bool = False) -> str:
    """Return a stranger's text so that it does nothing to who looks at it: cut, and with whatever controls a display spelled out.

    Args:
        text: The text.
        most: How many characters of it are kept.
        keeps_end: Whether its end is worth more than its beginning, as that of a traceback is.
    """
    text = text.replace("\r\n", "\n")
    left_out = len(text) - most
    if left_out > 0:
        text = text[-most:] if keeps_end else text[:most]
    text = "".join(map(_visible, text)).rstrip()
    if left_out > 0:
        note = f"… {left_out} more characters"
        text = f"{note}\n{text}" if keeps_end else f"{text}\n{note}"
    return text


def _visible(character: str) -> str:
    if character in "\n\t" or not _is_control(character):
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters: ␀, ␛, …
    return "\u2421" if code == 0x7F else f"\\u{{{code:x}}}"


def _is_control(character: str) -> bool:
    """Tell whether a character is a command to a display (directions and invisible ones too), or nobody knows what it is."""
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
