"""What holds for containers alone: none is left, and the engine's absence is told with its cure."""

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.code_executor.sandbox import NoSandbox, Outcome, Program, Sandbox, choose
from modules.code_executor.sandbox._leases import DEADLINE_LABEL, LABEL, PLACE_LABEL
from modules.code_executor.sandbox._reports import Reports
from modules.code_executor.sandbox.docker import DockerSandbox

from .conftest import until
from .engine import Engine

OpenSandbox = Callable[..., Awaitable[Sandbox]]


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Containers take their time; what depends on the backend is tested elsewhere."""
    return request.param


def containers(engine: Engine) -> list[Any]:
    return list(engine.api.containers(all=True, filters={"label": LABEL}))


@pytest.mark.docker
async def test_no_container_is_left_when_the_sandbox_closes(engine: Engine) -> None:
    async with DockerSandbox(image=engine.image, spare=2) as sandbox:
        await sandbox.run(Program("python", "pass"))
        await until(lambda: len(containers(engine)) == 2, "two spare containers are started")
    assert containers(engine) == []


@pytest.mark.docker
async def test_no_container_is_left_whenever_a_run_is_cancelled(engine: Engine, open_sandbox: OpenSandbox) -> None:
    sandbox = await open_sandbox("docker", spare=0)
    await sandbox.probe()
    for step in range(12):
        with anyio.move_on_after(step * 0.04):
            await sandbox.run(Program("python", "import time; time.sleep(60)"))
        assert containers(engine) == []


@pytest.mark.docker
async def test_containers_that_a_killed_executor_has_left_are_swept_away_at_the_next_start(engine: Engine) -> None:
    code = f"""
import anyio
from modules.code_executor.sandbox import Program
from modules.code_executor.sandbox.docker import DockerSandbox
async def main():
    async with DockerSandbox(image={engine.image!r}, spare=1) as sandbox:
        source = "import time; print('on', flush=True); time.sleep(60)"
        await sandbox.run(Program("python", source), on_output=lambda *_: print("on", flush=True))
anyio.run(main)
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root
    ) as executor:
        assert executor.stdout is not None
        assert executor.stdout.readline() == b"on\n"
        executor.kill()
    assert containers(engine)
    async with DockerSandbox(image=engine.image, spare=0) as sandbox:
        await sandbox.probe()
        assert containers(engine) == []


@pytest.mark.docker
async def test_the_containers_of_a_living_executor_are_not_swept_away(engine: Engine) -> None:
    async with DockerSandbox(image=engine.image, spare=1) as first:
        await first.probe()
        await until(lambda: containers(engine), "the spare container is started")
        async with DockerSandbox(image=engine.image, spare=0) as second:
            await second.probe()
            assert len(containers(engine)) == 1


@pytest.mark.docker
async def test_containers_of_an_executor_elsewhere_are_swept_away_at_their_deadline(engine: Engine) -> None:
    made: list[str] = []
    for deadline in (time.time() - 1, time.time() + 3600):
        container = engine.api.create_container(
            engine.image,
            ["python3", "-c", "import time; time.sleep(600)"],
            labels={LABEL: "1", PLACE_LABEL: "elsewhere", DEADLINE_LABEL: str(int(deadline))},
            host_config=engine.api.create_host_config(network_mode="none"),
        )
        engine.api.start(container["Id"])
        made.append(container["Id"])
    try:
        async with DockerSandbox(image=engine.image, spare=0) as sandbox:
            await sandbox.probe()
        assert [container["Id"] for container in containers(engine)] == made[1:]
    finally:
        engine.api.remove_container(made[1], force=True)


@pytest.mark.docker
async def test_a_spare_container_that_somebody_has_killed_is_not_used(engine: Engine) -> None:
    async with DockerSandbox(image=engine.image, spare=1) as sandbox:
        await sandbox.probe()
        await until(lambda: containers(engine), "the spare container is started")
        await until(lambda: containers(engine)[0]["State"] == "running", "it runs")
        engine.api.kill(containers(engine)[0]["Id"])
        await until(lambda: containers(engine)[0]["State"] == "exited", "it is dead")
        result = await sandbox.run(Program("python", "print(1)"))
        assert (result.outcome, result.stdout) == (Outcome.FINISHED, "1\n")


@pytest.mark.docker
async def test_a_missing_image_is_told_with_the_command_that_builds_it(engine: Engine) -> None:
    async with DockerSandbox(image="fissile-no-such-image") as sandbox:
        with pytest.raises(NoSandbox, match="docker build -t fissile-no-such-image"):
            await sandbox.run(Program("python", "pass"))


@pytest.mark.docker
async def test_where_an_engine_has_the_image_it_is_chosen_and_else_the_local_sandbox(engine: Engine) -> None:
    async with choose("auto", image=engine.image) as sandbox:
        assert (await sandbox.run(Program("python", "pass"))).level == "docker"
        assert sandbox.level == "docker"
    async with choose("auto", image="fissile-no-such-image") as sandbox:
        assert (await sandbox.run(Program("python", "pass"))).level in ("bubblewrap", "unshare")


async def test_an_engine_that_does_not_answer_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    async with choose("docker") as sandbox:
        with pytest.raises(NoSandbox, match=r"No Docker engine answers: .*set DOCKER_HOST"):
            await sandbox.run(Program("python", "pass"))


@given(
    parts=st.lists(st.tuples(st.binary(max_size=20), st.sampled_from(["start 0", "end 0 256", "memory"])), max_size=4),
    tail=st.binary(max_size=20),
    cuts=st.lists(st.integers(min_value=1, max_value=30), max_size=30),
)
def test_reports_are_found_and_taken_out_however_the_stream_is_cut(
    parts: list[tuple[bytes, str]], tail: bytes, cuts: list[int]
) -> None:
    mark = b"0123456789abcdef"
    stream = b"".join(own + b"\0" + mark + report.encode() + b"\n" for own, report in parts) + tail
    reports = Reports(mark)
    own, found = b"", []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        for piece, report in reports.split(stream[:size]):
            own += piece
            found += [report] if report else []
        stream = stream[size:]
    assert own + reports.rest() == b"".join(piece for piece, _ in parts) + tail
    assert found == [report for _, report in parts]
