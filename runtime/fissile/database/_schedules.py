"""Schedules: commands that a module sends to itself again and again, once across its replicas.

Each has a row that says when it is due next. The process that relays the outbox moves it on and writes the command into the outbox, in one
transaction, so that a tick is sent once whatever crashes. A tick that was missed while no process ran is made up for once, not once per tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf

from sqlalchemy import Connection

from fissile._bus import Bus, Routes
from fissile._storage import Schedule
from fissile.database._inbox import Statements
from fissile.database._store import Store

_logger = logging.getLogger("fissile.outbox")


def next_time(schedule: Schedule, after: datetime) -> datetime:
    """Return when a schedule is due next, in UTC.

    Where daylight saving begins, a time of day that is skipped comes when the gap ends; where it ends, one that there is twice comes once, the
    first time. What is due every hour, or every few minutes, goes on through both.

    Raises:
        ValueError: The expression or the time zone is none.
    """
    from zoneinfo import ZoneInfo  # neither is needed where a module has no schedules

    from cronsim import CronSim, CronSimError

    try:
        zone = ZoneInfo(schedule.time_zone)
    except (KeyError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError; a folder's name gives an OSError
        raise ValueError(f"there is no time zone {schedule.time_zone!r}") from error
    try:
        return next(CronSim(schedule.expression, after.astimezone(zone))).astimezone(UTC)
    except CronSimError as error:
        raise ValueError(str(error)) from error
    except StopIteration:
        raise ValueError("it is never due") from None


def definition(schedule: Schedule) -> str:
    """Return what a row keeps of a schedule's times, to tell when they are changed."""
    return schedule.expression if schedule.time_zone == "UTC" else f"{schedule.expression} {schedule.time_zone}"


class Schedules:
    """The schedules of one module.

    Args:
        store: The module's database.
        module: The module's name.
        schedules: What is due when.
        routes: Encodes the commands.
        since: When the process began: a schedule that is new is planned from then on, however late it is first looked at.
    """

    def __init__(
        self, store: Store, module: str, schedules: tuple[Schedule, ...], routes: Routes, since: datetime
    ) -> None:
        self._store = store
        self._module = module
        self._schedules = schedules
        self._routes = routes
        self._since = since
        self._statements = Statements(store.dialect)
        mark = "?" if store.dialect == "sqlite" else "%s"
        self._find = f"SELECT expression, next_ms FROM fissile_schedule WHERE name = {mark}"  # noqa: S608 -- constants, as below
        self._add = (
            f"INSERT INTO fissile_schedule (name, expression, next_ms) VALUES ({mark}, {mark}, {mark}) "  # noqa: S608
            "ON CONFLICT (name) DO NOTHING"
        )
        self._move = f"UPDATE fissile_schedule SET expression = {mark}, next_ms = {mark} WHERE name = {mark} AND next_ms = {mark}"  # noqa: S608
        self._next_s = -inf

    def is_due(self, now: float) -> bool:
        """Tell whether a tick sends something, or may."""
        return bool(self._schedules) and now >= self._next_s

    async def tick(self, now: float) -> float:
        """Send what is due; return how long nothing will be, in seconds.

        Args:
            now: The time, in seconds since 1970.
        """
        if not self._schedules:
            return inf
        if now >= self._next_s:
            self._next_s = min([await self._store.run(self._step(schedule, now)) for schedule in self._schedules])
        return max(0.001, self._next_s - now)

    def _step(self, schedule: Schedule, now: float) -> Callable[[Connection], float]:
        """Return what looks after one schedule, in a transaction, and returns when it is due next, in seconds since 1970."""

        def step(connection: Connection) -> float:
            times = definition(schedule)
            following = next_time(schedule, datetime.fromtimestamp(now, UTC)).timestamp()
            following_ms = int(following * 1000)
            row = connection.exec_driver_sql(self._find, (schedule.name,)).fetchone()
            if row is None:
                first = next_time(schedule, self._since).timestamp()
                connection.exec_driver_sql(self._add, (schedule.name, times, int(first * 1000)))
                return first
            planned_by, next_ms = row
            if planned_by != times:  # it was changed: what was planned by the old one does not hold
                connection.exec_driver_sql(self._move, (times, following_ms, schedule.name, next_ms))
                return following
            if next_ms > now * 1000:
                tomorrow = datetime.fromtimestamp(now, UTC) + timedelta(days=1)
                if next_time(schedule, tomorrow).timestamp() * 1000 >= next_ms:
                    return float(next_ms / 1000)
                # It was planned by a clock that was far ahead, and would rest until then.
                _logger.warning(
                    "%s: the schedule %s was planned for %s by a clock that was ahead; it is planned anew",
                    self._module,
                    schedule.name,
                    datetime.fromtimestamp(next_ms / 1000, UTC).isoformat(),
                )
                connection.exec_driver_sql(self._move, (times, following_ms, schedule.name, next_ms))
                return following
            moved = connection.exec_driver_sql(self._move, (times, following_ms, schedule.name, next_ms))
            if moved.rowcount == 1:
                # The tick's own time is its id, so whoever sends it sends the same.
                tick = datetime.fromtimestamp(next_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
                message_id = f"{self._module}/{schedule.name}/{tick}"
                encode = self._routes.sends[type(schedule.command)]
                self._statements.keep(connection, [encode(Bus(self._routes), schedule.command, message_id)])
                _logger.info("%s: the schedule %s is due (%s)", self._module, schedule.name, tick)
            return following

        return step
