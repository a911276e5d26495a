"""`fissile lag`: how far each module is behind the ends of its topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from attrs import asdict, frozen
from cyclopts import Parameter

from fissile.cli._context import Context, Whole
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._table import show_table
from fissile.cli._topology import Group, Topology
from fissile.cli._view import View, look


@frozen
class Lag:
    """How far a group is behind the end of one partition.

    Attributes:
        group: The group.
        topic: The topic, by its name on the broker.
        partition: The partition.
        committed: The next offset that the group will read after a restart; None if it has committed none.
        end: The offset that the next record gets.
        lag: How many offsets are between them; where nothing is committed, how many are kept.
    """

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


def lag(
    *,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False)] = False,
    context: Context,
) -> Exit:
    """Show how far each module is behind the ends of its topics: what is stored and not yet handled.

    Offsets are committed a moment after handling (FISSILE_COMMIT_INTERVAL_S), so a small lag that does not last means nothing. Shown are the
    partitions that anything was ever stored in. Exits with 5 where no topic is there yet.

    Args:
        every: Empty partitions too.
        context: What all commands are given.
    """
    application = context.application()
    topology = Topology.read(Whole.read(application).require())

    async def ask(view: View) -> list[Lag] | None:
        return await _read(view, topology.groups)

    found = look(application, ask, "offsets")
    if found is None:
        raise CommandFailed(
            "None of the application's topics is on the broker: nothing has run there yet.",
            "`fissile plan` shows what is missing; `fissile topics apply`, or starting the processes, makes it.",
            code=Exit.NOTHING_THERE,
        )
    if context.as_json:
        context.output.json([asdict(each) for each in found])
        return Exit.OK
    rows = [asdict(each) for each in found if every or each.end or each.lag]
    if rows:
        show_table(context.output, rows, ("group", "topic", "partition", "committed", "end", "lag"))
    total = sum(each.lag for each in found)
    context.output.say(
        f"{total} to be handled" if rows else "Nothing was stored yet; --all shows the empty partitions."
    )
    return Exit.OK


async def _read(view: View, groups: Sequence[Group]) -> list[Lag] | None:
    """Return the lag of each partition of each group; None if no topic is there."""
    counts = await view.topics({topic for group in groups for topic in group.topics})
    if not counts:
        return None
    begins, ends = await view.bounds((topic, number) for topic, count in counts.items() for number in range(count))
    found: list[Lag] = []
    for group in groups:
        partitions = [(topic, number) for topic in group.topics for number in range(counts.get(topic, 0))]
        committed = await view.committed(group.group, partitions)
        for partition in partitions:
            topic, number = partition
            offset, end = committed.get(partition), ends[partition]
            behind = end - (begins[partition] if offset is None else offset)
            found.append(Lag(group.group, topic, number, offset, end, max(0, behind)))
    return found
