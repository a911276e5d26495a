"""The handlers: each returns the same report."""

from benchmarks.executor.contract import ExplainCode, Ran, RunAndTell, RunCode, RunReport, contract
from fissile import Bus, Module

module = Module(contract)

REPORT = RunReport("5f3c0a9b2e71d04-1", "finished", 0, "42\n", "", 12)


@module.command(RunCode, idempotent=True)
async def run_code(_command: RunCode) -> RunReport:
    """Answer."""
    return REPORT


@module.query(ExplainCode)
async def explain_code(_query: ExplainCode) -> RunReport:
    """Answer."""
    return REPORT


@module.command(RunAndTell, idempotent=True)
async def run_and_tell(_command: RunAndTell, bus: Bus) -> RunReport:
    """Publish and answer."""
    await bus.publish(Ran(REPORT.run_id))
    return REPORT
