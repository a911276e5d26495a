"""What schemathesis is told beside its configuration; it imports this file itself."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Pass over the header `Idempotency-Key: 0`, which schemathesis 4.32 takes for a right one although its pattern wants quotes."""
    return not (case.headers and case.headers.get("Idempotency-Key") == "0")
