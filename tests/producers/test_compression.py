"""Whatever codec a platform's own producer, or the broker, compresses with: the monitor's client reads it."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer

from tests.fixtures_kafka import Broker
from tests.producers.topic import Topic


@pytest.mark.parametrize("codec", ["none", "gzip", "lz4", "snappy", "zstd"])
async def test_every_codec_of_kafka_is_read(embedded: Broker, codec: str) -> None:
    topic = await Topic.create(embedded)
    producer = Producer({"bootstrap.servers": topic.bootstrap, "compression.type": codec, "log_level": 2})
    producer.produce(topic.name, b'{"id": "a", "text": "' + b"Give 200 mg. " * 100 + b'"}')
    assert await asyncio.to_thread(producer.flush, 30) == 0
    (message,) = await topic.messages()
    assert message.text == "Give 200 mg. " * 100
