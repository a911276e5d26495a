"""The languages, one table. A further language is one further entry.

A language is available where each of its tools is found on the search path *inside* the jail: `SEARCH_PATH` of the
machine for the local sandbox, of the image for Docker.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

import msgspec

SEARCH_PATH = ("/usr/local/bin", "/usr/bin", "/bin")

SOURCE, ARTIFACT, PROGRAM = "SOURCE", "ARTIFACT", "PROGRAM"
"""Words of commands: the source file, what the compiler made of it, and the same where it is machine code."""

_HEAP_SHARE = 0.6
"""Of the memory of a run, for the heap of a virtual machine that manages its own: the rest is its code and its threads."""

_NODE = """\
declare const console: any, process: any, Buffer: any, module: any, exports: any;
declare const setTimeout: any, setInterval: any, setImmediate: any, clearTimeout: any, clearInterval: any;
declare const URL: any, TextEncoder: any, TextDecoder: any, performance: any, structuredClone: any, queueMicrotask: any;
declare function require(name: string): any;
declare const __filename: string, __dirname: string;
declare module "*";
"""
"""Node's own names for the TypeScript compiler, untyped: the full declarations are not everywhere, and take a second."""

_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:ActiveProcessorCount=2", "-Xmx{heap_mib}m")
"""One thread collects, nothing is written for monitors, and a heap that fits into the limit."""
_JAVAC = tuple(f"-J{flag}" for flag in (*_JVM, "-XX:TieredStopAtLevel=1"))
_TSC = (
    *("--target", "es2020", "--lib", "es2020", "--module", "commonjs", "--esModuleInterop", "--noEmitOnError"),
    # A source without `import` is a module, too: what it declares by itself, such as `require`, hides our names and does not clash.
    *("--moduleDetection", "force"),
)


class Language(msgspec.Struct, frozen=True):
    """How the programs of one language are compiled and run.

    Attributes:
        id: The name that callers use.
        file: The name under which the source is put into the private folder.
        run: The command. Its first word is a tool looked up on the search path, or `PROGRAM`. Words that begin with
            `./` are in the private folder, and `{heap_mib}` in a word is what of the memory a heap may have.
        compile: The commands of the compiler, one after the other, in a jail of their own; empty where there is none.
        artifact: The one file in the private folder that the compiler leaves, and all that a run gets of it.
        beside: Further files for the compiler, names and texts.
        also: Tools that the commands need without naming them.
        environment: Variables for compiler and program; values that begin with `./` are in the private folder.
        bound_address_space: Whether a limit on reserved addresses is useful. Runtimes that reserve gigabytes
            without touching them need False; the watchdog over the memory in use holds for all alike.
    """

    id: str
    file: str
    run: tuple[str, ...]
    compile: tuple[tuple[str, ...], ...] = ()
    artifact: str = "main"
    beside: tuple[tuple[str, str], ...] = ()
    also: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    bound_address_space: bool = True

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs that must be found in the jail."""
        first_words = (command[0] for command in (*self.compile, self.run))
        return (*(word for word in first_words if word != PROGRAM), *self.also)

    @property
    def is_native(self) -> bool:
        """Whether what the compiler makes is executed itself, and not read by a tool."""
        return self.run[0] == PROGRAM

    def commands(
        self, folder: str, tools: Mapping[str, str], *, compiling: bool, memory_bytes: int
    ) -> tuple[tuple[str, ...], ...]:
        """The commands as argument lists, each beginning with an absolute path or `PROGRAM`.

        Args:
            folder: The private folder, as seen from inside the jail.
            tools: Where each of `tools` is, as seen from inside the jail.
            compiling: The compiler's commands, not the program's.
            memory_bytes: What there is for all processes.
        """
        heap_mib = max(16, int(memory_bytes * _HEAP_SHARE) >> 20)

        def words(command: Iterable[str]) -> Iterable[str]:
            for word in command:
                named = {SOURCE: f"./{self.file}", ARTIFACT: f"./{self.artifact}"}.get(word, word)
                yield _placed(named, folder).replace("{heap_mib}", str(heap_mib))

        return tuple(
            (tools.get(command[0], command[0]), *words(command[1:]))
            for command in (self.compile if compiling else (self.run,))
        )

    def variables(self, folder: str) -> dict[str, str]:
        """The environment that this language needs beside the usual one."""
        return {name: _placed(value, folder) for name, value in self.environment}


def _placed(word: str, folder: str) -> str:
    return str(PurePosixPath(folder) / word) if word.startswith("./") else word


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        language.id: language
        for language in (
            Language("python", "main.py", run=("python3", "-I", SOURCE)),
            # V8 reserves tens of gigabytes of addresses for its cages.
            Language("javascript", "main.js", run=("node", SOURCE), bound_address_space=False),
            Language(
                "typescript",
                "main.ts",
                compile=(("tsc", *_TSC, "--outDir", "./", SOURCE, "./node.d.ts"),),
                artifact="main.js",
                beside=(("node.d.ts", _NODE),),
                run=("node", ARTIFACT),
                bound_address_space=False,
            ),
            Language("bash", "main.sh", run=("bash", "--norc", SOURCE)),
            Language("ruby", "main.rb", run=("ruby", SOURCE)),
            Language("c", "main.c", compile=(("gcc", "-O2", "-pipe", "-o", "./main", SOURCE, "-lm"),), run=(PROGRAM,)),
            Language(
                "cpp",
                "main.cpp",
                compile=(("g++", "-std=c++17", "-O2", "-pipe", "-o", "./main", SOURCE),),
                run=(PROGRAM,),
            ),
            Language(
                "rust",
                "main.rs",
                compile=(("rustc", "--edition=2021", "-Copt-level=2", "-Cstrip=symbols", "-o", "./main", SOURCE),),
                also=("cc",),
                run=(PROGRAM,),
            ),
            # The runtime of Go reserves its arenas in gigabytes, and has a thread for each call that blocks.
            Language(
                "go",
                "main.go",
                compile=(("go", "build", "-ldflags=-s -w", "-o", "./main", SOURCE),),
                environment=(
                    ("GOCACHE", "./go-cache"),
                    ("GOPATH", "./go"),
                    ("GO111MODULE", "off"),
                    ("GOTOOLCHAIN", "local"),
                    ("GOPROXY", "off"),
                    ("GOTELEMETRY", "off"),
                    ("CGO_ENABLED", "0"),
                    ("GOMAXPROCS", "2"),
                ),
                run=(PROGRAM,),
                bound_address_space=False,
            ),
            # A jar, because a source may hold many classes, and one file is all that leaves the compiler's jail.
            Language(
                "java",
                "Main.java",
                compile=(
                    ("javac", *_JAVAC, "-encoding", "UTF-8", "-d", "./classes", SOURCE),
                    ("jar", *_JAVAC, "--create", "--file=main.jar", "--main-class=Main", "-C", "./classes", "."),
                ),
                artifact="main.jar",
                run=("java", *_JVM, "-XX:MaxMetaspaceSize=64m", "-XX:ReservedCodeCacheSize=48m", "-jar", ARTIFACT),
                bound_address_space=False,
            ),
        )
    }
)
