from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import ConfigurationError
from monitor.replay.places import (
    Place,
    PlaceType,
    Span,
    format_offsets,
    parse_place,
    resolve,
)
from monitor.replay.reading import opened, topics_of
from monitor.settings import Settings
from tests.fixtures_kafka import Broker, produce

ZERO, ONE = TopicPartition("llm.outputs", 0), TopicPartition("llm.outputs", 1)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("llm.outputs/0:120", {ZERO: 120}),
        ("llm.outputs/0:120, llm.outputs/1:0", {ZERO: 120, ONE: 0}),
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T12:00:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_place_is_a_word_a_time_or_offsets(text: str, place: Place) -> None:
    assert parse_place(text) == place
    assert PlaceType().convert(text, None, None) == place


@pytest.mark.parametrize("text", ["", "yesterday", "0:120", "llm.outputs/0", "a/0:1,a/0:2", "a/0:1,,", "a/-1:0", "12"])
def test_anything_else_says_what_a_place_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"topic/partition:offset|names a partition twice"):
        parse_place(text)
    with pytest.raises(click.BadParameter):
        PlaceType().convert(text, None, None)


@given(
    st.dictionaries(
        st.builds(TopicPartition, st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True), st.integers(0, 10**6)),
        st.integers(0, 10**12),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_printed_can_be_given_again(offsets: dict[TopicPartition, int]) -> None:
    assert parse_place(format_offsets(offsets)) == offsets


async def resolved(broker: Broker, topic: str, start: Place, end: Place) -> dict[int, Span]:
    async with opened(Settings(kafka_bootstrap=broker.bootstrap)) as consumer:
        spans = await resolve(
            consumer, (await topics_of(Settings(kafka_bootstrap=broker.bootstrap)))[topic], start, end
        )
    return {partition.partition: span for partition, span in spans.items()}


async def test_places_become_offsets(broker: Broker) -> None:
    topic = await broker.topic("places", 2)
    await produce(broker.bootstrap, topic, [b"x"] * 7, partitions=2)
    zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert await resolved(broker, topic, "earliest", "latest") == {0: Span(0, 4), 1: Span(0, 3)}
    assert await resolved(broker, topic, "latest", "latest") == {0: Span(4, 4), 1: Span(3, 3)}
    assert await resolved(broker, topic, {one: 1}, "latest") == {1: Span(1, 3)}
    assert await resolved(broker, topic, "earliest", {zero: 2}) == {0: Span(0, 2)}
    assert await resolved(broker, topic, {zero: 1, one: 1}, {zero: 1, one: 3}) == {0: Span(1, 1), 1: Span(1, 3)}


async def test_times_become_offsets(kafka_broker: Broker) -> None:
    """On a real broker only: the mock cluster looks nothing up by time."""
    topic = await kafka_broker.topic("times", 1)
    await produce(kafka_broker.bootstrap, topic, [b"x"] * 3)
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert await resolved(kafka_broker, topic, now - hour, now + hour) == {0: Span(0, 3)}
    assert await resolved(kafka_broker, topic, "earliest", now - hour) == {0: Span(0, 0)}
    assert await resolved(kafka_broker, topic, now + hour, "latest") == {0: Span(3, 3)}


async def test_places_that_are_not_in_the_topic_are_refused(broker: Broker) -> None:
    topic = await broker.topic("refused", 1)
    await produce(broker.bootstrap, topic, [b"x"] * 3)
    zero = TopicPartition(topic, 0)
    refused: list[tuple[Place, Place, str]] = [
        ({zero: 4}, "latest", "holds 0 to 3"),
        ("earliest", {zero: 9}, "holds 0 to 3"),
        ({zero: 2}, {zero: 1}, "before --from"),
        ({TopicPartition(topic, 1): 0}, "latest", "not of the topic"),
        ({ZERO: 0}, "latest", "not of the topic"),
        ({zero: 0}, {TopicPartition(topic, 1): 0}, "different partitions"),
    ]
    for start, end, said in refused:
        with pytest.raises(ConfigurationError, match=said):
            await resolved(broker, topic, start, end)


async def test_asking_for_the_topics_makes_none(broker: Broker) -> None:
    topic = await broker.topic("made", 2)
    for _ in range(2):
        topics = await topics_of(Settings(kafka_bootstrap=broker.bootstrap))
        assert topics[topic] == [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        assert "no.such.topic" not in topics
