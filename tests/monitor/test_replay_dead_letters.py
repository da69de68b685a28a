from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from click.testing import CliRunner, Result

from monitor.errors import InvalidMessage
from monitor.events import EventFactory, Topics
from monitor.publisher import Event
from monitor.records import ModelReference, Thresholds
from monitor.replay import command as command_module
from monitor.replay.command import command
from monitor.replay.dead_letters import REPLAYS, Outcome, Selection, plan, reason_of, replay, spans_to_read
from monitor.replay.places import Span
from monitor.replay.reading import opened
from monitor.settings import Settings
from tests.fixtures_kafka import CHECKOUT, Broker, committed_offsets, consume_all
from tests.monitor.fakes import RecordingPublisher, make_record

BUG = InvalidMessage("processing_error", "ValueError after 3 attempts")
UNREADABLE = InvalidMessage("unreadable_json", "not JSON")
ALL = Selection()
ORIGINS = {"llm.outputs"}
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def factory(dead: str = "dead") -> EventFactory:
    topics = Topics(flags="flags", review="review", deadletter=dead, verdicts=None)
    return EventFactory(
        topics,
        model=ModelReference(name="tiny", version="1"),
        thresholds=Thresholds(unsafe=0.8, review=0.4, in_scope=0.5),
        include_text=True,
    )


def letter_of(record: ConsumerRecord, error: InvalidMessage = BUG, *, payload: bool = True) -> ConsumerRecord:
    """The dead letter of a record, as it comes out of the dead-letter topic."""
    event = factory().dead_letter(record, error, stage="screening", payload=payload)
    return make_record(event.value, key=event.key, headers=event.headers, topic="dead")


