"""Brokers for the console's tests."""

from __future__ import annotations

import pytest

from tests.fixtures_kafka import Broker, find_kafka


@pytest.fixture
def best_broker(request: pytest.FixtureRequest) -> Broker:
    """A real Kafka where there is one, else the embedded one."""
    name = "kafka_broker" if find_kafka()[0] else "embedded"
    broker: Broker = request.getfixturevalue(name)
    return broker
