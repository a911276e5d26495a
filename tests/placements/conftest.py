"""Brokers for the placement `split`."""

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import embedded_kafka as embedded_kafka
