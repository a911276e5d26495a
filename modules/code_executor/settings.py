"""What the code executor can be told."""

from attrs import frozen

from fissile import ModuleSettings, setting

from . import sandbox as boxes
from .contract import RunLimits

MIB = 1024 * 1024
_WALL_TIMES, _WALL_MORE_S = 1.5, 1.0
"""How much longer than its CPU time a program may take: others run beside it, and what starts it takes time, too."""
_COMPILER_WALL_TIMES = 3.0
"""The same for compilers, which nobody waits for to be punctual."""


@frozen
class ExecutorSettings(ModuleSettings):
    """What a run may use, and where it runs."""

    sandbox: boxes.Kind = setting(
        "auto", "`docker`, `local`, or `auto`: Docker where an engine has the image, else local."
    )
    at_once: int = setting(3, "How many programs run at a time.", at_least=1)
    people_at_once: int = setting(
        2, "How many of them may be people's runs; the rest is for judging submissions.", at_least=1
    )
    waiting: int = setting(
        32, "How many of people's runs may wait for their turn, and how many cases of submissions.", at_least=0
    )
    waiting_each: int = setting(
        8,
        "How many of people's runs that wait may be one caller's; of those who do not say who they are, all but so many.",
        at_least=1,
    )
    spare: int = setting(2, "How many containers, or jails, are kept ready.")
    spare_age_s: float = setting(600.0, "When a container that nobody has used is replaced, in seconds.")
    wall_s: float = setting(10.0, "How long a program may run, in seconds.")
    cpu_s: float = setting(5.0, "How much CPU time a program may use, in seconds.")
    memory_bytes: int = setting(256 * MIB, "How much memory its processes may use together, in bytes.")
    processes: int = setting(64, "How many processes and threads it may have.")
    output_bytes: int = setting(64 * 1024, "How much it may write to each of stdout and stderr, in bytes.")
    file_bytes: int = setting(16 * MIB, "How large a file may be, in bytes.")
    disk_bytes: int = setting(16 * MIB, "How much its files may have together, in bytes.")
    compile_s: float = setting(20.0, "How much CPU time a compiler may use, in seconds.")
    compile_memory_bytes: int = setting(512 * MIB, "How much memory a compiler's processes may use together, in bytes.")
    compile_disk_bytes: int = setting(64 * MIB, "How much a compiler's files may have together, in bytes.")
    builds_kept: int = setting(128, "How many compiled programs are kept for further runs; each is an open file.")
    builds_bytes: int = setting(64 * MIB, "How many bytes they may have together.")
    source_bytes: int = setting(256 * 1024, "How large a source, or an input, may be, in bytes.")
    runs_kept: int = setting(1000, "How many runs can be looked up.", at_least=1)
    runs_bytes: int = setting(
        32 * MIB, "How many bytes their reports may have together; the oldest make room.", at_least=1
    )

    def limits(self, time_s: float | None = None, memory_mib: int | None = None) -> boxes.Limits:
        """Return the limits of one run: what is asked for, and no more than is allowed."""
        cpu_s = self.cpu_s if time_s is None else min(time_s, self.cpu_s)
        return boxes.Limits(
            wall_s=self.wall_s if time_s is None else min(_WALL_TIMES * cpu_s + _WALL_MORE_S, self.wall_s),
            cpu_s=cpu_s,
            memory_bytes=self.memory_bytes if memory_mib is None else min(memory_mib * MIB, self.memory_bytes),
            processes=self.processes,
            output_bytes=self.output_bytes,
            file_bytes=self.file_bytes,
            disk_bytes=self.disk_bytes,
        )

    @property
    def most(self) -> RunLimits:
        """What a program may use at most."""
        time_s = min(
            self.cpu_s, max(0.0, self.wall_s - _WALL_MORE_S) / _WALL_TIMES
        )  # so that the clock leaves room for it
        return RunLimits(time_s, self.memory_bytes // MIB, self.source_bytes, self.output_bytes)

    def compiling(self) -> boxes.Limits:
        """Return the limits of compilers."""
        return boxes.Limits(
            wall_s=_COMPILER_WALL_TIMES * self.compile_s + _WALL_MORE_S,
            cpu_s=self.compile_s,
            memory_bytes=self.compile_memory_bytes,
            processes=self.processes,
            output_bytes=self.output_bytes,
            file_bytes=self.compile_disk_bytes,
            disk_bytes=self.compile_disk_bytes,
        )
