"""What a developer sees when the application is ready."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from fissile.cli._output import Output
from fissile.cli._serve import Ready
from fissile.cli._version import installed_version


def banner(output: Output, ready: Ready, seconds: float, watched: Iterable[str]) -> None:
    """Show the banner.

    Args:
        output: Writes.
        ready: What is ready.
        seconds: How long it took.
        watched: What is watched; nothing where there is no reload.
    """
    modules = count(len([name for name in ready.modules if name != "gateway"]), "module")
    parts = (
        ready.application,
        f"python {platform.python_version()}",
        ready.backend,
        f"bus: {ready.bus.partition(':')[0]}",
        f"{modules} in {count(ready.processes, 'process', 'processes')}",
    )
    output.say(f"{output.style(title(), 'bold')} · {' · '.join(parts)}")
    output.say()
    for text in ready.announcements:
        label = "Gateway   " if text.startswith(("http://", "https://")) else "          "
        output.say(f"  {output.style(label, 'dim')}{output.style(text, 'cyan') if label.strip() else text}")
    watching = ", ".join(watched)
    watching = f"watching {watching}" if watching else "no reload"
    output.say(f"  {output.style(f'Ready in {seconds:.2f} s', 'green')} · {watching} · Ctrl-C to stop")
    output.say()


def title() -> str:
    """Return the name and the version of the library."""
    return f"fissile {installed_version('fissile') or ''}".rstrip()


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number of things."""
    return f"{number} {one if number == 1 else many or one + 's'}"
