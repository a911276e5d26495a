"""The brokers of the fault tests."""

from tests.brokers.fixtures import apache_door, apache_kafka, own_apache_kafka, three_node_kafka

__all__ = ["apache_door", "apache_kafka", "own_apache_kafka", "three_node_kafka"]
