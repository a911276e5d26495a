"""Looks at the log that processes share, whatever kind it is: a broker, or a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from socket import gethostname
from typing import Protocol, TypeVar

import anyio
from attrs import frozen

from fissile._application import Application
from fissile._errors import Unavailable
from fissile.abc import Partition
from fissile.cli import _kafka_view
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._kafka_view import MemberFound, nothing_to_ask
from fissile.transports._sqlite_options import path_of
from fissile.transports._sqlite_view import FileView, looking_at

T = TypeVar("T")


class View(Protocol):
    """What can be found out; the names of topics and groups are those of `Topology`."""

    async def topics(self, names: Collection[str]) -> dict[str, int]:
        """Return how many partitions each topic has that is there."""
        ...

    async def members(self, groups: Iterable[str]) -> list[MemberFound]:
        """Return the members of groups; a group that is not there has none."""
        ...

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the offsets that a group has committed; nothing for partitions where it has not."""
        ...

    async def bounds(self, partitions: Iterable[Partition]) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return the first offset kept and the next one to come, per partition."""
        ...


@frozen
class _SqliteView:
    """A file. It belongs to one application, so that its names have no prefix."""

    file: FileView
    prefix: str

    async def topics(self, names: Collection[str]) -> dict[str, int]:
        found = self.file.topics([self._bare(name) for name in names])
        return {self.prefix + name: count for name, count in found.items()}

    async def members(self, groups: Iterable[str]) -> list[MemberFound]:
        host = gethostname()
        return [
            MemberFound(
                self.prefix + seen.group,
                f"{seen.member} (process {seen.pid})",
                seen.client,
                host,
                tuple((self.prefix + topic, number) for topic, number in seen.partitions),
            )
            for seen in self.file.members([self._bare(group) for group in groups])
        ]

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        found = self.file.committed(self._bare(group), self._all_bare(partitions))
        return self._prefixed(found)

    async def bounds(self, partitions: Iterable[Partition]) -> tuple[dict[Partition, int], dict[Partition, int]]:
        begins, ends = self.file.bounds(self._all_bare(partitions))
        return self._prefixed(begins), self._prefixed(ends)

    def _bare(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def _all_bare(self, partitions: Iterable[Partition]) -> list[Partition]:
        return [(self._bare(topic), number) for topic, number in partitions]

    def _prefixed(self, offsets: dict[Partition, int]) -> dict[Partition, int]:
        return {(self.prefix + topic, number): offset for (topic, number), offset in offsets.items()}


def look(application: Application, ask: Callable[[View], Awaitable[T]], what: str) -> T:
    """Connect, ask, disconnect.

    Args:
        application: Its settings name the bus.
        ask: What to find out.
        what: What the command shows, for the error.

    Raises:
        CommandFailed: The bus is shared by nobody, or nothing has run on it yet, or cannot be reached.
        StartupFailed: The settings have faults, or the file is not ours.
    """
    if not application.settings.bus.startswith("sqlite:"):
        return _kafka_view.look(application, ask, what)
    path = path_of(application.settings.bus)
    try:
        with looking_at(path) as file:
            if file is None:
                raise CommandFailed(
                    f"There are no {what} to ask for: nothing has run on {application.settings.bus} yet.",
                    "`fissile run` makes it. `fissile dev` keeps its log in memory, where no other process can look.",
                    code=Exit.NOTHING_THERE,
                )
            view = _SqliteView(file, application.settings.kafka_prefix)

            async def run() -> T:
                return await ask(view)

            return anyio.run(run)
    except Unavailable as error:
        raise CommandFailed(str(error), code=Exit.UNAVAILABLE) from None


def require_shared(application: Application, what: str) -> None:
    """Refuse a bus that no other process can look at.

    Raises:
        CommandFailed: It is in memory.
    """
    if not application.log_is_shared:
        raise nothing_to_ask(application, what)
