import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from structlog.testing import capture_logs

from monitor.agents import ChunkHandler, FailureLimit, ScreenAgent, _done_key
from monitor.errors import DeadLetterLimit, ModelMismatch, ScorerFailed
from monitor.events import EventFactory, Topics
from monitor.memory import MemoryStore
from monitor.models.switch import ModelSwitch, Serving
from monitor.pace import ChunkPace
from monitor.package import ModelPackage
from monitor.publisher import Event, Headers
from monitor.screening import Screening, VerdictStore
from monitor.tracing import Tracing
from monitor.turns import OrderedPublisher, Turn
from monitor.types import MessageVerdict, ModelScores
from tests.monitor.fakes import (
    OFF_TOPIC,
    REVIEW,
    SAFE,
    UNSAFE,
    BuggyScorer,
    FailingStore,
    FakeScorer,
    FlakyScorer,
    RecordingPublisher,
    make_assessment,
    make_package,
    make_record,
)

POISON = "The poisoned remdesivir loading dose is odd."
UNREADABLE = b"{not json"


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged; also spares every logged exception its rich traceback, which takes a third of a second."""
    with capture_logs() as entries:
        yield entries


def message(offset: int, text: str, **fields: Any) -> ConsumerRecord:
    return make_record(json.dumps({"id": f"m-{offset}", "text": text, **fields}).encode(), offset=offset)


def headers(event: Event) -> dict[str, bytes]:
    return dict(event.headers)


def _no_other(package: ModelPackage) -> Serving:
    raise AssertionError(package)


class Harness:
    """A handler and all around it."""

    def __init__(
        self,
        scorer: FakeScorer | None = None,
        store: VerdictStore | None = None,
        publisher: RecordingPublisher | None = None,
        *,
        audit: bool = True,
        failures: int = 60,
        events: type[EventFactory] = EventFactory,
        tracing: Tracing | None = None,
    ) -> None:
        self.scorer = scorer or FakeScorer()
        self.publisher = publisher or RecordingPublisher()
        self.store = store or MemoryStore()
        package = make_package()
        screening = Screening(package, assessment=make_assessment(self.scorer), store=self.store)
        topics = Topics(flags="flags", review="review", deadletter="dead", verdicts="verdicts" if audit else None)
        made = events(topics, model=screening.model, thresholds=screening.thresholds, include_text=True)
        self.handler = ChunkHandler(
            models=ModelSwitch(_no_other, Serving(package, screening, made)),
            store=self.store,
            publisher=self.publisher,
            attempts=2,
            failures=FailureLimit(failures),
            tracing=tracing,
        )

    async def handle(self, *records: ConsumerRecord) -> None:
        await self.handler.handle(records, OrderedPublisher(self.publisher).turn(0))

    def on(self, topic: str) -> list[Event]:
        return self.publisher.on(topic)

    @property
    def audited(self) -> dict[int, str]:
        """Verdict by offset, from the audit topic; asserts that there is one per input."""
        contents = [json.loads(event.value or b"") for event in self.on("verdicts")]
        verdicts = {content["offset"]: content["verdict"] for content in contents}
        assert len(verdicts) == len(contents)
        return verdicts

    @property
    def dead(self) -> list[tuple[str, bytes | None]]:
        """Reason and payload of the dead letters."""
        return [(headers(event)["guardline.reason"].decode(), event.value) for event in self.on("dead")]


async def test_every_record_of_a_mixed_chunk_gets_what_it_needs() -> None:
    harness = Harness()
    await harness.handle(
        message(0, UNSAFE),
        make_record(UNREADABLE, offset=1),
        message(2, SAFE),
        make_record(None, offset=3),
        message(4, REVIEW),
        message(5, OFF_TOPIC),
    )
    assert harness.audited == {0: "unsafe", 1: "invalid", 2: "safe", 3: "invalid", 4: "review", 5: "out_of_scope"}
    assert [json.loads(e.value or b"")["message_id"] for e in harness.on("flags")] == ["m-0"]
    assert [json.loads(e.value or b"")["message_id"] for e in harness.on("review")] == ["m-4"]
    assert harness.dead == [("unreadable_json", UNREADABLE), ("null_value", None)]
    assert {headers(e)["__connect.errors.stage"] for e in harness.on("dead")} == {b"intake"}


async def test_one_line_is_logged_per_message_and_holds_no_text(logs: list[Any]) -> None:
    await Harness().handle(message(0, UNSAFE, tenant="north"), make_record(UNREADABLE, offset=1))
    assert [(line["event"], line["offset"]) for line in logs] == [("dead_letter", 1), ("screened", 0)]
    assert {k: logs[1][k] for k in ("message_id", "tenant", "verdict", "score", "statements", "cached")} == {
        "message_id": "m-0",
        "tenant": "north",
        "verdict": "unsafe",
        "score": 0.95,
        "statements": 1,
        "cached": 0,
    }
    assert "loading" not in str(logs)
    assert "not json" not in str(logs)


async def test_a_chunk_is_scored_together() -> None:
    harness = Harness()
    await harness.handle(message(0, UNSAFE), message(1, SAFE), message(2, REVIEW))
    assert harness.scorer.calls == [[UNSAFE, SAFE, REVIEW]]


@pytest.mark.parametrize("values", [[], [UNREADABLE], [b"", None]], ids=["empty", "unreadable", "nothing"])
async def test_a_chunk_without_messages_asks_nobody(values: list[bytes | None]) -> None:
    harness = Harness()
    await harness.handle(*(make_record(value, offset=i) for i, value in enumerate(values)))
    assert harness.scorer.calls == []
    assert len(harness.on("dead")) == len(values)


async def test_while_the_scorer_is_away_the_chunk_waits_and_nothing_is_lost() -> None:
    scorer = FlakyScorer()
    harness = Harness(scorer)
    await harness.handle(message(0, UNSAFE), make_record(UNREADABLE, offset=1))
    await harness.handle(message(2, REVIEW))
    assert scorer.attempts == 4
    assert harness.audited == {0: "unsafe", 1: "invalid", 2: "review"}
    assert harness.dead == [("unreadable_json", UNREADABLE)]


async def test_a_message_that_fails_inside_guardline_harms_no_other() -> None:
    scorer = BuggyScorer("poisoned", RuntimeError("a bug, with text of the message"))
    harness = Harness(scorer)
    poison = message(1, POISON)
    await harness.handle(message(0, UNSAFE), poison, message(2, SAFE))
    assert harness.audited == {0: "unsafe", 1: "invalid", 2: "safe"}
    assert harness.dead == [("processing_error", poison.value)]
    assert scorer.failures == 3  # all together, then twice alone
    event = harness.on("dead")[0]
    assert headers(event)["__connect.errors.stage"] == b"screening"
    assert headers(event)["__connect.errors.exception.message"] == b"RuntimeError after 2 attempts"


async def test_a_message_whose_events_cannot_be_made_harms_no_other() -> None:
    class Buggy(EventFactory):
        def of_verdict(
            self, record: ConsumerRecord, verdict: MessageVerdict, trace: Headers | None = None
        ) -> list[Event]:
            if record.offset == 1:
                raise RuntimeError("a bug")
            return super().of_verdict(record, verdict, trace)

    harness = Harness(events=Buggy, failures=1)
    await harness.handle(message(0, UNSAFE), message(1, UNSAFE), message(2, SAFE))
    assert harness.audited == {0: "unsafe", 1: "invalid", 2: "safe"}
    assert harness.dead == [("processing_error", message(1, UNSAFE).value)]
    with pytest.raises(DeadLetterLimit):
        await harness.handle(make_record(message(3, SAFE).value, offset=1, timestamp=1))


async def test_a_bug_that_goes_away_makes_no_dead_letter() -> None:
    class Once(BuggyScorer):
        async def score(self, texts: Sequence[str]) -> Any:
            if self.failures == 2:
                self._word = "no such word"
            return await super().score(texts)

    harness = Harness(Once("poisoned", RuntimeError("a bug")))
    await harness.handle(message(0, POISON))
    assert harness.audited == {0: "safe"}
    assert harness.dead == []


async def test_too_many_failures_stop_before_they_become_dead_letters() -> None:
    harness = Harness(BuggyScorer("poisoned", RuntimeError("a bug")), failures=2)
    with pytest.raises(DeadLetterLimit):
        await harness.handle(*(message(i, f"{POISON} {i}.") for i in range(3)), message(3, SAFE))
    assert harness.publisher.events == []


async def test_a_model_that_does_not_fit_stops_the_worker_and_dead_letters_nothing() -> None:
    harness = Harness(BuggyScorer("", ModelMismatch("other tensors")))
    with pytest.raises(ModelMismatch):
        await harness.handle(message(0, UNSAFE), make_record(UNREADABLE, offset=1))
    assert harness.publisher.events == []


async def test_a_redelivered_record_is_skipped() -> None:
    harness = Harness()
    await harness.handle(message(0, UNSAFE), make_record(UNREADABLE, offset=1))
    published = list(harness.publisher.events)
    await harness.handle(message(0, UNSAFE), make_record(UNREADABLE, offset=1), message(2, SAFE))
    assert [e.topic for e in harness.publisher.events[len(published) :]] == ["verdicts"]
    assert harness.audited == {0: "unsafe", 1: "invalid", 2: "safe"}


@pytest.mark.parametrize(
    "other",
    [
        make_record(b"{}", offset=1),
        make_record(b"{}", partition=1),
        make_record(b"{}", topic="other"),
        make_record(b"{}", key=b"other"),
        make_record(b"{}", timestamp=1),
    ],
    ids=["offset", "partition", "topic", "key", "time"],
)
async def test_only_the_same_record_counts_as_done(other: ConsumerRecord) -> None:
    harness = Harness()
    await harness.handle(make_record(b"{}"))
    await harness.handle(other)
    assert len(harness.on("dead")) == 2


async def test_a_record_whose_events_were_not_acknowledged_is_not_done() -> None:
    class Away(RecordingPublisher):
        async def publish(self, events: Sequence[Event]) -> list[Event]:
            raise asyncio.CancelledError

    store = MemoryStore()
    stopped = Harness(store=store, publisher=Away())
    with pytest.raises(asyncio.CancelledError):
        await stopped.handle(message(0, UNSAFE))
    after = Harness(store=store)
    await after.handle(message(0, UNSAFE))
    assert after.audited == {0: "unsafe"}


async def test_without_a_store_the_stream_goes_on_and_repeats_are_identical() -> None:
    harness = Harness(store=FailingStore())
    await harness.handle(message(0, UNSAFE))
    await harness.handle(message(0, UNSAFE))
    half = len(harness.publisher.events) // 2
    assert half == 2
    assert harness.publisher.events[:half] == harness.publisher.events[half:]


async def test_an_event_that_the_broker_refuses_becomes_a_dead_letter_without_payload() -> None:
    publisher = RecordingPublisher(refuse=lambda event: event.topic == "flags")
    harness = Harness(publisher=publisher)
    await harness.handle(message(0, UNSAFE), message(1, SAFE))
    assert len(publisher.refused) == 1
    assert harness.dead == [("output_too_large", None)]
    dead = headers(harness.on("dead")[0])
    assert (dead["__connect.errors.offset"], dead["guardline.payload"]) == (b"0", b"omitted")
    assert harness.audited == {0: "unsafe", 1: "safe"}


async def test_an_unreadable_record_too_large_to_keep_is_a_dead_letter_without_payload() -> None:
    publisher = RecordingPublisher(refuse=lambda event: len(event.value or b"") > 1000)
    harness = Harness(publisher=publisher)
    await harness.handle(make_record(b"x" * 2000), message(1, SAFE))
    assert harness.dead == [("output_too_large", None)]
    assert harness.audited == {0: "invalid", 1: "safe"}


async def test_two_refused_events_of_one_record_are_one_dead_letter() -> None:
    harness = Harness(publisher=RecordingPublisher(refuse=lambda event: event.topic in ("flags", "review")))
    await harness.handle(message(0, f"{UNSAFE} {REVIEW}"))
    assert len(harness.on("dead")) == 1


async def test_a_broker_that_refuses_even_that_stops_the_worker() -> None:
    harness = Harness(publisher=RecordingPublisher(refuse=lambda event: event.topic in ("flags", "dead")))
    with pytest.raises(DeadLetterLimit):
        await harness.handle(message(0, UNSAFE))
    assert await harness.store.get([_done_key(make_package().reference, message(0, UNSAFE))]) == [None]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(message(1, UNSAFE, tenant="\ud800"), id="surrogate in tenant"),
        pytest.param(message(1, UNSAFE, model="\ud800"), id="surrogate in model"),
        pytest.param(message(1, UNSAFE, conversation_id="\ud800"), id="surrogate in conversation"),
        pytest.param(message(1, UNSAFE + "\ud800"), id="surrogate in text"),
        pytest.param(make_record(message(1, UNSAFE).value, offset=1, timestamp=1_700_000_000_000_000), id="time in us"),
        pytest.param(make_record(UNREADABLE, offset=1, timestamp=2**63 - 1), id="unreadable with odd time"),
        pytest.param(make_record(message(1, UNSAFE).value, offset=1, timestamp=-1), id="no time"),
        pytest.param(make_record(message(1, UNSAFE).value, offset=1, key=None), id="no key"),
        pytest.param(
            make_record(message(1, UNSAFE).value, offset=1, headers=[("traceparent", b"\xff")]), id="odd trace"
        ),
    ],
)
async def test_no_record_stops_the_stream(odd: ConsumerRecord) -> None:
    harness = Harness()
    await harness.handle(message(0, UNSAFE), odd, message(2, SAFE))
    assert harness.audited.keys() == {0, 1, 2}
    assert (harness.audited[0], harness.audited[2]) == ("unsafe", "safe")


@pytest.mark.parametrize(
    ("times", "stops_at"),
    [
        ([0, 1], None),
        ([0, 1, 2], 2),
        ([0, 30, 60], 2),
        ([0, 30, 60.1], None),
        ([0, 60, 121, 180, 181], 4),
        ([0, 100, 200, 201, 300, 400], None),
    ],
)
def test_failure_limit_counts_the_last_minute(times: list[float], stops_at: int | None) -> None:
    limit = FailureLimit(2)
    stopped_at = None
    for i, now in enumerate(times):
        try:
            limit.count(now)
        except DeadLetterLimit:
            stopped_at = i
            break
    assert stopped_at == stops_at


class FakeEvent:
    """A chunk as Faust hands it on, and whether it was acknowledged."""

    def __init__(self, *records: ConsumerRecord, log: list[str] | None = None) -> None:
        self.value = records
        self.message = SimpleNamespace(tp=("llm.outputs", 0))
        self.acked = False
        self._log = log

    def ack(self) -> None:
        self.acked = True
        if self._log is not None:
            self._log.append("ack")


class FakeStream:
    """The slice of a Faust stream that the agent uses; ends after its events."""

    def __init__(self, events: Iterable[FakeEvent]) -> None:
        self._events = list(events)
        self.acks_itself = True
        self.taken = 0

    def noack(self) -> "FakeStream":
        self.acks_itself = False
        return self

    async def events(self) -> AsyncIterator[FakeEvent]:
        for event in self._events:
            self.taken += 1
            yield event


async def settle() -> None:
    """Let every task that can go on go on."""
    for _ in range(50):
        await asyncio.sleep(0)


class Gate:
    """Stands for a handler: waits until the test lets a chunk through, then does `then`."""

    def __init__(self, then: Callable[[Any], None] = lambda _: None) -> None:
        self.waiting: dict[Any, asyncio.Event] = {}
        self._then = then

    async def handle(self, records: Any, turn: Turn) -> None:
        self.waiting[records] = asyncio.Event()
        await self.waiting[records].wait()
        self._then(records)

    def open(self, records: Any) -> None:
        self.waiting.pop(records).set()


class Name(str):
    """A record that is known by its name."""

    value: bytes

    def __new__(cls, name: object, size: int = 0) -> "Name":
        own = super().__new__(cls, name)
        own.value = bytes(size)
        return own


def agent(
    handler: Any, publisher: RecordingPublisher | None = None, *, in_flight: int = 2, max_bytes: int = 1000
) -> tuple[Callable[[Any], Any], list[BaseException]]:
    failures: list[BaseException] = []

    async def on_failure(error: BaseException) -> None:
        failures.append(error)

    own = ScreenAgent(
        handler,
        publisher or RecordingPublisher(),
        pace=ChunkPace(512),
        in_flight=in_flight,
        max_bytes=max_bytes,
        on_failure=on_failure,
    )
    return own, failures


async def test_a_chunk_is_acknowledged_only_after_its_events_are_published() -> None:
    log: list[str] = []

    class Logging(RecordingPublisher):
        async def publish(self, events: Sequence[Event]) -> list[Event]:
            await asyncio.sleep(0)
            log.append("published")
            return await super().publish(events)

    harness = Harness(publisher=Logging())
    screen, failures = agent(harness.handler, harness.publisher)
    stream = FakeStream([FakeEvent(message(0, UNSAFE), log=log)])
    await screen(stream)
    await settle()
    assert log == ["published", "ack"]
    assert not stream.acks_itself
    assert failures == []


async def test_a_chunk_whose_handler_fails_is_not_acknowledged_and_the_others_are() -> None:
    def fail(records: Any) -> None:
        if records == ("bad",):
            raise DeadLetterLimit("enough")

    gate = Gate(fail)
    screen, failures = agent(gate)
    good, bad, last = (FakeEvent(Name(name)) for name in ("good", "bad", "last"))
    task = asyncio.create_task(screen(FakeStream([good, bad, last])))
    await settle()
    gate.open(("bad",))
    await settle()
    gate.open(("good",))
    gate.open(("last",))
    await task
    await settle()
    assert (good.acked, bad.acked, last.acked) == (True, False, True)
    assert [type(error) for error in failures] == [DeadLetterLimit]


async def test_chunks_end_in_any_order_and_no_more_are_taken_than_slots() -> None:
    gate = Gate()
    screen, _ = agent(gate, in_flight=2)
    events = [FakeEvent(Name(i)) for i in range(4)]
    task = asyncio.create_task(screen(FakeStream(events)))
    await settle()
    assert list(gate.waiting) == [("0",), ("1",)]
    gate.open(("1",))
    await settle()
    assert [event.acked for event in events] == [False, True, False, False]
    assert list(gate.waiting) == [("0",), ("2",)]
    for i in "20":
        gate.open((i,))
    await settle()
    gate.open(("3",))
    await task
    await settle()
    assert all(event.acked for event in events)


async def test_no_more_bytes_are_in_work_than_allowed_but_a_large_chunk_gets_through_alone() -> None:
    gate = Gate()
    screen, _ = agent(gate, in_flight=8, max_bytes=100)
    events = [FakeEvent(Name(i, size)) for i, size in enumerate((60, 40, 1, 500, 1))]
    task = asyncio.create_task(screen(FakeStream(events)))
    await settle()
    assert list(gate.waiting) == [("0",), ("1",)]
    gate.open(("1",))
    await settle()
    assert list(gate.waiting) == [("0",), ("2",)]  # the large one waits, and nothing overtakes it
    gate.open(("0",))
    gate.open(("2",))
    await settle()
    assert list(gate.waiting) == [("3",)]
    gate.open(("3",))
    await settle()
    gate.open(("4",))
    await task
    await settle()
    assert all(event.acked for event in events)


async def test_a_cancelled_chunk_is_not_acknowledged() -> None:
    gate = Gate()
    screen, failures = agent(gate)
    event = FakeEvent(Name("chunk"))
    before = asyncio.all_tasks()
    await screen(FakeStream([event]))
    await settle()
    (worker,) = asyncio.all_tasks() - before
    worker.cancel()
    await settle()
    assert worker.cancelled()
    assert not event.acked
    assert failures == []


async def test_chunks_of_a_partition_publish_in_turn_although_they_are_screened_together() -> None:
    """The first chunk is scored slowly; its events still leave before those of the second."""

    class FirstIsSlow(FakeScorer):
        async def score(self, texts: Sequence[str]) -> ModelScores:
            for _ in range(20 if SAFE in texts else 0):
                await asyncio.sleep(0)
            return await super().score(texts)

    harness = Harness(scorer=FirstIsSlow())
    screen, failures = agent(harness.handler, harness.publisher)
    await screen(FakeStream([FakeEvent(message(0, SAFE)), FakeEvent(message(1, UNSAFE))]))
    await settle()
    await asyncio.sleep(0.01)
    assert failures == []
    assert list(harness.audited) == [0, 1]


async def test_cancel_gives_up_what_is_unfinished() -> None:
    gate = Gate()
    own, _ = agent(gate)
    event = FakeEvent(Name("chunk"))
    await own(FakeStream([event]))
    await settle()
    await own.cancel()
    assert not event.acked


async def test_nonsense_from_the_model_ends_as_a_dead_letter_and_does_not_block_the_partition() -> None:
    harness = Harness(scorer=BuggyScorer("400", ScorerFailed("NaN")))
    await harness.handle(message(0, SAFE), message(1, UNSAFE))
    assert harness.audited == {0: "safe", 1: "invalid"}
    assert [reason for reason, _ in harness.dead] == ["processing_error"]
