"""Placement: which process hosts which module. A pure function of what `[tool.fissile]` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fissile._errors import Fault

MONOLITH = "monolith"
GATEWAY = "gateway"

Placement = Mapping[str, tuple[str, ...]]
"""The modules of each process."""


def read_placements(table: Mapping[str, Any], modules: tuple[str, ...]) -> dict[str, Placement]:
    """Return the placements of an application; `monolith`, all modules in one process, always exists.

    Args:
        table: The table `[tool.fissile]`; Any: TOML values.
        modules: The names of all modules, the gateway's included.
    """
    placements: dict[str, Placement] = {MONOLITH: {MONOLITH: modules}}
    for name, processes in table.get("placements", {}).items():
        placements[name] = {process: tuple(hosted) for process, hosted in processes.items()}
    return placements


def placement_faults(
    name: str, placements: Mapping[str, Placement], modules: tuple[str, ...], where: str, *, log_is_shared: bool
) -> Iterator[Fault]:
    """Yield what is wrong with the placement to run.

    Args:
        name: The placement to run.
        placements: All of them.
        modules: The names of all modules.
        where: The file that describes them.
        log_is_shared: Whether several processes can use the log.
    """
    placement = placements.get(name)
    if placement is None:
        yield Fault(f"There is no placement {name!r}.", "FISSILE_PLACEMENT", f"Use one of: {', '.join(placements)}.")
        return
    hosts: dict[str, list[str]] = {module: [] for module in modules}
    place = f"{where} [tool.fissile.placements.{name}]"
    for process, hosted in placement.items():
        for module in hosted:
            if module not in hosts:
                yield Fault(
                    f"The process {process!r} hosts {module!r}, which is no module.",
                    place,
                    f"Use one of: {', '.join(modules)}.",
                )
            else:
                hosts[module].append(process)
    for module, processes in hosts.items():
        if not processes:
            yield Fault(f"The module {module!r} is in no process.", place, "Add it to one.")
        elif len(processes) > 1:
            yield Fault(
                f"The module {module!r} is in {' and '.join(processes)}.",
                place,
                "Keep it in one; a process may have replicas.",
            )
    if len(placement) > 1 and not log_is_shared:
        yield Fault(
            f"The placement {name!r} has {len(placement)} processes, and the bus is in the memory of one.",
            "FISSILE_BUS",
            "Use a bus that processes share, or the placement 'monolith'.",
        )
