"""What a developer sees when all processes of a split application are ready."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from time import perf_counter

from fissile.cli._banner import count, title
from fissile.cli._output import Output, without_password
from fissile.cli._units import Unit


def split_banner(
    output: Output,
    units: Sequence[Unit],
    bus: str,
    watched: Iterable[str] | None,
    started: float,
    *,
    metrics_host: str,
) -> None:
    """Show the banner of an application in several processes.

    Args:
        output: Writes.
        units: The processes, all of them ready.
        bus: The bus that they share.
        watched: What is watched; None where there is no reload.
        started: When the command began, on `perf_counter`.
        metrics_host: Where processes tell their metrics, if they do.
    """
    told = [unit.ready for unit in units if unit.ready is not None]
    modules = count(len({name for ready in told for name in ready.modules} - {"gateway"}), "module")
    bus = without_password(bus)
    parts = (
        told[0].application,
        f"python {platform.python_version()}",
        told[0].backend,
        f"bus: {bus.partition(':')[0]}",
        f"{modules} in {count(len(units), 'process', 'processes')}",
    )
    output.say()
    output.say(f"{output.style(title(), 'bold')} · {' · '.join(parts)}")
    output.say()
    width = max(10, *(len(unit.name) for unit in units))
    for ready in told:
        for text in ready.announcements:
            label = "Gateway" if text.startswith(("http://", "https://")) else ""
            output.say(f"  {output.style(label.ljust(width), 'dim')} {output.style(text, 'cyan') if label else text}")
    shown = output.style(bus, "cyan")
    output.say(f"  {output.style('Bus'.ljust(width), 'dim')} {shown}  (FISSILE_BUS for other commands)")
    for unit in units:
        assert unit.child is not None
        assert unit.ready is not None
        took = output.style(f"ready in {unit.ready_s:.2f} s", "green")
        hosted = ", ".join(unit.ready.modules)
        where = f"  {metrics_url(unit, metrics_host)}" if unit.metrics_port else ""
        name = output.style(unit.name.ljust(width), unit.color)
        output.say(f"  {name} pid {unit.child.process.pid}  {took}  {hosted}{where}")
    watching = "no reload" if watched is None else f"watching {', '.join(watched)}"
    ready_s = output.style(f"Ready in {perf_counter() - started:.2f} s", "green")
    output.say(f"  {ready_s} · {watching} · Ctrl-C to stop")
    output.say()


def metrics_url(unit: Unit, host: str) -> str:
    """Return where a process tells its metrics."""
    return f"http://{f'[{host}]' if ':' in host else host}:{unit.metrics_port}/metrics"
