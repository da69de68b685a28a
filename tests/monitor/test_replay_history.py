from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from monitor.assessment import Assessment
from monitor.errors import ConfigurationError, ModelMismatch, ScorerFailed, ScorerUnavailable
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.records import ModelReference, VerdictRecord, timestamp
from monitor.replay import command as command_module
from monitor.replay import history
from monitor.replay.command import command
from monitor.replay.history import Audits, Decision, Judge, rescore
from monitor.replay.places import Span
from monitor.replay.reading import opened
from monitor.screening import Screening
from monitor.settings import DEFAULT_MODEL, Settings
from monitor.types import Verdict
from tests.fixtures_kafka import Broker, consume_all
from tests.monitor.fakes import (
    OFF_TOPIC,
    REVIEW,
    SAFE,
    UNSAFE,
    BuggyScorer,
    FakeScorer,
    make_assessment,
    make_package,
    make_record,
    write_package,
)

LENIENT = {"unsafe": 0.99, "review": 0.4, "in_scope": 0.5}


def message(number: int, text: str) -> bytes:
    return json.dumps({"id": f"m-{number}", "text": text}).encode()


def audit(
    topic: str, offset: int, verdict: str, *, score: float = 0.5, partition: int = 0, version: str = "0"
) -> bytes:
    """An audit record, as a worker writes it."""
    record = VerdictRecord(
        id=f"{partition}-{offset}",
        message_id="m",
        tenant=None,
        verdict=Verdict(verdict),
        score=score,
        reason=None,
        counts={},
        statements=[],
        model=ModelReference(name="tiny", version=version),
        topic=topic,
        partition=partition,
        offset=offset,
        received_at=timestamp(0),
    )
    return record.model_dump_json().encode()


# --- audit records --------------------------------------------------------------------------------------------------

HERE = TopicPartition("llm.outputs", 0)


def decided(values: Sequence[bytes | None], offset: int = 10) -> Decision | None:
    audits = Audits({HERE: Span(10, 13)})
    for value in values:
        audits.add(value)
    return audits.of(make_record(b"", offset=offset))


def test_the_last_audit_record_of_an_input_counts() -> None:
    first, second = audit("llm.outputs", 10, "safe"), audit("llm.outputs", 10, "unsafe", score=0.9, version="2")
    assert decided([first, second]) == Decision(Verdict.UNSAFE, 0.9, "tiny@2")
    assert decided([second, first, audit("llm.outputs", 12, "review")]) == Decision(Verdict.SAFE, 0.5, "tiny@0")
    assert decided([first], offset=11) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"17",
        b"{}",
        audit("other", 10, "safe"),
        audit("llm.outputs", 10, "safe", partition=1),
        audit("llm.outputs", 9, "safe"),
        audit("llm.outputs", 13, "safe"),
        audit("llm.outputs", 10, "safe").replace(b'"safe"', b'"perfect"'),
        audit("llm.outputs", 10, "safe").replace(b'"offset":10', b'"offset":"10"'),
        audit("llm.outputs", 10, "safe").replace(b'"offset":10', b'"offset":10.0'),
        audit("llm.outputs", 10, "safe").replace(b'"partition":0', b'"partition":[0]'),
        audit("llm.outputs", 10, "safe").replace(b'"score":0.5', b'"score":null'),
    ],
)
def test_what_is_no_audit_record_of_the_span_is_passed_over(value: bytes | None) -> None:
    assert [decided([value], offset) for offset in (10, 11, 12)] == [None, None, None]


def test_more_offsets_than_fit_are_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="narrow --from"):
        Audits({HERE: Span(0, 10**10)})


# --- decisions ------------------------------------------------------------------------------------------------------


def judge(scorer: FakeScorer | None = None, **changes: Any) -> Judge:
    package = make_package(**changes)
    assessment = make_assessment(scorer or FakeScorer(), **changes)
    return Judge(Screening(package, assessment=assessment, store=MemoryStore()))


