"""A challenge that tests write, and an executor that says what programs may use and runs none."""

from __future__ import annotations

from fissile.testing import fake
from modules.challenges.contract import Case, CreateChallenge
from modules.code_executor import contract as executor

DOUBLE = CreateChallenge("double", "Double it", 1, "Write the double.", cases=(Case("1\n", "2\n"), Case("2\n", "4\n")))

LIMITS = executor.RunLimits(time_s=4.0, memory_mib=200, input_bytes=600, output_bytes=300)
LANGUAGES = (executor.Language("python", "none"), executor.Language("c", "none"))

that_runs = fake(executor.contract, {executor.GetLimits: LIMITS, executor.ListLanguages: LANGUAGES}).module
"""Stands in for the executor."""
