"""The broker that a program in another language meets fissile on."""

from tests.brokers.fixtures import embedded_kafka

__all__ = ["embedded_kafka"]
