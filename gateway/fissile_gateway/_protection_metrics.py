"""What the gateway measures of what it does not let in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fissile import Metric
from fissile._metrics import counter, gauge

if TYPE_CHECKING:
    from fissile_gateway._protection import Protection


def of_protection(protection: Protection) -> Iterator[Metric]:
    """Yield what was refused, who waits, and which circuits are open."""
    counted = protection.statistics()
    yield counter(
        "fissile_http_turned_away",
        "Requests not let in, those that were not even read included: 503 for too many at once, 429 for too many in a time.",
        [({"status": "503"}, counted.shed), ({"status": "429"}, counted.limited)],
    )
    yield gauge("fissile_http_waiting", "Requests that wait for a place.", [({}, counted.waiting)])
    yield gauge("fissile_http_uploads", "Requests whose bodies are on their way.", [({}, counted.uploads)])
    yield gauge("fissile_http_remembered", "Clients and addresses whose requests are counted.", [({}, counted.keys)])
    circuits = [({"module": name}, float(state != "closed")) for name, state in counted.circuits.items()]
    yield gauge("fissile_circuit_open", "Whether a module is not called, or only by a few that try.", circuits)
    opened = [({"module": name}, float(number)) for name, number in counted.opened.items()]
    yield counter("fissile_circuit_openings", "How often a module's circuit has opened.", opened)
