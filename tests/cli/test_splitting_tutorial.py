"""The commands of docs/splitting.md, as they stand there, on the application of this repository."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.cli.example import PATIENCE_S, Running, fissile, port_of, running
from tests.cli.test_broker_commands import first_lines

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "splitting.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", TUTORIAL, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("$ ")
]


def printed_after(command: str) -> list[re.Pattern[str]]:
    """What the tutorial shows of a command's output, line by line; numbers, ids and what is left out may be others."""
    shown = TUTORIAL.split(f"$ {command}\n", 1)[1].split("```", 1)[0].split("\n$ ", 1)[0]
    return [_pattern(line) for line in shown.splitlines() if line.strip() not in ("", "…")]


def _pattern(line: str) -> re.Pattern[str]:
    kinds = {r"[0-9a-f]{4}…": '[^"\\s]+', "…": ".*", r"[0-9]+": "[0-9]+", r"\s+": "\\s+"}
    found = re.split(rf"({'|'.join(kinds)})", line.strip())
    return re.compile(
        "".join(
            next((other for kind, other in kinds.items() if re.fullmatch(kind, part)), re.escape(part))
            for part in found
        )
    )


def missing(patterns: list[re.Pattern[str]], text: str) -> list[str]:
    """The lines of the tutorial that a text lacks."""
    return [pattern.pattern for pattern in patterns if not pattern.search(text)]


def curl(port: int) -> str:
    """Run the tutorial's curl against a port; return what it prints."""
    (command,) = [each for each in COMMANDS if each.startswith("curl ")]
    arguments = shlex.split(command.replace("localhost:8000", f"127.0.0.1:{port}"))
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


def test_the_commands_are_those_that_the_tests_below_run() -> None:
    kinds = [" ".join(shlex.split(command)[:2]) for command in COMMANDS]
    assert kinds[:3] == ["make run", "curl -s", "make split"]
    assert kinds[3:6] == ["fissile run"] * 3
    assert kinds[6:] == [
        "export FISSILE_BUS=kafka://127.0.0.1:40951",
        *(f"fissile {name}" for name in ("plan", "topics", "check", "call", "call", "ps", "lag", "tail")),
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(BIN)/fissile dev --split" in makefile


def test_split_it_answers_and_can_be_looked_at(embedded_kafka: str, tmp_path: Path) -> None:
    database = {"FISSILE_DATABASE": f"sqlite:///{tmp_path}"}
    with running("dev", "--split", "--port", "0", cwd=ROOT, **database) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        assert '"stdout":"42\\n"' in curl(port)
        assert missing(printed_after("make split"), dev.text) == []
        settings = {"FISSILE_BUS": bus_of(dev), "FISSILE_PLACEMENT": "split"}
        for command in COMMANDS[7:]:
            arguments = shlex.split(command)[1:]
            if arguments[0] == "tail":
                (line,) = first_lines(1, *arguments, cwd=ROOT, **settings)
                assert missing(printed_after(command), line) == []
            else:
                done = fissile(*arguments, cwd=ROOT, **settings)
                assert done.returncode == 0, done.stderr
                assert missing(printed_after(command), done.stdout + done.stderr) == []
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


def test_each_process_runs_by_itself_as_in_production(embedded_kafka: str, tmp_path: Path) -> None:
    settings = {
        "FISSILE_BUS": f"kafka://{embedded_kafka}",
        "FISSILE_KAFKA_PREFIX": "test-tutorial.",
        "FISSILE_PORT": "0",
        "FISSILE_DATABASE": f"sqlite:///{tmp_path}",
        "FISSILE_IDENTITY_KEYS": "for-the-test-of-the-tutorial-32-or-more",
    }
    assert fissile("migrate", cwd=ROOT, **settings).returncode == 0
    processes = [shlex.split(each)[1:] for each in COMMANDS if each.startswith("fissile run")]
    with ExitStack() as stack:
        started = [stack.enter_context(running(*each, cwd=ROOT, **settings)) for each in processes]
        lines = [each.wait_for('"ready"') for each in started]
        assert '"stdout":"42\\n"' in curl(port_of(lines[0]))
        for process in started:
            process.signal(signal.SIGTERM)
            assert process.wait_exit() == 0


def bus_of(dev: Running) -> str:
    """Return the bus that the banner names."""
    found = re.search(r"kafka://127\.0\.0\.1:\d+", dev.text)
    assert found is not None
    return found[0]
