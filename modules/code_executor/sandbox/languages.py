"""The languages, one table. A further language is one further entry.

A language is available where the first word of each of its commands is found on the search path *inside* the jail:
`SEARCH_PATH` of the machine for the local sandbox, of the image for Docker.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from attrs import frozen

SEARCH_PATH = ("/usr/local/bin", "/usr/bin", "/bin")


@frozen
class Language:
    """How the programs of one language are compiled and run.

    Attributes:
        id: The name that callers use.
        file: The name under which the source is put into the run's private folder.
        run: The command. Its first word is a tool looked up on the search path, or `./...` for a compiled program.
            The word `FILE` stands for the source file.
        compile: The command of the step before, in the same jail; empty where there is none.
        bound_address_space: Whether a limit on reserved addresses is useful. Runtimes that reserve gigabytes
            without touching them need False; the watchdog over the memory in use holds for all alike.
        compile_wall_s: Seconds by the clock that the compiler may take.
    """

    id: str
    file: str
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    bound_address_space: bool = True
    compile_wall_s: float = 10.0

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs that must be found in the jail."""
        first_words = (command[0] for command in (self.compile, self.run) if command)
        return tuple(word for word in first_words if not word.startswith("./"))

    @property
    def executes_own_files(self) -> bool:
        """Whether the run's private folder must allow execution: for compiled programs only."""
        return self.run[0].startswith("./")

    def commands(self, folder: str, tools: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
        """The steps of a run as argument lists, each beginning with an absolute path.

        Args:
            folder: The run's private folder, as seen from inside the jail.
            tools: Where each of `tools` is, as seen from inside the jail.
        """
        here = PurePosixPath(folder)

        def word(text: str) -> str:
            if text == "FILE":
                return str(here / self.file)
            return str(here / text) if text.startswith("./") else text

        return tuple(
            (tools.get(command[0], word(command[0])), *map(word, command[1:]))
            for command in (self.compile, self.run)
            if command
        )


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        language.id: language
        for language in (
            Language("python", "main.py", run=("python3", "-I", "FILE")),
            # V8 reserves tens of gigabytes of addresses for its cages.
            Language("javascript", "main.js", run=("node", "FILE"), bound_address_space=False),
            Language("bash", "main.sh", run=("bash", "--norc", "FILE")),
            Language("c", "main.c", compile=("gcc", "-O2", "-pipe", "-o", "./main", "FILE", "-lm"), run=("./main",)),
        )
    }
)
