"""What the module and the gateway need only later is not imported when they start."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import modules.accounts.service
import fissile_gateway._auth_late, fissile_gateway._auth_asked, fissile_gateway._app
print([name for name in ("argon2", "joserfc", "cryptography") if name in sys.modules])
"""


def test_a_start_imports_no_library_for_cryptography() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
