"""The check at start: it reads every declaration, finds all faults at once, and gives back what the runtime is built from."""

from __future__ import annotations

from fissile._check.contracts import Catalog, check_contracts
from fissile._check.modules import ModulePlan, check_module

__all__ = ("Catalog", "ModulePlan", "check_contracts", "check_module")
