"""Whether a program could solve a challenge at all: what the executor says that programs may use, and what the challenge wants."""

from collections.abc import Collection

import anyio
import msgspec

from fissile import Bus, CallError
from modules.code_executor.contract import GetLimits, ListLanguages, NoSandbox, RunLimits

from .contract import CannotBeChecked, CannotBeSolved
from .store import Draft

FIELDS = frozenset({"cases", "examples", "languages", "time_s", "memory_mib"})
"""What has to do with it."""

_ASK_S = 10.0


class Means(msgspec.Struct, frozen=True):
    """What programs have.

    Attributes:
        limits: What they may use.
        languages: What they may be written in; None where nobody wants to know.
    """

    limits: RunLimits
    languages: tuple[str, ...] | None


async def ask(slug: str, languages: Collection[str], bus: Bus) -> Means:
    """Ask the executor.

    Args:
        slug: Which challenge it is about.
        languages: Those that the challenge takes.
        bus: Asks.

    Raises:
        CannotBeChecked: It does not answer.
    """
    itself = bus.acting_as(None)
    try:
        with anyio.fail_after(_ASK_S):
            limits = await itself.ask(GetLimits())
            found = await itself.ask(ListLanguages()) if languages else None
    except (CallError, NoSandbox, TimeoutError):
        raise CannotBeChecked(slug) from None
    return Means(limits, None if found is None else tuple(each.id for each in found))


def check(draft: Draft, means: Means) -> None:
    """Check that a program could solve a challenge.

    Raises:
        CannotBeSolved: None could.
    """
    limits = means.limits
    for name, wanted, most, unit in (
        ("time_s", draft.time_s, limits.time_s, "s of CPU time"),
        ("memory_mib", draft.memory_mib, limits.memory_mib, "MiB"),
    ):
        if wanted > most:
            raise CannotBeSolved(name, f"It is {wanted:g}; a program may use {most:g} {unit} here.")
    for language in draft.languages:
        if means.languages is not None and language not in means.languages:
            names = ", ".join(means.languages)
            raise CannotBeSolved("languages", f"{language!r} cannot be run here. What can: {names}.")
    for group, cases in (("examples", draft.examples), ("cases", draft.cases)):
        for number, case in enumerate(cases):
            for name, text, most, does in (
                ("stdin", case.stdin, limits.input_bytes, "read"),
                ("stdout", case.stdout, limits.output_bytes, "write"),
            ):
                size = len(text.encode())
                if size > most:
                    reason = f"It has {size} bytes; a program can {does} {most} here."
                    raise CannotBeSolved(f"{group}[{number}].{name}", reason)
