"""The challenges that come with the application: a folder each, with the statement, the cases and solutions to judge them by."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from .contract import Case, Languages, MemoryMib, Statement, Tags, TimeS, Title
from .store import Draft

FOLDER = Path(__file__).parent / "seeds"

_FILES = ("challenge.toml", "statement.md", "examples.json", "cases.json")
_decode_cases = msgspec.json.Decoder(tuple[Case, ...]).decode


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    """The file `challenge.toml`."""

    title: Title
    difficulty: int
    tags: Tags = ()
    languages: Languages = ()
    time_s: TimeS = 2.0
    memory_mib: MemoryMib = 128


def slugs(folder: Path = FOLDER) -> list[str]:
    """Return the names of all challenges."""
    return sorted(path.parent.name for path in folder.glob("*/challenge.toml"))


def digest(slug: str, folder: Path = FOLDER) -> str:
    """Return what tells one state of a challenge's files from another."""
    found = hashlib.sha256()
    for name in _FILES:
        found.update((folder / slug / name).read_bytes() + b"\x00")
    return found.hexdigest()


def load(slug: str, folder: Path = FOLDER) -> Draft:
    """Read a challenge.

    Raises:
        ValueError: A file is not what it has to be; the text names it.
    """
    place = folder / slug
    try:
        head = msgspec.convert(tomllib.loads((place / "challenge.toml").read_text("utf-8")), _Head)
        return Draft(
            slug=slug,
            title=head.title,
            difficulty=head.difficulty,
            statement=msgspec.convert((place / "statement.md").read_text("utf-8"), Statement),
            examples=_decode_cases((place / "examples.json").read_bytes()),
            cases=_decode_cases((place / "cases.json").read_bytes()),
            tags=head.tags,
            languages=head.languages,
            time_s=head.time_s,
            memory_mib=head.memory_mib,
        )
    except (OSError, ValueError) as error:  # msgspec's and tomllib's errors are ValueErrors
        raise ValueError(f"the challenge in {place} cannot be read: {error}") from error


def load_changed(known: Mapping[str, str | None], folder: Path = FOLDER) -> Iterator[tuple[Draft, str]]:
    """Read the challenges whose files are not as they were, each with its digest; mostly there are none, and nothing is parsed.

    Args:
        known: The digests of those that are known; None for one whose files no longer count.
        folder: Where the challenges are.
    """
    for slug in slugs(folder):
        before = known.get(slug, "")
        if before is not None and (now := digest(slug, folder)) != before:
            yield load(slug, folder), now
