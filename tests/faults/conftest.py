"""Brokers, and the event loops, of the fault tests."""

from __future__ import annotations

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import own_apache_kafka as own_apache_kafka
from tests.brokers.fixtures import three_node_kafka as three_node_kafka