# --- what is sent back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"), [(b"\x00key", b"\xff{"), (None, b"x"), (b"key", None), (b"", b""), (b"key", b"")]
)
@pytest.mark.parametrize(
    "headers",
    [
        (),
        (TRACE, TRACE),
        (("empty", None), ("", b"\xff")),
        (("__connect.errors.topic", b"elsewhere"), ("guardline.reason", b"of another monitor")),
        tuple((name, b"all") for name, _ in factory().dead_letter(make_record(b""), BUG, stage="x").headers),
    ],
    ids=["none", "repeated", "null", "of another dead letter", "all names of ours"],
)
def test_what_the_producer_sent_goes_back_to_the_byte(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> None:
    letter = letter_of(make_record(value, key=key, headers=headers))
    assert plan(letter, ALL, ORIGINS) == Event("llm.outputs", key, value, (*headers, (REPLAYS, b"1")))


def test_replays_are_counted_and_a_record_that_keeps_failing_is_left_alone() -> None:
    record = make_record(b"x", headers=(TRACE,))
    for count in (1, 2, 3):
        event = plan(letter_of(record), ALL, ORIGINS)
        assert isinstance(event, Event)
        assert event.headers == (TRACE, (REPLAYS, str(count).encode()))
        record = make_record(event.value, headers=event.headers)
    assert plan(letter_of(record), ALL, ORIGINS) is Outcome.TOO_MANY
    assert isinstance(plan(letter_of(record), Selection(most=4), ORIGINS), Event)


@pytest.mark.parametrize("count", [b"many", b"-1", b"", None, b"9" * 5000])
def test_a_count_that_is_none_begins_anew(count: bytes) -> None:
    event = plan(letter_of(make_record(b"x", headers=((REPLAYS, count),))), ALL, ORIGINS)
    assert isinstance(event, Event)
    assert event.headers == ((REPLAYS, b"1"),)


@pytest.mark.parametrize(
    ("letter", "outcome"),
    [
        (letter_of(make_record(b"x"), payload=False), Outcome.NO_PAYLOAD),
        (letter_of(make_record(None, key=None)), Outcome.NO_PAYLOAD),
        (letter_of(make_record(b"x", topic="gone")), Outcome.NO_ORIGIN),
        (letter_of(make_record(b"x", topic="dead")), Outcome.NO_ORIGIN),
        (make_record(b"x", topic="dead"), Outcome.NO_ORIGIN),
        (make_record(b"x", topic="dead", headers=(("__connect.errors.topic", b"\xff"),)), Outcome.NO_ORIGIN),
    ],
    ids=["payload omitted", "neither key nor value", "topic gone", "loop", "no headers", "not UTF-8"],
)
def test_what_cannot_go_back_says_why(letter: ConsumerRecord, outcome: Outcome) -> None:
    assert plan(letter, ALL, ORIGINS) is outcome


def test_only_letters_of_the_reasons_asked_for_go_back() -> None:
    only = Selection(frozenset({"processing_error", "output_too_large"}))
    assert isinstance(plan(letter_of(make_record(b"x"), BUG), only, ORIGINS), Event)
    assert plan(letter_of(make_record(b"x"), UNREADABLE), only, ORIGINS) is Outcome.OTHER_REASON
    assert only.group("guardline") == "guardline.replay.output_too_large+processing_error"
    assert ALL.group("guardline") == "guardline.replay"


def test_a_letter_of_kafka_connect_goes_back_and_is_known_by_its_exception() -> None:
    headers = (
        TRACE,
        ("__connect.errors.topic", b"llm.outputs"),
        ("__connect.errors.partition", b"1"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    )
    letter = make_record(b"x", topic="dead", headers=headers)
    assert reason_of(letter) == "org.apache.kafka.connect.errors.DataException"
    event = plan(letter, ALL, ORIGINS)
    assert isinstance(event, Event)
    assert event.headers == (TRACE, (REPLAYS, b"1"))


# --- with a broker --------------------------------------------------------------------------------------------------


class Stream:
    """An input and a dead-letter topic."""

    def __init__(self, broker: Broker, inputs: str, dead: str) -> None:
        self.broker, self.inputs, self.dead = broker, inputs, dead

    @classmethod
    async def create(cls, broker: Broker, partitions: int = 2) -> Stream:
        return cls(broker, await broker.topic("inputs", 1), await broker.topic("dead", partitions))

    async def fail(self, count: int, error: InvalidMessage = BUG, *, payload: bool = True) -> list[ConsumerRecord]:
        """Make dead letters of `count` records; return the records."""
        records = [
            make_record(
                b"value %d" % n, key=b"key %d" % n, offset=n, topic=self.inputs, headers=(TRACE, ("n", b"%d" % n))
            )
            for n in range(count)
        ]
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, acks="all")
        await producer.start()
        try:
            for record in records:
                event = factory(self.dead).dead_letter(record, error, stage="screening", payload=payload)
                await producer.send_and_wait(event.topic, event.value, key=event.key, headers=list(event.headers))
        finally:
            await producer.stop()
        return records

    def run(self, *arguments: str) -> Result:
        """Run the command, in a thread's loop of its own."""
        environment = {
            "GUARDLINE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "GUARDLINE_TOPIC_DEADLETTER": self.dead,
            "GUARDLINE_TOPIC_OUTPUTS": self.inputs,
            "GUARDLINE_GROUP": self.dead,
        }
        return CliRunner().invoke(command, ["--dead-letters", *arguments], env=environment)

    async def replay(self, *arguments: str) -> dict[str, Any]:
        result = await asyncio.to_thread(self.run, "--json", *arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
        return report | {"code": result.exit_code}

    @property
    def letters(self) -> list[TopicPartition]:
        return [TopicPartition(self.dead, 0)]

    async def arrived(self) -> list[ConsumerRecord]:
        return await consume_all(self.broker.bootstrap, self.inputs)


@pytest.fixture(autouse=True)
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run the command in a thread, where no signals arrive; logs stay as pytest set them up."""
    from contextlib import nullcontext

    monkeypatch.setattr(command_module, "stopping_on_signals", lambda _: nullcontext())
    monkeypatch.setattr(command_module, "configure", lambda *_: None)


async def test_letters_go_back_once(broker: Broker) -> None:
    stream = await Stream.create(broker)
    records = await stream.fail(20)
    report = await stream.replay()
    assert (report["code"], report["replayed"], report["left"], report["finished"]) == (0, 20, 0, True)
    assert report["reasons"] == {"processing_error": {"replayed": 20}}
    arrived = sorted(await stream.arrived(), key=lambda r: int(r.key.split()[1]))
    assert [(r.key, r.value, r.headers) for r in arrived] == [
        (r.key, r.value, (*r.headers, (REPLAYS, b"1"))) for r in records
    ]
    assert (await stream.replay())["replayed"] == 0
    await stream.fail(3)
    assert (await stream.replay())["replayed"] == 3
    assert len(await stream.arrived()) == 23


async def test_a_letter_larger_than_a_fetch_goes_back(broker: Broker) -> None:
    stream = await Stream.create(broker, partitions=1)
    large = b"x" * 2_500_000
    event = factory(stream.dead).dead_letter(make_record(large, topic=stream.inputs), BUG, stage="screening")
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", max_request_size=5_000_000)
    await producer.start()
    try:
        await producer.send_and_wait(event.topic, event.value, key=event.key, headers=list(event.headers))
    finally:
        await producer.stop()
    assert (await stream.replay())["replayed"] == 1
    assert [record.value for record in await stream.arrived()] == [large]


async def test_a_dry_run_sends_nothing_and_keeps_the_place(broker: Broker) -> None:
    stream = await Stream.create(broker, partitions=1)
    await stream.fail(3)
    for _ in range(2):
        assert (await stream.replay("--dry-run"))["replayed"] == 3
    assert await stream.arrived() == []
    assert await committed_offsets(broker.bootstrap, f"{stream.dead}.replay", stream.dead, 1) == {0: 0}


async def test_what_a_narrower_run_leaves_a_wider_one_still_finds(broker: Broker) -> None:
    stream = await Stream.create(broker)
    await stream.fail(2, BUG)
    await stream.fail(3, UNREADABLE)
    report = await stream.replay("--reason", "processing_error")
    assert report["reasons"] == {"processing_error": {"replayed": 2}, "unreadable_json": {"other reason": 3}}
    assert (report["code"], report["left"]) == (0, 0)
    assert (await stream.replay("--reason", "processing_error"))["replayed"] == 0
    assert (await stream.replay("--reason", "unreadable_json"))["replayed"] == 3


async def test_letters_without_payload_are_counted_and_told_by_the_exit_code(broker: Broker) -> None:
    stream = await Stream.create(broker)
    await stream.fail(2)
    await stream.fail(1, payload=False)
    report = await stream.replay()
    assert (report["code"], report["replayed"], report["left"]) == (1, 2, 1)
    shown = await asyncio.to_thread(stream.run, "--from", "earliest", "--dry-run")
    assert shown.exit_code == 1
    assert [line.split() for line in shown.output.splitlines()][1:] == [["processing_error", "2", "1"]]
    assert "would be replayed" in shown.output
    assert "no payload" in shown.output


async def test_an_explicit_beginning_neither_uses_nor_moves_the_place(broker: Broker) -> None:
    stream = await Stream.create(broker, partitions=1)
    await stream.fail(4)
    assert (await stream.replay("--to", f"{stream.dead}/0:1"))["replayed"] == 1
    report = await stream.replay("--from", f"{stream.dead}/0:1", "--to", f"{stream.dead}/0:3")
    assert (report["replayed"], report["resume"]) == (2, f"{stream.dead}/0:3")
    assert await committed_offsets(broker.bootstrap, f"{stream.dead}.replay", stream.dead, 1) == {0: 1}
    assert (await stream.replay())["replayed"] == 3


async def test_a_run_that_is_stopped_goes_on_where_it_ended(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.replay.dead_letters._BATCH", 4)
    stream = await Stream.create(broker, partitions=1)
    await stream.fail(10)
    stop = asyncio.Event()
    sent = RecordingPublisher()
    async with opened(Settings(kafka_bootstrap=broker.bootstrap), group=ALL.group(stream.dead)) as consumer:
        spans = await spans_to_read(consumer, stream.letters, None, "latest")
        report = await replay(
            consumer, spans, ALL, sent, commit=True, origins={stream.inputs}, stop=stop, advance=lambda _: stop.set()
        )
    assert not report.finished
    done = len(sent.events)
    assert 0 < done < 10
    assert report.resume == {TopicPartition(stream.dead, 0): done}
    assert (await stream.replay())["replayed"] == 10 - done


async def test_a_refused_letter_is_counted(embedded: Broker) -> None:
    stream = await Stream.create(embedded, partitions=1)
    await stream.fail(3)
    async with opened(Settings(kafka_bootstrap=embedded.bootstrap), group="g") as consumer:
        spans = await spans_to_read(consumer, stream.letters, None, "latest")
        publisher = RecordingPublisher(refuse=lambda event: event.value == b"value 1")
        report = await replay(
            consumer,
            spans,
            ALL,
            publisher,
            commit=False,
            origins={stream.inputs},
            stop=asyncio.Event(),
            advance=lambda _: None,
        )
    assert (report.of(Outcome.REPLAYED), report.of(Outcome.REFUSED), report.left) == (2, 1, 1)


class SilentPublisher:
    async def publish(self, events: Sequence[Event]) -> list[Event]:
        await asyncio.Event().wait()
        return []


async def test_without_acknowledgements_it_ends_and_says_where_to_go_on(
    embedded: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.replay.dead_letters._PATIENCE", 0.05)
    stream = await Stream.create(embedded, partitions=1)
    await stream.fail(3)
    async with opened(Settings(kafka_bootstrap=embedded.bootstrap), group="g") as consumer:
        spans = await spans_to_read(consumer, stream.letters, None, "latest")
        with pytest.raises(Exception, match=f"--from {stream.dead}/0:0"):
            await replay(
                consumer,
                spans,
                ALL,
                SilentPublisher(),
                commit=True,
                origins={stream.inputs},
                stop=asyncio.Event(),
                advance=lambda _: None,
            )
    assert await committed_offsets(embedded.bootstrap, "g", stream.dead, 1) == {0: 0}


async def test_a_place_beyond_the_end_is_of_an_older_topic(embedded: Broker) -> None:
    stream = await Stream.create(embedded, partitions=1)
    await stream.fail(3)
    here = TopicPartition(stream.dead, 0)
    async with opened(Settings(kafka_bootstrap=embedded.bootstrap), group="g") as consumer:
        consumer.assign([here])
        await consumer.commit({here: 99})
        assert await spans_to_read(consumer, stream.letters, None, "latest") == {here: Span(0, 3)}


async def test_a_missing_topic_and_a_missing_broker_say_what_to_do(embedded: Broker) -> None:
    stream = Stream(embedded, "inputs", "no.such.topic")
    missing = await asyncio.to_thread(stream.run)
    assert "GUARDLINE_TOPIC_DEADLETTER" in str(missing.exception)
    away = await asyncio.to_thread(stream.run, "--bootstrap", "127.0.0.1:1")
    assert "does not answer" in str(away.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dead-letters", "--model", "x"],
        ["--dead-letters", "--against", "x"],
        ["--dead-letters", "--most-replays", "0"],
        ["--dead-letters", "--from", "yesterday"],
        [],
        ["--from", "earliest"],
        ["--model", "x"],
        ["--from", "earliest", "--model", "x", "--reason", "y"],
        ["--from", "earliest", "--model", "x", "--dry-run"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, "Usage:" in result.output) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_process_after_the_batch_at_hand(
    embedded: Broker, tmp_path: Path, number: signal.Signals
) -> None:
    stream = await Stream.create(embedded, partitions=1)
    await stream.fail(40)
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal\n"
        "from monitor.replay import dead_letters\n"
        "from monitor.replay.command import command\n"
        "dead_letters._BATCH = 10\n"
        "publish = dead_letters._publish\n"
        "async def interrupted(*arguments):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    return await publish(*arguments)\n"
        "dead_letters._publish = interrupted\n"
        "command(['--dead-letters', '--json'])\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        cwd=CHECKOUT,
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "GUARDLINE_KAFKA_BOOTSTRAP": embedded.bootstrap,
            "GUARDLINE_TOPIC_DEADLETTER": stream.dead,
            "GUARDLINE_GROUP": stream.dead,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 4, err.decode()
    assert "by running it again" in err.decode()
    done = json.loads(out)["replayed"]
    assert done == len(await stream.arrived())
    assert 0 < done < 40
    assert (await stream.replay())["replayed"] == 40 - done