async def test_records_are_decided_on_as_a_worker_would() -> None:
    values = [message(0, UNSAFE), b"{", message(2, f"{SAFE} {REVIEW}"), None, message(4, OFF_TOPIC), message(5, "")]
    decisions = await judge().decide([make_record(value, offset=n) for n, value in enumerate(values)])
    assert [(d.verdict.value, d.score, d.message_id) for d in decisions] == [
        ("unsafe", 0.95, "m-0"),
        ("invalid", 0.0, None),
        ("review", 0.6, "m-2"),
        ("invalid", 0.0, None),
        ("out_of_scope", 0.0, "m-4"),
        ("out_of_scope", 0.0, "m-5"),
    ]
    assert [d.text for d in decisions] == [UNSAFE, None, REVIEW, None, OFF_TOPIC, None]
    assert {d.by for d in decisions} == {"tiny@1.0.0"}


async def test_a_message_on_which_the_model_fails_is_invalid_and_its_neighbours_are_not() -> None:
    records = [make_record(message(n, text), offset=n) for n, text in enumerate([SAFE, REVIEW, UNSAFE])]
    with capture_logs():
        decisions = await judge(BuggyScorer("maybe", ScorerFailed("nonsense"))).decide(records)
    assert [d.verdict.value for d in decisions] == ["safe", "invalid", "unsafe"]


@pytest.mark.parametrize("error", [ScorerUnavailable("away"), ModelMismatch("another")])
async def test_a_model_that_cannot_be_used_ends_it(error: Exception) -> None:
    with pytest.raises(type(error)):
        await judge(BuggyScorer("remdesivir", error)).decide([make_record(message(0, SAFE))])


# --- with a broker --------------------------------------------------------------------------------------------------


