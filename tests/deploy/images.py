"""The images that the recipes begin with, made on this machine where no registry can be asked: Debian by debootstrap, Kafka from Apache's own
artifacts, PostgreSQL from Debian's package. They bear the names that the recipes pin, and are kept by the engine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.deploy.engine import COMMAND_WITHIN_S, ROOT, Engine, NoEngine

DEBIAN = "debian:12-slim"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_RECIPE = Path(__file__).parent / "kafka"


def pinned(service: str) -> str:
    """Return the image that docker-compose.services.yml pins for a service."""
    text = (ROOT / "docker-compose.services.yml").read_text()
    found = re.search(rf"^  {service}:\n(?:(?:    .*)?\n)*?    image: (\S+)", text, re.MULTILINE)
    assert found is not None
    return found[1]


def provide(engine: Engine) -> None:
    """See to it that the engine has the images that are built upon.

    Raises:
        NoEngine: It has not, and they can be neither pulled nor made.
    """
    makers = ((DEBIAN, _make_debian), (pinned("kafka"), _make_kafka), (pinned("postgres"), _make_postgres))
    for image, make in makers:
        if engine.has_image(image):
            continue
        if engine.is_ours:
            make(engine, image)
            continue
        engine.docker("pull", "--quiet", image, check=False)
        if not engine.has_image(image):
            raise NoEngine(f"the engine has no image {image!r} and cannot pull it")


def _make_debian(engine: Engine, image: str) -> None:
    if shutil.which("debootstrap") is None:
        raise NoEngine("debootstrap is not installed, which makes the base image")
    with tempfile.TemporaryDirectory(prefix="fissile-debian-") as folder:
        root = f"{folder}/root"
        _run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
        # It trusts whom this machine trusts.
        certificates = Path(_CERTIFICATES)
        if certificates.exists():
            shutil.copy(certificates, f"{root}{_CERTIFICATES}")
        _run("sh", "-c", f"rm -rf {root}/var/cache/apt/archives/*.deb {root}/var/lib/apt/lists/*")
        _run("tar", "-C", root, "-cf", f"{folder}/root.tar", ".")
        trust = f"ENV SSL_CERT_FILE={_CERTIFICATES} PIP_CERT={_CERTIFICATES}"
        engine.docker("import", "--change", trust, "--change", 'CMD ["bash"]', f"{folder}/root.tar", image)


def _make_kafka(engine: Engine, image: str) -> None:
    if shutil.which("mvn") is None:
        raise NoEngine("Maven is not installed, which brings Kafka")
    with tempfile.TemporaryDirectory(prefix="fissile-kafka-") as folder:
        shutil.copytree(_RECIPE, folder, dirs_exist_ok=True)
        version = image.rpartition(":")[2]
        copy = ("dependency:copy-dependencies", f"-DoutputDirectory={folder}/libs")
        _run("mvn", "-q", "-B", "-f", f"{folder}/pom.xml", f"-Dkafka={version}", *copy)
        engine.docker("build", "--network", "host", "--tag", image, folder)


def _make_postgres(engine: Engine, image: str) -> None:
    engine.docker("build", "--network", "host", "--tag", image, str(Path(__file__).parent / "postgres"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_WITHIN_S)
    assert done.returncode == 0, f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}"
