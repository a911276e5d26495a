"""What the tests of sagas run on: both databases, and a shop that writes down what it was asked."""

from tests.brokers.postgres import own_postgres as own_postgres
from tests.brokers.postgres import postgres as postgres
from tests.brokers.postgres import postgres_database as postgres_database
from tests.database.conftest import database_url as database_url
