"""The compose files: what is committed is what would be generated, and it says what containers need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fissile._application import Application
from fissile._compose import compose
from fissile._errors import StartupFailed
from tests.brokers import apache
from tests.cli.example import fissile, write_application
from tests.deploy.engine import ROOT, compose_command, skip_or_fail
from tests.deploy.images import pinned

PLACEMENT = """
[tool.fissile]
name = "shop"
modules = ["modules.orders", "modules.billing"]

[tool.fissile.placements.split]
front = ["gateway", "orders"]
back = ["billing"]
"""
OVERRIDE = "FISSILE_PLACEMENT=split\nFISSILE_BUS=kafka://kafka:9092\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The example application, split."""
    changes = {
        "pyproject.toml": PLACEMENT,
        ".docker/.override.env": OVERRIDE,
        "modules/billing/pyproject.toml": BILLING,
    }
    return write_application(tmp_path / "shop", changes)


BILLING = '[project]\nname = "shop-billing"\nversion = "0"\n'


def service(text: str, name: str) -> str:
    """The lines of one service."""
    found = re.search(rf"^  {name}:\n((?:    .*\n)+)", text, re.MULTILINE)
    assert found is not None
    return found[1]


def generated(folder: Path) -> str:
    done = fissile("export", "compose", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the committed files ---------------------------------------------------------------------------------------------


def test_the_committed_compose_file_is_what_would_be_generated() -> None:
    assert (ROOT / "docker-compose.yml").read_text() == compose(Application.find(ROOT)), (
        "It is stale: fissile export compose -o docker-compose.yml"
    )


def test_every_process_of_the_placement_is_a_service() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert "command: [fissile, run, gateway]" in service(text, "gateway")
    assert "--package module-code-executor" in service(text, "executor")
    assert "--extra gateway" in service(text, "gateway")
    assert "--extra gateway" not in service(text, "executor")


def test_only_the_executor_may_make_namespaces_and_nobody_may_use_an_engine() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert "seccomp" in service(text, "executor")
    assert "seccomp" not in text.replace(service(text, "executor"), "")
    for forbidden in ("docker.sock", "privileged", "cap_add", "unconfined-"):
        assert forbidden not in text


def test_what_the_tests_call_kafka_is_what_compose_starts() -> None:
    assert pinned("kafka") == f"apache/kafka:{apache.VERSION}"


def test_every_image_is_pinned_to_a_version() -> None:
    text = (ROOT / "docker-compose.services.yml").read_text() + (ROOT / ".docker/module.Dockerfile").read_text()
    images = re.findall(r"image: (\S+)", text) + [
        one for one in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if ":" in one
    ]
    assert len(images) >= 5
    assert all(re.search(r":\d+", image) for image in images), images


@pytest.mark.parametrize("profile", [(), ("--profile", "zookeeper")], ids=["usual", "zookeeper"])
def test_compose_understands_both_files_together(profile: tuple[str, ...]) -> None:
    command = compose_command()
    if command is None:
        skip_or_fail("compose is not installed: neither `docker-compose` nor the plugin of docker")
        return
    files = ("-f", "docker-compose.services.yml", "-f", "docker-compose.yml")
    config = [*command, *files, *profile, "config", "--services"]
    keyless = {name: value for name, value in os.environ.items() if name != "FISSILE_IDENTITY_KEYS"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(config, cwd=ROOT, env=keyless | more, capture_output=True, text=True, check=False)

    refused = run()
    assert refused.returncode != 0
    assert "set it to a secret; see docs/identity.md" in refused.stderr
    done = run(FISSILE_IDENTITY_KEYS="x" * 32)
    assert done.returncode == 0, done.stderr
    names = {"kafka", "postgres", "gateway", "executor", "core"} | (
        {"zookeeper", "kafka-zookeeper"} if profile else set()
    )
    assert names <= set(done.stdout.split())


def test_the_profile_of_system_calls_is_json_and_refuses_what_reaches_the_kernel() -> None:
    profile: dict[str, Any] = json.loads((ROOT / ".docker/executor.seccomp.json").read_text())
    refused = {name for entry in profile["syscalls"] for name in entry["names"]}
    assert {"bpf", "init_module", "kexec_load", "ptrace", "keyctl", "io_uring_setup", "setns"} <= refused
    assert not {"unshare", "clone", "mount", "pivot_root", "umount2", "mount_setattr", "seccomp"} & refused


# --- what is generated -----------------------------------------------------------------------------------------------


def test_settings_of_containers_come_from_env_and_then_from_the_override(shop: Path) -> None:
    assert "env_file: [.env, .docker/.override.env]" in generated(shop)


def test_a_process_installs_its_modules_packages_and_no_others(shop: Path) -> None:
    text = generated(shop)
    assert "--package shop-billing" in service(text, "back")
    assert "shop-billing" not in service(text, "front")


def test_only_the_process_with_the_gateway_publishes_a_port_and_to_this_machine_only(shop: Path) -> None:
    (shop / ".docker/.override.env").write_text(OVERRIDE + "FISSILE_PORT=9000\n")
    text = generated(shop)
    assert 'ports: ["${GATEWAY_ADDRESS:-127.0.0.1}:${FISSILE_PORT:-8000}:9000"]' in service(text, "front")
    assert "ports:" not in service(text, "back")


def test_containers_are_given_longer_than_the_drain_takes(shop: Path) -> None:
    (shop / ".env").write_text("FISSILE_DRAIN_S=42.5\n")
    assert "stop_grace_period: 48s" in generated(shop)


def test_a_developers_own_settings_change_nothing(shop: Path) -> None:
    expected = generated(shop)
    (shop / ".env.local").write_text("FISSILE_DRAIN_S=1\nFISSILE_PORT=1234\nFISSILE_PLACEMENT=monolith\n")
    done = fissile(
        "export", "compose", cwd=shop, FISSILE_PORT="4321", FISSILE_DRAIN_S="2", FISSILE_PLACEMENT="monolith"
    )
    assert done.stdout == expected


def test_what_a_process_needs_of_its_container_is_merged_into_its_service(shop: Path) -> None:
    (shop / ".docker/services.toml").write_text(
        '[back]\nmem_limit = "1g"\n[back.build.args]\nDEBIAN_PACKAGES = "ghostscript"\n[back.environment]\nLEVEL = "on"\n'
    )
    text = generated(shop)
    assert "mem_limit: 1g" in service(text, "back") or 'mem_limit: "1g"' in service(text, "back")
    assert "SYNC:" in service(text, "back")
    assert "DEBIAN_PACKAGES: ghostscript" in service(text, "back")
    assert 'LEVEL: "on"' in service(text, "back"), "a word that YAML would read as true"
    assert "ghostscript" not in service(text, "front")


def test_where_modules_have_their_tables_in_postgresql_processes_wait_for_it(shop: Path) -> None:
    assert "postgres:" not in generated(shop)
    with (shop / ".docker/.override.env").open("a") as override:
        override.write("\nFISSILE_DATABASE=postgresql://shop:shop@postgres/shop\n")
    text = generated(shop)
    assert "    postgres:\n      condition: service_healthy\n" in text
    assert "shop:shop" not in text, "passwords stay in the environment"


def test_a_table_for_a_process_that_is_not_there_is_a_fault(shop: Path) -> None:
    (shop / ".docker/services.toml").write_text('[bakc]\nmem_limit = "1g"\n')
    done = fissile("export", "compose", cwd=shop)
    assert done.returncode == 3
    assert "There is no process 'bakc'" in done.stderr


def test_without_the_override_the_cure_is_told(shop: Path) -> None:
    (shop / ".docker/.override.env").unlink()
    with pytest.raises(StartupFailed) as failed:
        compose(Application.find(shop))
    assert "FISSILE_PLACEMENT" in failed.value.faults[0].cure


def test_check_exits_with_10_while_the_file_is_stale_or_missing(shop: Path) -> None:
    missing = fissile("export", "compose", "--check", cwd=shop)
    assert (missing.returncode, "does not exist" in missing.stderr) == (10, True)
    assert fissile("export", "compose", "-o", "docker-compose.yml", cwd=shop).returncode == 0
    assert fissile("export", "compose", "--check", cwd=shop).returncode == 0
    with (shop / "docker-compose.yml").open("a") as file:
        file.write("# by hand\n")
    stale = fissile("export", "compose", "--check", cwd=shop)
    assert stale.returncode == 10
    assert "is stale" in stale.stderr
    assert "fissile export compose -o docker-compose.yml" in stale.stderr


def test_the_example_can_be_understood_by_compose(shop: Path) -> None:
    command = compose_command()
    if command is None:
        skip_or_fail("compose is not installed: neither `docker-compose` nor the plugin of docker")
        return
    shutil.copy(ROOT / "docker-compose.services.yml", shop)
    (shop / ".env").touch()
    (shop / "docker-compose.yml").write_text(generated(shop))
    files = ("-f", "docker-compose.services.yml", "-f", "docker-compose.yml")
    done = subprocess.run([*command, *files, "config"], cwd=shop, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
