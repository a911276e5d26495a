"""API keys: known by their hashes, taken up from the file while the gateway runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fissile import StartupFailed
from fissile._api_keys import new_key
from tests.gateway.auth.issuer import Desk, desk


def entry(key_id: str = "ci", **more: Any) -> tuple[str, dict[str, Any]]:
    """A key, and its entry in the file."""
    key, sha256 = new_key(key_id)
    return key, {"id": key_id, "sha256": sha256, "scopes": ["orders:read"], **more}


def write(file: Path, *entries: dict[str, Any]) -> str:
    file.write_text(json.dumps({"key": entries}))
    return str(file)


async def ask(here: Desk, key: str, path: str = "/api/orders/list-orders") -> Any:
    return await here.client.get(path, headers={"x-api-key": key})


async def test_who_has_a_key_is_who_the_file_says(tmp_path: Path) -> None:
    key, ci = entry(subject="pipeline", tenant="acme")
    other, second = entry("other")
    async with desk(api_keys_file=write(tmp_path / "keys.json", ci, second)) as here:
        answer = await ask(here, key)
        assert answer.json() == {"subject": "pipeline", "kind": "api-key", "scopes": ["orders:read"], "tenant": "acme"}
        assert (await ask(here, other)).json()["subject"] == "other"
        assert (await here.get(credential=key)).json()["subject"] == "pipeline"  # as a bearer too


async def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    key, ci = entry()
    stranger, _ = new_key("ci")
    unknown, _ = new_key("nobody")
    async with desk(api_keys_file=write(tmp_path / "keys.json", ci)) as here:
        for wrong in (
            stranger,
            unknown,
            key[:-1],
            key + "x",
            key.upper(),
            "fsl_ci_",
            "x",
            ci["sha256"],
            f"fsl_ci_{ci['sha256']}",
        ):
            answer = await ask(here, wrong, "/api/orders/who-am-i")
            assert (answer.status_code, answer.json()["type"]) == (401, "/problems/invalid-credential"), wrong
        assert here.handled("orders.who-am-i") == 0


async def test_a_key_ends_when_the_file_says(tmp_path: Path) -> None:
    key, ci = entry(expires="2026-01-01T00:10:00Z")
    async with desk(api_keys_file=write(tmp_path / "keys.json", ci)) as here:
        assert (await ask(here, key)).status_code == 200
        here.clock.advance(601)
        assert (await ask(here, key)).status_code == 401


async def test_a_file_that_has_changed_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    key, ci = entry()
    new, second = entry("new")
    file = tmp_path / "keys.json"
    async with desk(api_keys_file=write(file, ci)) as here:
        assert [(await ask(here, each)).status_code for each in (key, new)] == [200, 401]
        file.write_text("{")
        _touch(file, 1)
        here.clock.advance(6)
        assert (await ask(here, key)).status_code == 200
        write(file, second)
        _touch(file, 2)
        here.clock.advance(6)
        assert [(await ask(here, each)).status_code for each in (key, new)] == [401, 200]


def _touch(file: Path, step: int) -> None:
    """Give a file another time than before, however coarse the clock of its system is."""
    os.utime(file, (step, step))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[key]]\nid = 'a'", "missing required field `sha256`"),
        ("[[key]]\nid = 'a'\nsha256 = 'plain'", "is not 64 hexadecimal digits"),
        (f"[[key]]\nid = 'a_b'\nsha256 = '{'0' * 64}'", "is no id"),
        (f"[[key]]\nid = 'a'\nsha256 = '{'0' * 64}'\nsecret = 'x'", "unknown field `secret`"),
        (f"[[key]]\nid = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['a b']", "is no scope"),
        (f"[[key]]\nid = 'a'\nsha256 = '{'0' * 64}'\nexpires = 2026-01-01T00:00:00", "no time zone"),
        (2 * f"[[key]]\nid = 'a'\nsha256 = '{'0' * 64}'\n", "two keys are called 'a'"),
        ("[[key", "cannot be read"),
    ],
)
async def test_a_file_that_makes_no_sense_ends_the_start(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(StartupFailed, match=problem):
        async with desk(api_keys_file=str(tmp_path / "keys.toml")):
            pass


async def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupFailed, match=r"The API keys in .* cannot be read"):
        async with desk(api_keys_file=str(tmp_path / "keys.toml")):
            pass


async def test_the_command_line_makes_keys_that_the_gateway_takes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fissile", "api-key", "new", "ci", "--scopes", "orders:read,b", "--tenant", 'a"c']
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)  # noqa: ASYNC221
    key, _, lines = done.stdout.partition("\n")
    assert key not in lines
    (tmp_path / "keys.toml").write_text(lines)
    async with desk(api_keys_file=str(tmp_path / "keys.toml")) as here:
        answer = (await ask(here, key)).json()
        assert (answer["subject"], sorted(answer["scopes"]), answer["tenant"]) == ("ci", ["b", "orders:read"], 'a"c')
    wrong = subprocess.run([*command[:-5], "c i"], capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert (wrong.returncode, "is no id" in wrong.stderr) == (2, True)
