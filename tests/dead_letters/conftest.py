"""The transports of the conformance suite."""

from tests.conformance.conftest import log as log
