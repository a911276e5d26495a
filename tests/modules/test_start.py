"""What the modules and the gateway need only later, or only elsewhere, is not imported when they start."""

from __future__ import annotations

import subprocess
import sys

LATER = (
    "argon2", "joserfc", "cryptography", "docker", "pyseccomp", "alembic", "mako", "psycopg", "sqlalchemy.dialects.postgresql",
    "cronsim", "zoneinfo", "limits", "redis", "cyclopts", "rich", "structlog", "watchfiles", "trio", "aiokafka", "opentelemetry",
    "fissile.transports.kafka", "fissile.testing", "fissile_gateway._rates_shared", "fissile_gateway._http2_protocol",
    "fissile._schemas", "fissile._asyncapi",
)  # fmt: skip

PROGRAM = f"""
import sys
import modules.code_executor.service, modules.challenges.service, modules.submissions.service, modules.leaderboard.service
import modules.accounts.service
import fissile_gateway._auth_late, fissile_gateway._auth_asked, fissile_gateway._app, fissile_gateway._server
import fissile._running, fissile.transports.sqlite, fissile.database._sqlite, fissile.database._storage, fissile.cli._run
print([name for name in {LATER!r} if name in sys.modules])
"""


def test_a_start_imports_nothing_that_is_needed_later_or_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
