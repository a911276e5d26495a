"""Each language in each sandbox: what a program gets and gives, and what its author learns of a mistake."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import pytest
from attrs import frozen

from modules.code_executor.sandbox import Limits, Outcome, Program, Result, Sandbox

from .conftest import KINDS, MIB, demand

LIMITS = Limits(wall_s=60.0, cpu_s=20.0)
"""A busy machine must not pass for a program that is too slow."""


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """A language does not know of the event loop."""
    return request.param


@frozen
class Sample:
    """Programs of one language.

    Attributes:
        good: Reverses the word on its stdin, says "heard" on its stderr, and exits with 3.
        wrong: Does not compile, or ends with an error at its first line where nothing is compiled.
        word: Part of the message about that.
        fails: Compiles, and ends with an error of its language.
        says: Part of what is written about that.
        code: Its exit code; None where a signal ends it.
    """

    good: str
    wrong: str
    word: str
    fails: str
    says: str = ""
    code: int | None = 1


SAMPLES = {
    "python": Sample(
        good="import sys\nprint(input()[::-1])\nprint('heard', file=sys.stderr)\nsys.exit(3)",
        wrong="print(",
        word="SyntaxError",
        fails="print([][1])",
        says="IndexError",
    ),
    "javascript": Sample(
        good="""
            const word = require('fs').readFileSync(0, 'utf8').trim();
            console.log([...word].reverse().join(''));
            console.error('heard');
            process.exitCode = 3;
        """,
        wrong="console.log(",
        word="SyntaxError",
        fails="null.x",
        says="TypeError",
    ),
    "typescript": Sample(
        good="""
            import * as fs from "fs";
            interface Word { text: string }
            const word: Word = { text: fs.readFileSync(0, "utf8").trim() };
            console.log([...word.text].reverse().join(""));
            console.error("heard");
            process.exitCode = 3;
        """,
        wrong='const count: number = "many";',
        word="TS2322",
        fails="const nothing: any = null; nothing.x;",
        says="TypeError",
    ),
    "bash": Sample(
        good='read -r word\nrev <<< "$word"\necho heard >&2\nexit 3',
        wrong="if then",
        word="syntax error",
        fails="no-such-command-anywhere",
        says="not found",
        code=127,
    ),
    "ruby": Sample(
        good='puts gets.chomp.reverse\nwarn "heard"\nexit 3',
        wrong="puts (",
        word="syntax error",
        fails="nil.upcase",
        says="NoMethodError",
    ),
    "c": Sample(
        good=r"""
            #include <stdio.h>
            #include <string.h>
            int main(void) {
                char word[100];
                if (scanf("%99s", word) != 1) return 1;
                for (size_t i = strlen(word); i > 0; i--) putchar(word[i - 1]);
                putchar('\n');
                fputs("heard\n", stderr);
                return 3;
            }
        """,
        wrong="int main(void) { return nothing; }",
        word="nothing",
        fails="int main(void) { volatile int *p = 0; return *p; }",
        code=None,
    ),
    "cpp": Sample(
        good=r"""
            #include <algorithm>
            #include <iostream>
            #include <string>
            int main() {
                std::string word;
                std::cin >> word;
                std::reverse(word.begin(), word.end());
                std::cout << word << "\n";
                std::cerr << "heard\n";
                return 3;
            }
        """,
        wrong="int main() { return nothing; }",
        word="nothing",
        fails='#include <stdexcept>\nint main() { throw std::runtime_error("bad luck"); }',
        says="bad luck",
        code=None,
    ),
    "rust": Sample(
        good=r"""
            fn main() {
                let mut word = String::new();
                std::io::stdin().read_line(&mut word).unwrap();
                println!("{}", word.trim().chars().rev().collect::<String>());
                eprintln!("heard");
                std::process::exit(3);
            }
        """,
        wrong="fn main() { let count: i32 = nothing; }",
        word="nothing",
        fails='fn main() { panic!("bad luck") }',
        says="bad luck",
        code=101,
    ),
    "go": Sample(
        good=r"""
            package main

            import ("fmt"; "os")

            func main() {
                var word string
                fmt.Scan(&word)
                for i := len(word) - 1; i >= 0; i-- { fmt.Printf("%c", word[i]) }
                fmt.Println()
                fmt.Fprintln(os.Stderr, "heard")
                os.Exit(3)
            }
        """,
        wrong="package main\nfunc main() { nothing() }",
        word="nothing",
        fails='package main\nfunc main() { panic("bad luck") }',
        says="bad luck",
        code=2,
    ),
    "java": Sample(
        good=r"""
            import java.util.Scanner;

            public class Main {
                record Word(String text) {}

                public static void main(String[] arguments) {
                    Word word = new Word(new Scanner(System.in).next());
                    System.out.println(new StringBuilder(word.text()).reverse());
                    System.err.println("heard");
                    System.exit(3);
                }
            }
        """,
        wrong="public class Main { int count = nothing; }",
        word="nothing",
        fails="public class Main { public static void main(String[] a) { System.out.println(a[1]); } }",
        says="ArrayIndexOutOfBounds",
    ),
}
COMPILED = ("typescript", "c", "cpp", "rust", "go", "java")


# The walls make no difference to what a compiler says; in the long tests containers are looked at, too.
IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
of_mistakes = pytest.mark.parametrize("sandbox", KINDS if IS_SOAK else ["unshare"], indirect=True)


@pytest.fixture(params=sorted(SAMPLES))
async def language(request: pytest.FixtureRequest, sandbox: Sandbox) -> str:
    await demand(sandbox, request.param)
    return str(request.param)


async def run(sandbox: Sandbox, language: str, source: str, stdin: str = "", limits: Limits = LIMITS) -> Result:
    return await sandbox.run(Program(language, textwrap.dedent(source), stdin, limits))


async def test_a_program_is_given_its_stdin_and_its_streams_and_exit_code_come_back(
    sandbox: Sandbox, language: str
) -> None:
    result = await run(sandbox, language, SAMPLES[language].good, "straw\n")
    assert (result.stdout, result.stderr) == ("warts\n", "heard\n"), result
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.FINISHED, 3, None)
    assert (result.stdout_truncated, result.stderr_truncated) == (False, False)
    assert result.level == sandbox.level
    assert result.duration_ms > 0


@of_mistakes
async def test_a_source_with_a_mistake_is_told_in_the_words_of_its_compiler(sandbox: Sandbox, language: str) -> None:
    sample = SAMPLES[language]
    result = await run(sandbox, language, sample.wrong)
    assert sample.word in result.stderr, result
    assert result.stdout == ""
    assert result.exit_code not in (0, None)
    assert result.outcome is (Outcome.COMPILE_ERROR if language in COMPILED else Outcome.FINISHED)


@of_mistakes
async def test_a_program_that_fails_is_told_with_its_own_message(sandbox: Sandbox, language: str) -> None:
    sample = SAMPLES[language]
    result = await run(sandbox, language, sample.fails)
    assert sample.says in result.stderr, result
    assert result.exit_code == sample.code
    assert result.outcome is (Outcome.KILLED if sample.code is None else Outcome.FINISHED)


@of_mistakes
async def test_a_typescript_source_may_declare_the_names_of_node_by_itself(sandbox: Sandbox) -> None:
    await demand(sandbox, "typescript")
    source = """
        declare const require: any, process: any, module: any;
        declare var Buffer: any;
        const name: string = require("fs").readFileSync(0, "utf8");
        console.log(name.trim(), process.argv.length, Buffer.from("a").length);
    """
    result = await run(sandbox, "typescript", source, "straw\n")
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "straw 2 1\n"), result


HUNGRY = {
    "java": """
        public class Main {
            public static void main(String[] arguments) {
                java.util.List<byte[]> held = new java.util.ArrayList<>();
                while (true) held.add(new byte[1 << 20]);
            }
        }
    """,
    "go": """
        package main

        func main() {
            held := [][]byte{}
            for {
                part := make([]byte, 1<<20)
                for i := range part { part[i] = 1 }
                held = append(held, part)
            }
        }
    """,
}


@of_mistakes
@pytest.mark.parametrize("hungry", sorted(HUNGRY))
async def test_a_runtime_that_manages_its_own_memory_has_no_more_than_others(sandbox: Sandbox, hungry: str) -> None:
    await demand(sandbox, hungry)
    limits = Limits(wall_s=60.0, cpu_s=20.0, memory_bytes=160 * MIB)
    result = await run(sandbox, hungry, HUNGRY[hungry], limits=limits)
    refused_by_itself = result.outcome is Outcome.FINISHED and "OutOfMemoryError" in result.stderr
    assert result.outcome is Outcome.MEMORY_LIMIT or refused_by_itself, result


@of_mistakes
async def test_a_program_of_many_threads_stays_below_the_limit_of_processes(sandbox: Sandbox) -> None:
    await demand(sandbox, "go")
    source = r"""
        package main

        import ("fmt"; "sync")

        func main() {
            var all sync.WaitGroup
            sums := make([]int, 1000)
            for i := range sums {
                all.Add(1)
                go func(i int) { defer all.Done(); for j := 0; j <= i; j++ { sums[i] += j } }(i)
            }
            all.Wait()
            fmt.Println(sums[999])
        }
    """
    limits = Limits(wall_s=60.0, cpu_s=20.0, processes=16)
    result = await run(sandbox, "go", source, limits=limits)
    assert (result.outcome, result.stdout) == (Outcome.FINISHED, "499500\n"), result
