"""A module that publishes events by the hundred, and one whose handler waits: what is measured over Kafka besides requests."""
