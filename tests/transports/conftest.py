"""The brokers that the tests of the Kafka transport run on."""

from tests.brokers.fixtures import apache_kafka, embedded_kafka, own_apache_kafka, three_node_kafka

__all__ = ["apache_kafka", "embedded_kafka", "own_apache_kafka", "three_node_kafka"]
