"""What the broker says of a group that another process is in, or is not."""

from __future__ import annotations

import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from monitor.canary.backlog import PartitionBacklog, measure, partitions_of
from monitor.errors import GuardlineError
from monitor.settings import Settings
from tests.fixtures_kafka import Broker

HOUR_AGO = int((time.time() - 3600) * 1000)


async def written(broker: Broker, ages: list[int]) -> Settings:
    """Return settings for a topic with two partitions; the first holds a record of each age, in seconds."""
    topic = await broker.topic("llm.outputs", 2)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        for age in ages:
            await producer.send_and_wait(topic, b"x" * 5000, partition=0, timestamp_ms=HOUR_AGO - age * 1000)
    finally:
        await producer.stop()
    return Settings(_env_file=None, kafka_bootstrap=broker.bootstrap, topic_outputs=topic, group=topic)  # type: ignore[call-arg]


async def commit(settings: Settings, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, group_id=settings.group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        partition = TopicPartition(settings.topic_outputs, 0)
        consumer.assign([partition])
        await consumer.commit({partition: offset})
    finally:
        await consumer.stop()


async def test_the_oldest_record_that_is_not_committed_says_how_long_things_wait(broker: Broker) -> None:
    settings = await written(broker, [50, 40, 30])
    assert await measure(settings) == [
        PartitionBacklog(0, committed=0, end=3, expired=0, oldest=HOUR_AGO - 50_000),
        PartitionBacklog(1, committed=0, end=0, expired=0, oldest=None),
    ]
    await commit(settings, 2)
    waiting, _ = await measure(settings)
    assert (waiting.records, waiting.oldest) == (1, HOUR_AGO - 30_000)
    assert waiting.age(HOUR_AGO / 1000) == 30
    await commit(settings, 3)
    done, _ = await measure(settings)
    assert (done.records, done.age(time.time())) == (0, 0)


async def test_what_retention_took_before_it_was_committed_is_counted(kafka_broker: Broker) -> None:
    settings = await written(kafka_broker, [50, 40, 30])
    await commit(settings, 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(settings.topic_outputs, 0): RecordsToDelete(before_offset=2)})
    finally:
        await admin.close()
    waiting, _ = await measure(settings)
    assert (waiting.expired, waiting.oldest) == (1, HOUR_AGO - 30_000)


async def test_a_topic_that_is_not_there_and_a_broker_that_is_not_are_said(embedded: Broker) -> None:
    settings = Settings(_env_file=None, kafka_bootstrap=embedded.bootstrap, topic_outputs="gone")  # type: ignore[call-arg]
    with pytest.raises(GuardlineError, match="there is no topic gone"):
        await partitions_of(settings)
    away = Settings(_env_file=None, kafka_bootstrap="127.0.0.1:9")  # type: ignore[call-arg]
    with pytest.raises(GuardlineError, match="does not answer"):
        await measure(away)
