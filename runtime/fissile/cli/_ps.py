"""`fissile ps`: the processes of the application that are there, as far as the broker knows them."""

from __future__ import annotations

from typing import Any

from fissile.cli._context import Context, Whole
from fissile.cli._exit import Exit
from fissile.cli._kafka_view import MemberFound
from fissile.cli._table import show_table
from fissile.cli._topology import Group, Topology
from fissile.cli._view import View, look

CLIENT = "client"
"""The process that `fissile.connect()` is; it may host modules itself, and is in no placement."""
_COLUMNS = ("module", "process", "client", "host", "partitions", "member")


def ps(*, placement: str | None = None, context: Context) -> Exit:
    """List the processes of the application that are there.

    What is asked is the broker: each process is a member of the consumer group of each module that it hosts. So a process shows once per
    module. What it is called it tells the broker itself; where it does not, the module and the placement tell. One that reads no topic, as
    a gateway may, is a member of no group and cannot be seen. Exits with 5 where nothing is there.

    Args:
        placement: The placement that the processes run; the one that the settings name unless told.
        context: What all commands are given.
    """
    application = context.application({"FISSILE_PLACEMENT": placement})
    topology = Topology.read(Whole.read(application).require())
    groups = {group.group: group for group in topology.groups}

    async def ask(view: View) -> list[MemberFound]:
        return await view.members(groups)

    found = look(application, ask, "processes")
    rows = [_row(application.name, groups[member.group], member) for member in found]
    absent = [group.module for group in topology.groups if not any(one.group == group.group for one in found)]
    hosting = {group.process for group in topology.groups}
    unseen = [process for process in topology.processes if process not in hosting]
    if context.as_json:
        context.output.json({"members": rows, "modules_without_process": absent, "processes_not_seen": unseen})
    else:
        if rows:
            show_table(context.output, rows, _COLUMNS)
        known = (*topology.processes, CLIENT)
        for process in dict.fromkeys(row["process"] for row in rows if row["process"] not in known):
            context.output.warn(
                f"the placement {topology.placement!r} has no process {process!r}: what runs there has another placement. "
                "Set FISSILE_PLACEMENT to it, or pass --placement."
            )
        for module in absent:
            context.output.warn(f"no process hosts {module} (its consumer group has no member).")
        for process in unseen:
            context.output.say(f"{process}: not known; it reads no topic, and the broker does not see it.")
    return Exit.OK if rows else Exit.NOTHING_THERE


def _row(application: str, group: Group, member: MemberFound) -> dict[str, Any]:  # Any: texts and a number
    return {
        "module": group.module,
        "process": _process_of(member.client, application) or group.process,
        "client": member.client,
        "host": member.host,
        "partitions": None if member.partitions is None else len(member.partitions),
        "member": member.member,
    }


def _process_of(client: str, application: str) -> str:
    """Return the process that a client's name tells, as `<application>.<process>`; nothing where it has another form."""
    return client.removeprefix(f"{application}.") if client.startswith(f"{application}.") else ""
