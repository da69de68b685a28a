import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)

from monitor.errors import AccessDenied
from monitor.publisher import Event, KafkaPublisher

EVENTS = [Event("topic", b"key", str(i).encode(), (("name", b"value"),)) for i in range(5)]
Fault = Callable[[bytes | None], Exception | None]


class Broker:
    """What all producers of a test share: what arrived, and the faults that are due.

    A fault is asked with the value of each event; what it returns is raised, and then it is over.
    """

    def __init__(self) -> None:
        self.received: list[Event] = []
        self.producers: list[FakeProducer] = []
        self.on_start: list[BaseException] = []
        self.on_stop: list[Exception] = []
        self.on_send: list[Fault] = []
        self.on_acknowledge: list[Fault] = []
        self.refuses: AccessDenied | None = None

    async def refusal(self, _: Mapping[str, Any]) -> AccessDenied | None:
        return self.refuses

    def __call__(self, **settings: Any) -> "FakeProducer":
        producer = FakeProducer(self, settings)
        self.producers.append(producer)
        return producer

    @staticmethod
    def due(faults: list[Fault], value: bytes | None) -> Exception | None:
        for fault in faults:
            error = fault(value)
            if error is not None:
                faults.remove(fault)
                return error
        return None


class FakeProducer:
    """The slice of an aiokafka producer that the publisher uses."""

    def __init__(self, broker: Broker, settings: dict[str, Any]) -> None:
        self._broker = broker
        self.settings = settings
        self.stopped = False

    async def start(self) -> None:
        if self._broker.on_start:
            raise self._broker.on_start.pop(0)

    async def stop(self) -> None:
        self.stopped = True
        if self._broker.on_stop:
            raise self._broker.on_stop.pop(0)

    async def send(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
        partition: int | None = None,
    ) -> asyncio.Future[None]:
        if self.stopped:
            raise ProducerClosed
        if error := self._broker.due(self._broker.on_send, value):
            raise error
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if error := self._broker.due(self._broker.on_acknowledge, value):
            future.set_exception(error)
        else:
            self._broker.received.append(Event(topic, key, value, tuple(headers)))
            future.set_result(None)
        return future


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr("monitor.publisher.AIOKafkaProducer", broker)
    monkeypatch.setattr("monitor.publisher.refusal", broker.refusal)
    return broker


def on(value: bytes, error: Exception) -> Fault:
    return lambda sent: error if sent == value else None


async def test_events_arrive_as_they_are(broker: Broker) -> None:
    publisher = KafkaPublisher("host:9092")
    assert await publisher.publish(EVENTS) == []
    assert sorted(broker.received, key=repr) == EVENTS
    assert await publisher.publish([Event("topic", None, None)]) == []
    assert broker.received[-1] == Event("topic", None, None, ())


async def test_nothing_to_publish_needs_no_broker(broker: Broker) -> None:
    assert await KafkaPublisher("host:9092").publish([]) == []
    assert broker.producers == []


async def test_one_producer_that_waits_for_all_replicas(broker: Broker) -> None:
    publisher = KafkaPublisher("host:9092")
    await asyncio.gather(publisher.publish(EVENTS), publisher.publish(EVENTS), publisher.start())
    (producer,) = broker.producers
    assert producer.settings["bootstrap_servers"] == "host:9092"
    assert producer.settings["enable_idempotence"] is True
    assert producer.settings["acks"] == "all"


@pytest.mark.parametrize(
    "error",
    [KafkaTimeoutError(), KafkaConnectionError(), NotLeaderForPartitionError(), OSError("reset"), TimeoutError()],
    ids=repr,
)
@pytest.mark.parametrize("where", ["on_send", "on_acknowledge"])
async def test_a_passing_failure_is_tried_again_with_the_same_producer(
    broker: Broker, where: str, error: Exception
) -> None:
    getattr(broker, where).append(on(b"2", error))
    assert await KafkaPublisher("host:9092").publish(EVENTS) == []
    assert sorted(broker.received, key=repr) == EVENTS
    assert len(broker.producers) == 1


@pytest.mark.parametrize(
    "error", [ProducerFenced(), ProducerClosed(), OutOfOrderSequenceNumber(), UnknownProducerId()], ids=repr
)
@pytest.mark.parametrize("where", ["on_send", "on_acknowledge"])
async def test_a_producer_that_is_lost_is_replaced(broker: Broker, where: str, error: Exception) -> None:
    getattr(broker, where).append(on(b"2", error))
    assert await KafkaPublisher("host:9092").publish(EVENTS) == []
    assert sorted(broker.received, key=repr) == EVENTS
    assert [producer.stopped for producer in broker.producers] == [True, False]


@pytest.mark.parametrize("error", [KafkaConnectionError(), TimeoutError(), OSError("reset")], ids=repr)
async def test_a_lost_producer_that_does_not_stop_is_replaced_all_the_same(broker: Broker, error: Exception) -> None:
    broker.on_acknowledge.append(on(b"2", ProducerFenced()))
    broker.on_stop.append(error)
    assert await KafkaPublisher("host:9092").publish(EVENTS) == []
    assert sorted(broker.received, key=repr) == EVENTS


