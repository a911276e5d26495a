"""The application of this repository as a user runs it: one process, the real gateway, the real sandbox."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx
import pytest

from tests.cli.example import PATIENCE_S, Running, port_of, running

ROOT = Path(__file__).parents[2]
BACKENDS = ["asyncio", "trio"]


@pytest.fixture(params=BACKENDS)
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """The running application, on a log of its own, and its URL."""
    arguments = ("run", "--port", "0", "--backend", request.param)
    settings = {
        "FISSILE_CODE_EXECUTOR_SANDBOX": "local",
        "FISSILE_BUS": f"sqlite:///{tmp_path}/log.sqlite3",
        "FISSILE_DATABASE": f"sqlite:///{tmp_path}",
        "FISSILE_DATABASE_MIGRATE": "true",
        "FISSILE_TRUSTED_PROXIES": "127.0.0.1",  # so that a test may come from several addresses
    }
    with running(*arguments, cwd=ROOT, **settings) as run:
        yield run, f"http://127.0.0.1:{port_of(run.wait_for('ready'))}"


def client() -> httpx.Client:
    return httpx.Client(timeout=PATIENCE_S, trust_env=False)


def program(url: str, source: str, command: str = "run-code") -> httpx.Response:
    with client() as http:
        return http.post(f"{url}/api/code-executor/{command}", json={"language": "python", "source": source})


def state(http: httpx.Client, api: str, run_id: str) -> dict[str, object]:
    summary: dict[str, object] = http.get(f"{api}/get-run", params={"run_id": run_id}).json()["summary"]
    return summary


def runs_now(http: httpx.Client, url: str) -> int:
    """Return how many commands the executor has in hand."""
    name = 'fissile_handlers_running{kind="command",module="code-executor"} '
    line = next(line for line in http.get(f"{url}/metrics").text.splitlines() if line.startswith(name))
    return int(float(line.removeprefix(name)))


def events_of(stream: httpx.Response) -> Iterator[tuple[str, dict[str, object]]]:
    """Read the names and the contents of events, until the stream ends."""
    name = ""
    for line in stream.iter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.removeprefix("data:"))


def test_the_curl_of_the_readme_answers(started: tuple[Running, str]) -> None:
    _, url = started
    response = program(url, "print(6*7)")
    assert response.status_code == 200
    report = response.json()
    assert list(report)[:6] == ["run_id", "outcome", "exit_code", "stdout", "stderr", "duration_ms"]
    assert (report["outcome"], report["exit_code"], report["stdout"], report["stderr"]) == ("finished", 0, "42\n", "")


def test_sigterm_lets_requests_in_flight_finish_and_loses_none(started: tuple[Running, str]) -> None:
    run, url = started
    with client() as http, ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(program, url, f"import time; time.sleep(1); print({n})") for n in range(6)]

        run.wait_until(lambda: runs_now(http, url) == 6, "six runs")
        run.signal(signal.SIGTERM)
        assert [answer.result().json()["stdout"] for answer in answers] == [f"{n}\n" for n in range(6)]
    assert run.wait_exit() == 0


def test_a_started_run_streams_its_output_and_an_open_stream_does_not_hold_up_the_stop(
    started: tuple[Running, str],
) -> None:
    run, url = started
    with client() as http, http.stream("GET", f"{url}/runs/-/events") as other:
        first = next(line for line in other.iter_lines() if line.startswith("id:"))
        accepted = program(url, "print('one'); print('two')", "start-run").json()
        where = {"last-event-id": first.removeprefix("id:").strip()}
        with http.stream("GET", f"{url}/runs/{accepted['run_id']}/events", headers=where) as stream:
            events = list(events_of(stream))
        assert [name for name, _ in events][-2:] == ["run-finished", "end"]
        assert all(event["run_id"] == accepted["run_id"] for _, event in events[:-1])
        assert "".join(str(event["text"]) for name, event in events if name == "run-output") == "one\ntwo\n"
        began = monotonic()
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
        # Half of what the drain may take: a stream that held it up would take it all.
        assert monotonic() - began < 5.0
        assert not [line for line in run.lines if "took longer" in line]


def test_whoever_starts_many_programs_without_signing_in_leaves_room_for_others_and_can_stop_them(
    started: tuple[Running, str],
) -> None:
    run, url = started
    api = f"{url}/api/code-executor"
    answers = [program(url, "import time; time.sleep(30)", "start-run") for _ in range(40)]
    with client() as greedy, client() as other:
        other.headers["x-forwarded-for"] = "192.0.2.7"
        begun = [answer.json()["run_id"] for answer in answers if answer.status_code == 200]
        assert {answer.status_code for answer in answers} == {200, 429}
        answer = other.post(f"{api}/start-run", json={"language": "python", "source": "print(1)"})
        assert answer.status_code == 200, answer.text
        run_id = answer.json()["run_id"]
        for each in begun:
            assert greedy.post(f"{api}/cancel-run", json={"run_id": each}).status_code == 204
        run.wait_until(lambda: state(other, api, run_id)["state"] == "done", "the run of somebody else")
        for each in begun:
            run.wait_until(lambda: state(greedy, api, each)["outcome"] is not None, "the end of a run")  # noqa: B023
            assert state(greedy, api, each)["outcome"] in ("cancelled", "timeout")  # on a slow machine
        assert greedy.post(f"{api}/cancel-run", json={"run_id": "nobody-has-this"}).status_code == 404


def test_nobody_sees_the_hidden_cases_that_a_submission_is_judged_by(started: tuple[Running, str]) -> None:
    _, url = started
    api, spy = f"{url}/api", "import sys; print(sys.stdin.read())"
    with client() as http:
        who = {"name": "bob", "password": "correct horse battery staple 7"}
        http.post(f"{api}/accounts/sign-up", json=who).raise_for_status()
        session = http.post(f"{api}/accounts/sign-in", json=who).json()
        bob = {"authorization": f"Bearer {session['access_token']}"}
        solution = {"challenge": "sum-of-two", "language": "python", "source": spy}
        submitted = http.post(f"{api}/submissions/submit-solution", json=solution, headers=bob).json()
        with http.stream("GET", f"{url}/submissions/{submitted}/events", headers=bob) as progress:
            judged = [event for name, event in events_of(progress) if name == "case-judged"]
        assert judged

        assert http.get(f"{api}/code-executor/list-runs").status_code == 404
        assert http.get(f"{api}/code-executor/topics/runs").status_code == 404
        case = {"language": "python", "source": spy, "stdin": "1 2"}
        assert http.post(f"{api}/code-executor/run-case", json=case).status_code == 404
        own = program(url, "print('own')").json()
        assert http.get(f"{api}/code-executor/get-run", params={"run_id": own["run_id"]}).json()["report"] == own


def test_a_client_that_goes_away_stops_its_program(started: tuple[Running, str]) -> None:
    run, url = started
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"language": "python", "source": "import time; time.sleep(60)"})
    head = f"POST /api/code-executor/run-code HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall((head + body).encode())
    with client() as http:
        run.wait_until(lambda: runs_now(http, url) == 1, "the run")
        connection.close()
        run.wait_until(lambda: runs_now(http, url) == 0, "the end of the run")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_taken_port_is_one_clear_line(backend: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running("dev", "--no-reload", "--port", str(port), "--backend", backend, cwd=ROOT) as run:
            assert run.wait_exit() != 0
        told = [line for line in run.lines if str(port) in line]
        assert len(told) == 1, run.text
        assert "FISSILE_PORT" in told[0]
        assert "Traceback" not in run.text
