from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from fissile_gateway._descriptors import SPARE, allow_connections


@pytest.fixture
def low_limit() -> Iterator[int]:
    """Lower the limit of open files for a test; return the one that cannot be exceeded."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def soft_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_gateway_may_open_as_many_files_as_its_connections_need(low_limit: int) -> None:
    allow_connections(600)
    assert soft_limit() == 600 + SPARE
    allow_connections(100)
    assert soft_limit() == 600 + SPARE


def test_it_says_so_where_the_system_does_not_allow_it(low_limit: int, caplog: pytest.LogCaptureFixture) -> None:
    if low_limit == resource.RLIM_INFINITY:
        pytest.skip("there is no limit of open files here")
    allow_connections(low_limit)
    assert soft_limit() == low_limit
    assert f"this process may open {low_limit} files" in caplog.text
