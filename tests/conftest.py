"""What all tests share: every async test runs on asyncio, on asyncio with uvloop, and on Trio."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Properties have no time limit of their own: the machine may be busy.
from tests.figures import COLLECTED
from tests.loops import add_options, choose

settings.register_profile("fissile", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fissile")

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of a test."""
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose an event loop."""
    add_options(parser)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the event loops that it did not ask for."""
    choose(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the tests, which are captured where they arise."""
    if COLLECTED:
        terminalreporter.section("figures")
        for text in COLLECTED:
            terminalreporter.write_line(text)
