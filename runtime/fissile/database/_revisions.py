"""A module's own migrations: Alembic's revisions in a folder, run without `alembic.ini` and without `env.py`."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.migration import RevisionStep
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection

from fissile._errors import Fault, StartupFailed
from fissile.database._chain import Link
from fissile.database._schema import RESERVED, Schema
from fissile.database._versions import applied_table

_one_at_a_time = RLock()
"""`alembic.op`, which revisions import, is one for the whole process."""


class Revisions:
    """The migrations of one module.

    Args:
        module: Its name.
        schema: Its declaration.
        folder: Where they are.

    Raises:
        StartupFailed: The files contradict each other.
    """

    def __init__(self, module: str, schema: Schema, folder: Path) -> None:
        self._folder = folder
        assert schema.folder is not None
        self._schema = schema
        self._module = module
        templates = Path(__file__).parent / "templates"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # two files with one number
                self._script = ScriptDirectory(
                    templates, "%(rev)s_%(slug)s", version_locations=[folder], messaging_opts={"quiet": True}
                )
                heads = self._script.get_heads()
        except (CommandError, RevisionError, UserWarning, SyntaxError, ImportError, AttributeError) as error:
            raise self._failed(f"The migrations of {module} cannot be read: {error}.", "Correct the files.") from error
        if len(heads) > 1:
            names = " and ".join(heads)
            what = f"The migrations of {module} fork: {names} follow the same one, so their order is open."
            raise self._failed(what, "Let one of them follow the other: change its down_revision (and number).")

    def _failed(self, what: str, cure: str) -> StartupFailed:
        return StartupFailed((Fault(what, str(self._folder), cure),))

    @property
    def all(self) -> tuple[Link, ...]:
        """All revisions, in the order of their application."""
        return tuple(map(_link, reversed(list(self._script.walk_revisions()))))

    def _context(
        self, connection: Connection, fn: Any = None
    ) -> MigrationContext:  # Any: Alembic's own, of private types
        return MigrationContext.configure(
            connection,
            opts={
                "fn": fn,
                "version_table": applied_table.name,
                "target_metadata": self._schema.metadata,
                "compare_type": True,
                "compare_server_default": False,
                "include_name": _is_the_modules,
                "render_as_batch": True,
                "transactional_ddl": True,  # on SQLite too, where BEGIN is said by us
            },
        )

    def _pending(self, connection: Connection) -> tuple[Link, ...]:
        """Return the revisions that a database lacks, in the order of their application.

        Raises:
            StartupFailed: It has one that is not in the folder.
        """
        applied = self._context(connection).get_current_heads()
        unknown = set(applied) - {link.revision for link in self.all}
        if unknown:
            what = f"The database of {self._module} has the migration {', '.join(unknown)}, which is not in the folder."
            raise self._failed(what, "Run the newer program that has it; going back is not done for you.")
        found = self._script.iterate_revisions("heads", applied or "base")
        return tuple(reversed([_link(script) for script in found if isinstance(script, Script)]))

    def upgrade(self, connection: Connection) -> tuple[str, ...]:
        """Apply what a database lacks, within the transaction of the caller.

        Raises:
            StartupFailed: The database has a revision that is not in the folder.
            Exception: What a migration raised.
        """
        done = tuple(map(str, self._pending(connection)))

        def steps(revision: Any, _context: Any) -> list[RevisionStep]:  # Any: Alembic's own
            return self._script._upgrade_revs("heads", revision)

        context = self._context(connection, steps)
        with _one_at_a_time, Operations.context(context):
            context.run_migrations()
        return done

    def drift(self, connection: Connection) -> tuple[str, ...]:
        """Return how the declared tables differ from those that all migrations make, on an empty database, as lines for people."""
        self.upgrade(connection)
        with _quiet():
            found = compare_metadata(self._context(connection), self._schema.metadata)
        return tuple(_difference(one) for one in found)

    def write(self, message: str, connection: Connection) -> Path | None:
        """Write the migration that leads from the last one to the declared tables.

        Args:
            message: What it does, as a sentence.
            connection: To an empty database, which gets all the migrations.

        Returns:
            The file, or None where there is no difference.
        """
        self.upgrade(connection)
        context = self._context(connection)
        with _quiet():
            produced = produce_migrations(context, self._schema.metadata)
        operations = produced.upgrade_ops
        if operations is None or operations.is_empty():
            return None
        imports: set[str] = set()
        produced.imports = imports
        text = render_python_code(operations, render_as_batch=True, migration_context=context)
        lines = [line for line in text.splitlines() if "### " not in line]
        number = f"{len(self.all) + 1:04}"
        script = self._script.generate_revision(
            number, message, head="head", imports="\n".join(sorted(imports)), upgrades="\n".join(lines).strip()
        )
        return Path(script.path) if script is not None else None


def operations_on(connection: Connection) -> Operations:
    """Return Alembic's operations on a connection, for the steps of the runtime's own tables."""
    return Operations(MigrationContext.configure(connection))


def _link(script: Script) -> Link:
    follows = script.down_revision
    return Link(script.revision, follows if isinstance(follows, str) else None, script.doc or "")


def _is_the_modules(name: str | None, kind: str, _parents: Any) -> bool:  # Any: Alembic's own
    return kind != "table" or name is None or not name.startswith(RESERVED)


def _difference(found: Any) -> str:  # Any: tuples of many shapes, or lists of them
    if issubclass(type(found), list):
        return "; ".join(_difference(one) for one in found)
    kind, *rest = found
    names = [getattr(one, "name", one) for one in rest if one is not None and not isinstance(one, dict)]
    return f"{kind.replace('_', ' ')} {'.'.join(str(name) for name in names)}"


@contextmanager
def _quiet() -> Generator[None]:
    # SQLite cannot tell everything that is asked, such as the expressions of indexes; that is no fault of the caller's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