@pytest.mark.parametrize("where", ["on_send", "on_acknowledge"])
async def test_what_is_too_large_is_handed_back_and_the_rest_arrives(broker: Broker, where: str) -> None:
    getattr(broker, where).append(on(b"3", MessageSizeTooLargeError()))
    assert await KafkaPublisher("host:9092").publish(EVENTS) == [EVENTS[3]]
    assert sorted(broker.received, key=repr) == [*EVENTS[:3], EVENTS[4]]


async def test_a_bug_is_not_tried_again(broker: Broker) -> None:
    broker.on_send.append(on(b"2", ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await KafkaPublisher("host:9092").publish(EVENTS)


@pytest.mark.parametrize("call", [lambda p: p.start(), lambda p: p.publish(EVENTS)], ids=["start", "publish"])
async def test_a_broker_that_is_away_is_waited_for(broker: Broker, call: Callable[[KafkaPublisher], Any]) -> None:
    broker.on_start += [KafkaConnectionError(), OSError("refused")]
    publisher = KafkaPublisher("host:9092")
    await call(publisher)
    assert not broker.on_start
    assert await publisher.publish(EVENTS[:1]) == []
    assert EVENTS[0] in broker.received


@pytest.mark.parametrize(
    "error", [KafkaConnectionError(), OSError("refused"), asyncio.CancelledError()], ids=lambda e: type(e).__name__
)
async def test_a_producer_that_did_not_start_is_stopped(broker: Broker, error: BaseException) -> None:
    """Else aiokafka complains of each one, once per attempt, while the broker is away."""
    broker.on_start.append(error)
    starting = asyncio.create_task(KafkaPublisher("host:9092").start())
    await asyncio.wait({starting})
    assert starting.cancelled() == isinstance(error, asyncio.CancelledError)
    assert broker.producers[0].stopped


async def test_a_late_acknowledgement_is_waited_for_and_sent_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sent = []

    async def send(_: FakeProducer, topic: str, **event: Any) -> asyncio.Future[None]:
        sent.append(topic)
        return acknowledged

    monkeypatch.setattr(FakeProducer, "send", send)
    publishing = asyncio.create_task(KafkaPublisher("host:9092", timeout=0.01).publish(EVENTS[:1]))
    done, _ = await asyncio.wait({publishing}, timeout=0.05)
    assert not done
    acknowledged.set_result(None)
    assert await publishing == []
    assert sent == ["topic"]


async def test_a_send_whose_producer_was_discarded_meanwhile_is_tried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka leaves it waiting for the topic's metadata for ever."""
    send, hung = FakeProducer.send, []

    async def hanging(self: FakeProducer, topic: str, **event: Any) -> asyncio.Future[None]:
        if not hung:
            hung.append(topic)
            await asyncio.Event().wait()
        return await send(self, topic, **event)

    monkeypatch.setattr(FakeProducer, "send", hanging)
    assert await KafkaPublisher("broker:9092", timeout=0.01).publish(EVENTS) == []
    assert hung
    assert sorted(event.value or b"" for event in broker.received) == [event.value for event in EVENTS]


async def test_close_stops_the_producer_once_and_an_unused_publisher_needs_none(broker: Broker) -> None:
    publisher = KafkaPublisher("host:9092")
    await publisher.close()
    assert broker.producers == []
    await publisher.start()
    await publisher.close()
    assert broker.producers[0].stopped
    await publisher.close()
    assert len(broker.producers) == 1


async def test_a_broker_that_refuses_us_is_not_waited_for(broker: Broker) -> None:
    broker.on_start = [KafkaConnectionError()]
    broker.refuses = AccessDenied("wrong password")
    with pytest.raises(AccessDenied, match="wrong password"):
        await KafkaPublisher("host:9092").start()
    assert broker.producers[0].stopped
    broker.on_start = [KafkaConnectionError()]
    with pytest.raises(AccessDenied, match="wrong password"):
        await KafkaPublisher("host:9092").publish(EVENTS)


async def test_a_password_that_changes_while_we_wait_ends_the_wait(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(_: FakeProducer, topic: str, **event: Any) -> asyncio.Future[None]:
        broker.refuses = AccessDenied("wrong password")
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(FakeProducer, "send", send)
    with pytest.raises(AccessDenied, match="wrong password"):
        await KafkaPublisher("host:9092", timeout=0.01).publish(EVENTS[:1])


async def test_a_topic_that_we_may_not_write_to_is_named_with_what_to_do(broker: Broker) -> None:
    broker.on_send = [on(b"2", TopicAuthorizationFailedError("topic"))] * 2
    with pytest.raises(AccessDenied, match=r"\(topic\): `guardline acls`"):
        await KafkaPublisher("host:9092").publish(EVENTS)


async def test_producers_are_made_with_the_security_options(broker: Broker) -> None:
    await KafkaPublisher("host:9092", security={"security_protocol": "SSL"}).start()
    assert broker.producers[0].settings["bootstrap_servers"] == "host:9092"
    assert broker.producers[0].settings["security_protocol"] == "SSL"
