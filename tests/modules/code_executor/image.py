"""A Docker image out of this machine's own packages: no registry is asked. Cached outside of the repository."""

import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from modules.code_executor.sandbox.languages import LANGUAGES

PACKAGES = {
    "python": ("python3",),
    "bash": ("bash", "coreutils", "bsdutils", "util-linux", "bsdextrautils"),
    "javascript": ("nodejs",),
    "c": ("gcc", "libc6-dev"),
    "cpp": ("g++",),
    "ruby": ("ruby",),
    "typescript": ("node-typescript",),
    "rust": ("rustc",),
    "go": ("golang-go",),
    "java": ("default-jdk-headless", "java-sdk-headless"),
}
"""What brings each language on Debian. What it depends on, as far as it is installed, comes along."""
SMALL = ("python", "bash", "javascript", "c", "cpp", "ruby")
"""The others have hundreds of megabytes each, which take their time: they are in the image where they are required by name."""
LINKED_FOLDERS = ("bin", "sbin", "lib", "lib64")
_LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|locale|ri|fonts|bash-completion)/|/var/|/etc/(init.d|cron|pam.d|default)|.*/(lib[a-z]+san\.|lto1$|lto-dump)"
)


class NoImage(Exception):
    """Raised when no image can be made of this machine; the text tells why."""


def required() -> set[str]:
    """The names in `FISSILE_REQUIRE`: what is missing of these is a failure."""
    return set(os.environ.get("FISSILE_REQUIRE", "").replace(",", " ").split())


def required_languages() -> set[str]:
    """Those that `FISSILE_REQUIRE` names, by their ids or by a tool, such as `g++`; `languages` means all."""
    names = required()
    return {
        name
        for name, language in LANGUAGES.items()
        if "languages" in names or name in names or names & set(language.tools[:1])
    }


def languages_of_image() -> tuple[str, ...]:
    """The languages that the image is to have, as far as this machine has them."""
    return tuple(sorted({*SMALL, *required_languages()}))


def cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fissile"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image_tar(languages: Iterable[str]) -> Path:
    """The image as a tar file, made if it is not there.

    Raises:
        NoImage: This machine does not know its packages.
    """
    packages = _packages([package for language in languages for package in PACKAGES[language]])
    state = repr((sorted(packages.items()), sorted(map(str, _links()))))
    target = cache_folder() / f"sandbox-image-{hashlib.sha256(state.encode()).hexdigest()[:12]}.tar"
    if target.exists():
        return target
    part = target.with_suffix(f".{os.getpid()}")
    try:
        with tarfile.open(part, "w", dereference=False) as tar:
            for name in LINKED_FOLDERS:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                tar.addfile(link)
            for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("proc", 0o555), ("dev", 0o755), ("sys", 0o555)):
                folder = tarfile.TarInfo(name)
                folder.type, folder.mode = tarfile.DIRTYPE, mode
                tar.addfile(folder)
            for path in sorted({*_files(packages), *_links()}):
                tar.add(path, str(path).removeprefix("/"), recursive=False)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _files(packages: Iterable[str]) -> Iterator[Path]:
    """Every file and link of packages, each under the path that it really has below /usr and /etc."""
    folders: dict[str, Path] = {}
    for line in set(_output("dpkg-query", "-L", *packages).splitlines()):
        if not line or _LEFT_OUT.match(line) or not (Path(line).is_symlink() or Path(line).is_file()):
            continue
        folder, _, name = line.rpartition("/")
        if not folder:  # one of the linked folders, which some packages list
            continue
        if folder not in folders:
            folders[folder] = Path(folder).resolve()
        yield folders[folder] / name
    for real in folders.values():  # compiled when they were installed, and so not on any list
        yield from real.glob("__pycache__/*.pyc")


def _links() -> Iterator[Path]:
    """What is on no package's list: which of several tools a name means, and where libraries are."""
    yield Path("/etc/ld.so.cache")
    for path in Path("/usr/bin").iterdir():
        if path.is_symlink() and str(path.readlink()).startswith("/etc/alternatives/"):
            yield path
            yield path.readlink()


def _packages(names: Iterable[str]) -> dict[str, str]:
    """Packages that are installed, with all that they depend on, and their versions."""
    try:
        listed = _output(
            "dpkg-query",
            "-W",
            "-f",
            "${db:Status-Abbrev}|${binary:Package}|${Version}|${Provides}|${Pre-Depends}, ${Depends}\n",
        )
    except OSError as error:
        raise NoImage(
            "this is no Debian, of whose packages an image could be made; name one with FISSILE_TEST_IMAGE"
        ) from error
    by_name: dict[str, tuple[str, str, list[str]]] = {}
    for line in listed.splitlines():
        status, package, version, provides, depends = line.split("|", 4)
        if status.startswith("ii"):
            entry = (package, version, _names(depends))
            for name in (*_names(provides), package.partition(":")[0]):
                by_name.setdefault(name, entry)
    found: dict[str, str] = {}
    to_do = list(names)
    while to_do:
        package, version, depends_on = by_name.get(to_do.pop(), ("", "", []))
        if package and package not in found:
            found[package] = version
            to_do += depends_on
    return found


def _names(relation: str) -> list[str]:
    """The names of packages in a field like `libc6 (>= 2.36), awk | mawk`."""
    return [
        name.strip().partition(":")[0] for name in re.split("[,|]", re.sub(r"\([^)]*\)", "", relation)) if name.strip()
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
