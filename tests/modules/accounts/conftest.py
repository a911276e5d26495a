"""The module in every placement, on SQLite; and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres
from tests.modules.accounts.accounts import Running, running
from tests.modules.placing import divide, settings_with_empty_database

ON_POSTGRESQL = {
    "test_who_has_signed_up_can_sign_in_and_nobody_else_can_take_the_name",
    "test_attempts_at_the_same_moment_are_counted_too",
    "test_a_changed_password_ends_all_sessions",
    "test_a_device_that_has_signed_in_before_has_a_count_of_its_own",
    "test_a_refresh_token_is_spent_and_one_that_comes_again_ends_the_session",
    "test_windows_that_refresh_at_once_stay_signed_in",
    "test_roles_give_scopes_from_the_next_refresh_on",
    "test_replicas_that_start_at_once_share_one_key",
    "test_when_a_token_was_used_is_told_a_minute_later_and_once_the_module_has_stopped",
    "test_what_is_over_is_removed",
}
"""What two processes could do at once, and each kind of statement once: a schema takes seconds to make."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each in every placement."""
    divide(metafunc, on_postgresql=metafunc.function.__name__ in ON_POSTGRESQL)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # Any: as in the one that it stands for
    return request.param


@pytest.fixture
def settings(placement: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database."""
    return settings_with_empty_database(placement, request, tmp_path)


@pytest.fixture
async def here(settings: Settings, placement: str, broker: str | None) -> AsyncGenerator[Running]:
    async with running(settings, placement, broker=broker) as started:
        yield started
