"""What the tests of the gateway run on besides memory."""

from tests.brokers.fixtures import apache_kafka as apache_kafka
