"""Databases for modules: SQLite in files, or PostgreSQL by URL, one schema per module.

`import fissile` does not import this, nor SQLAlchemy; a module that has tables does.
"""

from fissile.database._aggregate import Aggregate as Aggregate
from fissile.database._aggregate import ConcurrentChange as ConcurrentChange
from fissile.database._aggregate import Repository as Repository
from fissile.database._database import Database as Database
from fissile.database._database import Transaction as Transaction
from fissile.database._errors import CommitUnknown as CommitUnknown
from fissile.database._errors import DatabaseUnavailable as DatabaseUnavailable
from fissile.database._insert import insert_into as insert_into
from fissile.database._saga import Saga as Saga
from fissile.database._saga_codecs import StepFailed as StepFailed
from fissile.database._saga_rows import SagaState as SagaState
from fissile.database._sagas import Sagas as Sagas
from fissile.database._sagas import SagaStatus as SagaStatus
from fissile.database._sagas import SagaStep as SagaStep
from fissile.database._schema import Schema as Schema

__all__ = [
    "Schema",
    "Database",
    "Transaction",
    "insert_into",
    "Aggregate",
    "Repository",
    "ConcurrentChange",
    "Saga",
    "Sagas",
    "SagaStatus",
    "SagaStep",
    "SagaState",
    "StepFailed",
    "DatabaseUnavailable",
    "CommitUnknown",
]