class History:
    """Past inputs and audit records, and two model packages: `old` and the more lenient `new`."""

    def __init__(self, broker: Broker, inputs: str, verdicts: str, folder: Path) -> None:
        self.broker, self.inputs, self.verdicts = broker, inputs, verdicts
        self.old = write_package(folder / "old")
        self.new = write_package(folder / "new", version="2.0.0", thresholds=LENIENT)

    @classmethod
    async def create(cls, broker: Broker, folder: Path, partitions: int = 1) -> History:
        return cls(broker, await broker.topic("inputs", partitions), await broker.topic("verdicts", 2), folder)

    async def write(self, topic: str, values: Sequence[bytes | None], partition: int | None = 0) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, acks="all")
        await producer.start()
        try:
            await asyncio.gather(
                *[await producer.send(topic, value, key=b"k", partition=partition) for value in values]
            )
        finally:
            await producer.stop()

    def run(self, *arguments: str) -> Result:
        environment = {
            "GUARDLINE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "GUARDLINE_TOPIC_OUTPUTS": self.inputs,
            "GUARDLINE_TOPIC_VERDICTS": self.verdicts,
            "GUARDLINE_MODEL": str(self.old),
        }
        return CliRunner().invoke(command, ["--model", str(self.new), *arguments], env=environment)

    async def rescore(self, *arguments: str) -> dict[str, Any]:
        result = await asyncio.to_thread(self.run, "--json", *arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
        return report | {"code": result.exit_code}


@pytest.fixture(autouse=True)
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run the command in a thread, where no signals arrive, and with the fake scorer in place of ONNX Runtime."""

    def build(_: Settings, package: ModelPackage, store: MemoryStore) -> Screening:
        return Screening(package, assessment=Assessment(package.manifest, FakeScorer(), None), store=store)

    monkeypatch.setattr(command_module, "build_screening", build)
    monkeypatch.setattr(command_module, "stopping_on_signals", lambda _: nullcontext())
    monkeypatch.setattr(command_module, "configure", lambda *_: None)


INPUTS = [message(0, UNSAFE), message(1, SAFE), b"{", message(3, REVIEW), message(4, UNSAFE)]


async def test_flips_against_another_package(broker: Broker, tmp_path: Path) -> None:
    past = await History.create(broker, tmp_path)
    await past.write(past.inputs, INPUTS)
    report = await past.rescore("--from", "earliest", "--against", str(past.old))
    assert (report["code"], report["read"], report["flipped"], report["finished"]) == (1, 5, 2, True)
    assert report["counts"] == {
        "unsafe": {"review": 2},
        "safe": {"safe": 1},
        "invalid": {"invalid": 1},
        "review": {"review": 1},
    }
    assert report["before"] == {"tiny@1.0.0": 5}
    assert report["flips"][0] == {
        "topic": past.inputs,
        "partition": 0,
        "offset": 0,
        "message_id": "m-0",
        "before": {"verdict": "unsafe", "score": 0.95, "by": "tiny@1.0.0"},
        "after": {"verdict": "review", "score": 0.95, "by": "tiny@2.0.0"},
    }
    assert report["resume"] == f"{past.inputs}/0:5"
    assert len(await consume_all(broker.bootstrap, past.inputs)) == 5
    assert await consume_all(broker.bootstrap, past.verdicts) == []


async def test_what_was_decided_counts_and_the_active_model_stands_in_where_nothing_is_known(
    broker: Broker, tmp_path: Path
) -> None:
    past = await History.create(broker, tmp_path)
    await past.write(past.inputs, INPUTS)
    known = [audit(past.inputs, 0, "review"), audit(past.inputs, 1, "unsafe", score=0.91), b"junk"]
    await past.write(past.verdicts, known, partition=None)
    report = await past.rescore("--from", "earliest")
    assert report["before"] == {"tiny@0": 2, "tiny@1.0.0": 3}
    assert [(f["offset"], f["before"]["verdict"], f["after"]["verdict"]) for f in report["flips"]] == [
        (1, "unsafe", "safe"),
        (4, "unsafe", "review"),
    ]
    assert report["flips"][0]["before"] == {"verdict": "unsafe", "score": 0.91, "by": "tiny@0"}


async def test_the_active_model_is_not_loaded_when_every_input_has_an_audit_record(
    embedded: Broker, tmp_path: Path
) -> None:
    past = await History.create(embedded, tmp_path)
    await past.write(past.inputs, [message(0, SAFE)])
    await past.write(past.verdicts, [audit(past.inputs, 0, "safe")])
    past.old = tmp_path / "gone"
    report = await past.rescore("--from", "earliest")
    assert (report["code"], report["flipped"]) == (0, 0)


async def test_exact_offsets_are_read_and_no_others(broker: Broker, tmp_path: Path) -> None:
    past = await History.create(broker, tmp_path, partitions=2)
    await past.write(past.inputs, [message(n, UNSAFE) for n in range(6)], partition=0)
    await past.write(past.inputs, [message(n, UNSAFE) for n in range(6)], partition=1)
    report = await past.rescore(
        "--from", f"{past.inputs}/0:1", "--to", f"{past.inputs}/0:4", "--against", str(past.old)
    )
    assert [(f["partition"], f["offset"]) for f in report["flips"]] == [(0, 1), (0, 2), (0, 3)]
    both = f"{past.inputs}/0:5,{past.inputs}/1:4"
    report = await past.rescore("--from", both, "--against", str(past.old))
    assert sorted((f["partition"], f["offset"]) for f in report["flips"]) == [(0, 5), (1, 4), (1, 5)]


async def test_only_the_first_flips_are_listed_and_all_are_counted(embedded: Broker, tmp_path: Path) -> None:
    past = await History.create(embedded, tmp_path)
    await past.write(past.inputs, [message(n, UNSAFE) for n in range(150)])
    report = await past.rescore("--from", "earliest", "--flips", "3")
    assert (report["read"], report["flipped"], len(report["flips"])) == (150, 150, 3)
    assert (await past.rescore("--from", "latest"))["code"] == 0


async def test_text_is_shown_only_on_request_and_without_control_characters(embedded: Broker, tmp_path: Path) -> None:
    past = await History.create(embedded, tmp_path)
    await past.write(past.inputs, [message(0, f"{SAFE} [bold]\x1b[31m{UNSAFE}")])
    silent = await asyncio.to_thread(past.run, "--from", "earliest")
    assert silent.exit_code == 1
    assert "loading dose" not in silent.output
    assert re.search(rf"{past.inputs}/0:0 +m-0 +unsafe 0.95 +review 0.95", silent.output)
    assert re.search(r"unsafe +review +1", silent.output)
    telling = await asyncio.to_thread(past.run, "--from", "earliest", "--show-text")
    assert "wrong remdesivir loading dose" in telling.output
    assert "\x1b" not in telling.output
    assert UNSAFE in (await past.rescore("--from", "earliest", "--show-text"))["flips"][0]["after"]["text"]
    assert "text" not in (await past.rescore("--from", "earliest"))["flips"][0]["after"]


async def test_a_run_that_is_stopped_says_where_to_go_on(embedded: Broker, tmp_path: Path) -> None:
    past = await History.create(embedded, tmp_path)
    await past.write(past.inputs, [message(n, SAFE) for n in range(200)])
    here = TopicPartition(past.inputs, 0)
    stop = asyncio.Event()

    async def before() -> Judge:
        return judge()

    async with opened(Settings(kafka_bootstrap=embedded.bootstrap)) as consumer:
        report = await rescore(
            consumer,
            {here: Span(0, 200)},
            after=judge(),
            before=before,
            audits=None,
            flips=0,
            stop=stop,
            advance=lambda _: stop.set(),
        )
    assert not report.finished
    assert 0 < report.read < 200
    assert report.resume == {here: report.read}


async def test_gaps_in_the_offsets_do_not_stop_it(kafka_broker: Broker, tmp_path: Path) -> None:
    """A transaction's marker takes an offset, the last one here, and no consumer sees it."""
    past = await History.create(kafka_broker, tmp_path)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=past.inputs)
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(past.inputs, message(0, UNSAFE))
    finally:
        await producer.stop()
    report = await past.rescore("--from", "earliest")
    assert (report["read"], report["resume"]) == (1, f"{past.inputs}/0:2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "earliest", "--model", "/no/such/package"], "no model package"),
        (["--from", "earliest", "--against", "/no/such/package"], "no model package"),
        (["--from", "nowhere/0:0"], "not of the topic"),
    ],
)
async def test_what_cannot_be_done_is_said(embedded: Broker, tmp_path: Path, arguments: list[str], said: str) -> None:
    past = await History.create(embedded, tmp_path)
    result = await asyncio.to_thread(past.run, *arguments)
    assert isinstance(result.exception, ConfigurationError)
    assert said in str(result.exception)


@pytest.mark.model
async def test_the_package_that_ships_agrees_with_itself(
    embedded: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(command_module, "stopping_on_signals", lambda _: nullcontext())
    monkeypatch.setattr(command_module, "configure", lambda *_: None)
    monkeypatch.setattr(history, "_BATCH", 2)
    past = await History.create(embedded, tmp_path)
    past.old = past.new = DEFAULT_MODEL
    await past.write(
        past.inputs, [message(0, UNSAFE), message(1, "Remdesivir is given as a 400 mg loading dose."), b"{"]
    )
    report = await past.rescore("--from", "earliest")
    assert (report["code"], report["read"], report["flipped"]) == (0, 3, 0)
    assert report["counts"]["invalid"] == {"invalid": 1}
    shipped = ModelPackage.load(DEFAULT_MODEL).reference
    assert report["before"] == {f"{shipped.name}@{shipped.version}": 3}
