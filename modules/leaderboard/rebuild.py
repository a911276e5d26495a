"""The leaderboard made anew from the topic: what is read is gathered aside, and takes effect at once when all of it is there.

Verdicts that come meanwhile are taken in as always. Each row says in which round it was written, that is, how many rebuilds had been begun by
then; so a rebuild knows which rows it has read anew, and which have come since. Whoever begins a rebuild and whoever takes a verdict in locks
the same row first. Hence a verdict that was taken in before a rebuild began is in the topic already when the rebuild opens it.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from attrs import define, field
from sqlalchemy import Connection, and_, delete, exists, func, insert, literal, or_, select, update

from modules.submissions.contract import SubmissionJudged

from .store import age, columns_of, fill, lock, work_all_out
from .tables import gathered, rebuilds, state, verdicts

BATCH = 5000
"""How many verdicts are stored at a time: each time is a turn among those that are being taken in."""

FORGOTTEN_S = 3600.0
"""After how long without a sign of life a rebuild is over, in seconds: its process was killed."""

_MARGIN_S = 60.0
"""By how much the clocks of those who judge may differ, and their verdicts overtake each other, in seconds."""

_Row = dict[str, Any]  # Any: of the columns


class RebuildForgottenError(Exception):
    """Raised when a rebuild has stood still for so long that another one has cleared away what it had gathered."""

    def __init__(self) -> None:
        super().__init__(
            "The rebuild has stood still for an hour and was given up; the leaderboard is as it was. Ask for another."
        )


def begin(connection: Connection, now: float) -> int:
    """Begin a rebuild; return its number. What was left of others whose process was killed is cleared away."""
    found = lock(connection)
    over = select(rebuilds.c.round).where(rebuilds.c.alive_at < now - FORGOTTEN_S)
    connection.execute(delete(gathered).where(gathered.c.round.in_(over)))
    connection.execute(delete(rebuilds).where(rebuilds.c.alive_at < now - FORGOTTEN_S))
    number: int = found.round + 1
    connection.execute(update(state).values(round=number))
    connection.execute(insert(rebuilds).values(round=number, alive_at=now))
    return number


def gather(connection: Connection, number: int, events: Sequence[SubmissionJudged], now: float) -> None:
    """Keep what was read.

    Raises:
        RebuildForgottenError: The rebuild is over.
    """
    alive = connection.execute(update(rebuilds).where(rebuilds.c.round == number).values(alive_at=now))
    if not alive.rowcount:
        raise RebuildForgottenError
    newest: dict[str, _Row] = {}
    for event in events:
        _put(newest, columns_of(event))
    these = and_(gathered.c.round == number, gathered.c.submission_id.in_(newest))
    for row in connection.execute(select(gathered).where(these)).mappings():
        _put(newest, dict(row))
    connection.execute(delete(gathered).where(these))
    connection.execute(insert(gathered), [{**row, "round": number} for row in newest.values()])


def _put(newest: dict[str, _Row], row: _Row) -> None:
    known = newest.get(row["submission_id"])
    if known is None or age(known) < age(row):
        newest[row["submission_id"]] = row


def has_verdicts(connection: Connection) -> bool:
    """Tell whether the leaderboard is made from any."""
    return connection.execute(select(verdicts.c.submission_id).limit(1)).first() is not None


def finish(connection: Connection, number: int, oldest: float) -> int:
    """Let what was gathered take the place of what is there; return how many verdicts that are.

    Args:
        connection: The connection.
        number: The rebuild.
        oldest: What was judged before this, in seconds since 1970, may be missing in what was read, and stays as it is.

    Raises:
        RebuildForgottenError: The rebuild is over.
    """
    found = lock(connection)
    if not connection.execute(delete(rebuilds).where(rebuilds.c.round == number)).rowcount:
        raise RebuildForgottenError
    of_this = gathered.c.round == number
    count = connection.execute(select(func.count()).select_from(gathered).where(of_this)).scalar_one()
    if found.rebuilt > number:
        return count  # one that began later has taken effect: it has read all of this, and more
    _leave_out_what_has_newer_verdicts(connection, number)
    has_come = exists().where(of_this, gathered.c.submission_id == verdicts.c.submission_id)
    was_there = verdicts.c.round < number
    connection.execute(delete(verdicts).where(or_(has_come, and_(was_there, verdicts.c.judged_at >= oldest))))
    names = [column.name for column in verdicts.c if column.name != "round"]
    columns = [gathered.c[name] for name in names]
    fill(connection, verdicts, select(*columns, literal(number).label("round")).where(of_this))
    work_all_out(connection)
    connection.execute(update(state).values(rebuilt=number))
    return count


def _leave_out_what_has_newer_verdicts(connection: Connection, number: int) -> None:
    """Forget what was gathered on submissions whose row is newer, and has come since the rebuild began. These are few."""
    since = and_(verdicts.c.round >= number, gathered.c.round == number)
    both = verdicts.join(gathered, verdicts.c.submission_id == gathered.c.submission_id)
    names = [column.name for column in verdicts.c]
    here = [verdicts.c[name] for name in names]
    read = [gathered.c[name].label(f"read_{name}") for name in names]
    newer = [
        row["submission_id"]
        for row in connection.execute(select(*here, *read).select_from(both).where(since)).mappings()
        if age(dict(row)) >= age({name: row[f"read_{name}"] for name in names})
    ]
    this = and_(gathered.c.round == number, gathered.c.submission_id.in_(newer))
    connection.execute(delete(gathered).where(this))


def clear(connection: Connection, number: int) -> None:
    """Clear away what a rebuild has gathered."""
    connection.execute(delete(gathered).where(gathered.c.round == number))
    connection.execute(delete(rebuilds).where(rebuilds.c.round == number))


@define
class Horizon:
    """From when on the topic has all verdicts.

    Attributes:
        begins: The offset at which each partition begins.
    """

    begins: Mapping[int, int]
    _oldest: float = inf
    _first_of: dict[int, float] = field(factory=dict[int, float])

    def see(self, partition: int, event: SubmissionJudged) -> None:
        """Note a verdict; those of a partition come in their order."""
        self._oldest = min(self._oldest, event.judged_at)
        self._first_of.setdefault(partition, event.judged_at)

    @property
    def oldest(self) -> float:
        """When the oldest verdict was judged behind which none is missing, in seconds since 1970; infinite if nothing is sure."""
        # A partition that does not begin at 0 has let go of some, which were older than the first one that it still has.
        let_go = [self._first_of.get(number, inf) + _MARGIN_S for number, begin in self.begins.items() if begin > 0]
        return max(self._oldest, *let_go) if let_go else self._oldest
