"""A Docker image out of this machine's own tools: no registry is asked. Cached outside of the repository."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TOOLS = ("python3", "python3.11", "bash", "sh", "cat", "rev", "node", "gcc", "as", "ld")
LINKED_FOLDERS = ("bin", "sbin", "lib", "lib64")


def cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fissile"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image_tar() -> Path:
    """The image as a tar file, made if it is not there."""
    wanted = sorted(set(_files()))
    state = "\n".join(f"{path} {path.lstat().st_size}" for path in wanted)
    target = cache_folder() / f"sandbox-image-{hashlib.sha256(state.encode()).hexdigest()[:12]}.tar"
    if target.exists():
        return target
    part = target.with_suffix(f".{os.getpid()}")
    with tarfile.open(part, "w", dereference=False) as tar:
        for name in LINKED_FOLDERS:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("proc", 0o555), ("dev", 0o755), ("sys", 0o555)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        for path in wanted:
            tar.add(path, str(path).removeprefix("/"), recursive=False)
    part.rename(target)
    return target


def _files() -> Iterator[Path]:
    """Every file and link of the image, each under the path that it really has below /usr."""
    programs = [Path(found) for tool in TOOLS if (found := shutil.which(tool, path="/usr/bin:/bin"))]
    modules = Path("/usr/lib/python3.11")
    programs += [path for path in modules.rglob("*") if path.is_file() and "test" not in path.parts]
    if gcc := shutil.which("gcc", path="/usr/bin"):
        named = (_output(gcc, f"-print-prog-name={name}") for name in ("cc1", "collect2", "as", "ld"))
        programs += [Path(name) for name in named if Path(name).is_absolute()]
        own = Path(_output(gcc, "-print-libgcc-file-name")).parent
        programs += [
            path for path in own.rglob("*") if path.suffix in (".o", ".h", ".so") or path.name.startswith("libgcc")
        ]
        programs += [path for path in Path("/usr/include").rglob("*.h") if "c++" not in path.parts]
        for pattern in ("*crt*.o", "libc.so*", "libc_nonshared.a", "libm.so*", "libmvec.so*", "libm-*.a", "libgcc_s*"):
            programs += Path("/usr/lib").glob(f"*-linux-gnu/{pattern}")
    for path in programs:
        yield from _chain(path)
    binaries = [path for path in programs if (path.is_file() and path.suffix in ("", ".11")) or ".so" in path.name]
    for library in _libraries(binaries):
        yield from _chain(library)


def _chain(path: Path) -> Iterator[Path]:
    """A path and what it links to, with the links among the folders above resolved."""
    for _ in range(10):
        real = path.parent.resolve() / path.name
        yield real
        if not real.is_symlink():
            return
        path = real.parent / real.readlink()


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    words = (word for line in listed.splitlines() if not line.endswith(":") for word in line.split())
    return {Path(word) for word in words if word.startswith("/")}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
