"""The producer on real brokers: what arrives, what is dropped and counted, and that nobody waits or sees an error."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.embedded_broker import ApiKey, EmbeddedBroker
from monitor.errors import ConfigurationError
from monitor.producers import Outcome, OutputProducer
from monitor.settings import Settings
from tests.fixtures_kafka import Broker, consume_all
from tests.producers.topic import Topic

CHECKOUT = Path(__file__).parents[2]
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
TOPIC_AUTHORIZATION_FAILED = 29
#: Nothing listens there.
NOWHERE = "127.0.0.1:1"


async def test_an_answer_arrives_as_the_monitor_reads_it(broker: Broker) -> None:
    topic = await Topic.create(broker)
    written = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with topic.producer(tenant="north") as producer:
        assert producer.publish(
            text="Give 200 mg.", id="a", model="m", conversation_id="c", created_at=written, traceparent="00-1-2-01"
        )
        assert producer.publish(text="Give 100 mg.", id="b", tenant="south", partial=True)
        assert producer.publish(text="Without an id.")
    assert (producer.counts, producer.waiting) == ({Outcome.DELIVERED: 3}, 0)
    first, second, third = sorted(await topic.messages(), key=lambda message: message.text, reverse=True)[::-1]
    assert (second.id, second.text, second.tenant, second.model) == ("a", "Give 200 mg.", "north", "m")
    assert (second.conversation_id, second.created_at, second.metadata) == ("c", written, {})
    assert (first.id, first.tenant, first.metadata) == ("b", "south", {"partial": True})
    assert len(third.id) == 32
    record = next(r for r in await consume_all(topic.bootstrap, topic.name) if r.key == b"c")
    assert dict(record.headers) == {"content-type": b"application/json", "traceparent": b"00-1-2-01"}


def test_a_conversation_has_the_partition_that_other_clients_give_it(embedded_broker: EmbeddedBroker) -> None:
    from aiokafka.partitioner import DefaultPartitioner
    from confluent_kafka import Consumer, TopicPartition

    topic = Topic.of(embedded_broker)
    with topic.producer() as producer:
        for number in range(20):
            producer.publish(text="t", id=f"m-{number}", conversation_id=f"c-{number}")
    consumer = Consumer({"bootstrap.servers": topic.bootstrap, "group.id": "g"})
    consumer.assign([TopicPartition(topic.name, number, 0) for number in (0, 1)])
    records = consumer.consume(20, timeout=30)
    consumer.close()
    assert len(records) == 20
    assert all(r.partition() == DefaultPartitioner()(r.key(), [0, 1], [0, 1]) for r in records)


def test_beyond_its_bounds_it_drops_counts_and_says_so_once(
    embedded_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topic.of(embedded_broker)
    embedded_broker.down()
    with topic.producer(max_records=2) as by_records, topic.producer(max_bytes=20_000) as by_bytes:
        assert [by_records.publish(text="secret", id=str(n)) for n in range(5)] == [True, True, False, False, False]
        assert [by_bytes.publish(text="x" * 9000, id=str(n)) for n in range(5)] == [True, True, False, False, False]
        assert by_records.counts == by_bytes.counts == {Outcome.QUEUE_FULL: 3}
        assert by_records.waiting == 2
        embedded_broker.up()
        assert by_records.flush(30) == by_bytes.flush(30) == 0
        assert by_records.counts == {Outcome.QUEUE_FULL: 3, Outcome.DELIVERED: 2}
    dropped = [r.getMessage() for r in caplog.records if "not published" in r.getMessage()]
    assert len(dropped) == 2  # one of each producer
    assert "queue_full" in dropped[0]
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"text": "x" * 5000}, Outcome.TOO_LARGE),
        ({"text": None, "id": "a"}, Outcome.EMPTY),
        ({"text": " \n"}, Outcome.EMPTY),
        ({"text": ["secret"]}, Outcome.UNREADABLE),
        ({"text": "secret", "id": "i" * 600}, Outcome.UNREADABLE),
        ({"text": "secret", "tenant": 7}, Outcome.UNREADABLE),
        ({"text": "secret", "created_at": "secret"}, Outcome.UNREADABLE),
    ],
)
def test_what_cannot_be_sent_is_counted_and_raises_nothing(
    answer: dict[str, object], outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    producer = OutputProducer(
        Settings(_env_file=None, kafka_bootstrap=NOWHERE, publish_max_bytes=4000), flush_timeout=0
    )
    assert producer.publish(**answer) is False  # type: ignore[arg-type]
    producer.close()
    assert producer.counts == {outcome: 1}
    assert "secret" not in caplog.text
    assert ("not published" in caplog.text) is (outcome is not Outcome.EMPTY)


@pytest.fixture(scope="module")
def unconnected() -> Iterator[OutputProducer]:
    producer = OutputProducer(Settings(_env_file=None, kafka_bootstrap=NOWHERE), flush_timeout=0)
    yield producer
    producer.close()


@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1), id_=st.text(), other=st.one_of(st.none(), st.text()))
def test_any_text_can_be_published(unconnected: OutputProducer, text: str, id_: str, other: str | None) -> None:
    before = unconnected.counts.get(Outcome.UNREADABLE, 0)
    unconnected.publish(text=text, id=id_, tenant=other, model=other, conversation_id=other)
    assert unconnected.counts.get(Outcome.UNREADABLE, 0) == before


def test_refused_by_the_broker(embedded_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic.of(embedded_broker)
    embedded_broker.inject_errors(ApiKey.PRODUCE, TOPIC_AUTHORIZATION_FAILED)
    with topic.producer() as producer:
        producer.publish(text="t", id="a")
    assert producer.counts == {Outcome.REFUSED: 1}
    assert "Topic authorization failed" in caplog.text


async def test_a_client_that_lost_count_is_replaced(embedded: Broker, embedded_broker: EmbeddedBroker) -> None:
    topic = await Topic.create(embedded)
    with topic.producer() as producer:
        producer.publish(text="t", id="a")
        producer.flush(30)
        embedded_broker.inject_errors(ApiKey.PRODUCE, OUT_OF_ORDER_SEQUENCE_NUMBER)
        producer.publish(text="t", id="b")
        waiting = threading.Event()
        for _ in range(300):  # until what was lost is reported
            if producer.waiting == 0:
                break
            waiting.wait(0.1)
        assert producer.publish(text="t", id="c")
    counts = dict(producer.counts)
    assert counts.pop(Outcome.DELIVERED) == 2
    assert sum(counts.values()) == 1
    assert [message.id for message in await topic.messages()] == ["a", "c"]


def test_after_the_end_answers_are_counted(embedded_broker: EmbeddedBroker) -> None:
    producer = OutputProducer(Topic.of(embedded_broker).settings())
    producer.close()
    assert producer.publish(text="t") is False
    assert producer.counts == {Outcome.CLOSED: 1}


def test_an_end_without_a_broker_is_in_time_and_counted() -> None:
    producer = OutputProducer(Settings(_env_file=None, kafka_bootstrap=NOWHERE), flush_timeout=0.1)
    assert producer.publish(text="t")
    producer.close()
    assert producer.counts == {Outcome.UNSENT: 1}


def test_settings_that_do_not_fit_are_said_when_asked_and_counted_when_not(caplog: pytest.LogCaptureFixture) -> None:
    def producer() -> OutputProducer:
        return OutputProducer(Settings(_env_file=None, kafka_bootstrap=NOWHERE, publish_max_bytes=2_000_000_000))

    with pytest.raises(ConfigurationError, match=r"message\.max\.bytes"):
        producer().start()
    quiet = producer()
    for _ in range(3):
        quiet.publish(text="t")
    quiet.close()
    assert quiet.counts == {Outcome.NO_CLIENT: 3}
    assert "message.max.bytes" in caplog.text


SCRIPT = """
import multiprocessing, os, sys
from monitor.producers import OutputProducer

producer = OutputProducer()

def child(name):
    producer.publish(text="t", id=name)

if __name__ == "__main__":
    producer.publish(text="t", id="before")
    process = multiprocessing.get_context("fork").Process(target=child, args=("multiprocessing",))
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    pid = os.fork()
    producer.publish(text="t", id="child" if pid == 0 else "parent")
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


async def test_every_process_sends_its_own_when_it_ends(broker: Broker) -> None:
    topic = await Topic.create(broker)
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT],
        env={"PATH": "", "PYTHONPATH": str(CHECKOUT), **topic.environment()},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [m.id for m in await topic.messages()] == ["before", "child", "multiprocessing", "parent"]


def test_importing_it_costs_a_platform_little() -> None:
    script = "import sys, monitor.producers\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    heavy = {"aiohttp", "aiokafka", "faust", "numpy", "onnxruntime", "structlog", "tokenizers", "torch"}
    assert not loaded & heavy
    assert {"confluent_kafka", "pydantic"} <= loaded


def test_without_the_client_it_says_which_extra_is_missing() -> None:
    script = "import sys; sys.modules['confluent_kafka'] = None\nimport monitor.producers"
    result = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert "pip install 'guardline[producer]'" in result.stderr
