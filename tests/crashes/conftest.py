"""What the crash tests run on: databases and logs, of each kind a real one."""

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.postgres import own_postgres as own_postgres
from tests.brokers.postgres import postgres as postgres
