"""The streaming worker as a process: embedded broker and real Kafka, real Redis, real Triton."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord

from monitor.package import ModelPackage
from monitor.records import FlagRecord, VerdictRecord
from monitor.types import Verdict
from tests.e2e.worker import Topics, Worker, collect, committed
from tests.fixtures_kafka import Broker
from tests.fixtures_services import LocalRedis, LocalTriton, free_ports

pytestmark = [pytest.mark.model, pytest.mark.connected]

SAFE = "Remdesivir is given as a 200 mg loading dose on day 1."
UNSAFE = "Remdesivir is given as a 400 mg loading dose on day 1."
HEADERS = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]


def record(identifier: object, text: object) -> bytes:
    return json.dumps({"id": identifier, "text": text}).encode()


#: What platforms send some day, and what must become of it: a verdict of the message, or a dead letter's reason.
INPUTS: dict[str, tuple[bytes | None, Verdict | str]] = {
    "safe": (record("safe", SAFE), Verdict.SAFE),
    "unsafe": (record("unsafe", f"Hello!\n\n- {UNSAFE}\n- Take care."), Verdict.UNSAFE),
    "unreadable JSON": (b'{"id": "x", "text": ', "unreadable_json"),
    "not an object": (b"[1, 2]", "wrong_type"),
    "number for text": (record("x", 7), "wrong_type"),
    "null for text": (record("x", None), "wrong_type"),
    "object for text": (record("x", {"a": 1}), "wrong_type"),
    "number for id": (record(7, SAFE), "wrong_type"),
    "text missing": (b'{"id": "x"}', "missing_field"),
    "id missing": (b'{"text": "x"}', "missing_field"),
    "id empty": (record("", SAFE), "invalid_field"),
    "text empty": (record("empty", ""), Verdict.OUT_OF_SCOPE),
    "white space only": (record("white", " \n\t\u00a0 "), Verdict.OUT_OF_SCOPE),
    "not UTF-8": (b'{"id": "x", "text": "\xff\xfe"}', "invalid_utf8"),
    "null value": (None, "null_value"),
    "empty value": (b"", "empty_value"),
    "deep nesting": (b"[" * 100_000, "unreadable_json"),
    "lone surrogate": (
        b'{"id": "surrogate", "text": "Remdesivir 400 mg \\ud83d loading dose on day 1."}',
        Verdict.UNSAFE,
    ),
    "zero width": (
        record("zero", "Rem\u200bdesi\u00advir is given as a 4\u200b00 mg load\u2060ing dose on day 1."),
        Verdict.UNSAFE,
    ),
    "control characters": (
        record("control", "\x00\x07Remdesivir is given as a 400 mg\x1b loading dose on day 1."),
        Verdict.UNSAFE,
    ),
    "another language": (
        record("french", "Le remdesivir est administré à une dose de charge de 400 mg le premier jour du traitement."),
        Verdict.ABSTAIN,
    ),
    "another subject": (record("chat", "Hello! Your parcel arrives on Monday."), Verdict.OUT_OF_SCOPE),
    "unknown fields": (
        json.dumps({"id": "extra", "text": SAFE, "new": [1], "metadata": {"a": 1}}).encode(),
        Verdict.SAFE,
    ),
}


async def send(bootstrap: str, topic: str, values: list[bytes | None], key: bytes | None = b"k") -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=20_000_000)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, key=key, headers=HEADERS)
    finally:
        await producer.stop()


def reason_of(letter: ConsumerRecord) -> str:
    return dict(letter.headers)["guardline.reason"].decode()


async def test_every_input_gets_a_verdict_or_a_dead_letter(
    broker: Broker, redis_server: LocalRedis, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(broker)
    port = free_ports(1)[0]
    worker = Worker(
        broker, model_package.path, topics, tmp_path / "log",
        store="redis", redis_url=redis_server.url, metrics_port=str(port),
    )  # fmt: skip
    async with worker:
        await send(broker.bootstrap, topics.names["outputs"], [value for value, _ in INPUTS.values()])
        out = await collect(broker.bootstrap, topics, len(INPUTS), worker)
        await asyncio.sleep(5)  # the gauges are renewed this often
        for path in ("live", "ready"):
            with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/{path}") as state:
                assert state.status == 200
        answer = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics")
        figures = answer.read().decode()
        answer.close()
        assert await worker.stop() == 0, worker.log.read_text()[-3000:]

    audits = [VerdictRecord.model_validate_json(r.value) for r in out["verdicts"]]
    assert len(audits) == len(INPUTS)
    verdicts = {a.message_id: a.verdict for a in audits if a.message_id}
    expected_verdicts = {json.loads(v)["id"]: e for v, e in INPUTS.values() if v and isinstance(e, Verdict)}
    assert verdicts == expected_verdicts

    expected_dead = sorted((v, e) for v, e in INPUTS.values() if not isinstance(e, Verdict) and v is not None)
    assert sorted((r.value, reason_of(r)) for r in out["deadletter"] if r.value is not None) == expected_dead
    assert [reason_of(r) for r in out["deadletter"] if r.value is None] == ["null_value"]
    for letter in out["deadletter"]:
        assert letter.key == b"k"
        assert letter.headers[: len(HEADERS)] == tuple(HEADERS)

    records = [FlagRecord.model_validate_json(r.value) for r in out["flags"]]
    # Another statement of the answer may be flagged besides: how good the model is, is not tested here.
    flags = {f.message_id: f for f in sorted(records, key=lambda f: f.statement == UNSAFE)}
    assert flags.keys() == {i for i, e in expected_verdicts.items() if e is Verdict.UNSAFE}
    flag = flags["unsafe"]
    text = json.loads(INPUTS["unsafe"][0] or b"")["text"]
    assert text[flag.start : flag.end] == flag.statement == UNSAFE
    assert flag.evidence.recommendation == "2.1-loading-dose"
    for event in (*out["flags"], *out["review"], *out["verdicts"]):
        headers = dict(event.headers)
        assert headers["traceparent"] == HEADERS[0][1]
        assert headers["ce_specversion"] == b"1.0"
    assert await committed(broker.bootstrap, topics.names["outputs"], topics.names["outputs"], 2) == len(INPUTS)
    assert f'guardline_messages_total{{verdict="invalid"}} {len(out["deadletter"])}.0' in figures
    assert figures.count("guardline_lag_records{") == 2
    assert f'guardline_lag_records{{partition="0",topic="{topics.names["outputs"]}"}} 0.0' in figures
    log = worker.log.read_text()
    assert "loading dose" not in log
    assert log.count('"event": "screened"') == len(expected_verdicts)


async def test_letters_that_have_neither_key_nor_value_of_their_own(
    embedded: Broker, model_package: ModelPackage, tmp_path: Path
) -> None:
    """aiokafka sends no such record: a tombstone without key, and an input whose dead letter the topic refuses."""
    topics = await Topics.create(embedded)
    worker = Worker(embedded, model_package.path, topics, tmp_path / "log", publish_max_bytes="5000")
    async with worker:
        large = b"x" * 6000
        await send(embedded.bootstrap, topics.names["outputs"], [None], key=b"")
        await send(embedded.bootstrap, topics.names["outputs"], [large], key=None)
        await send(embedded.bootstrap, topics.names["outputs"], [record("next", SAFE)])
        out = await collect(embedded.bootstrap, topics, 3, worker)
        assert await worker.stop() == 0, worker.log.read_text()[-3000:]
    letters = sorted((reason_of(r), r.value) for r in out["deadletter"])
    assert letters == [("null_value", None), ("output_too_large", None)]


async def test_megabytes_are_judged(broker: Broker, model_package: ModelPackage, tmp_path: Path) -> None:
    """10 MB on a real broker with raised limits; the embedded one keeps 5 MB a partition."""
    topics = await Topics.create(broker)
    sentences = 340_000 if broker.kind != "embedded" else 110_000
    huge = "Your parcel arrives on Monday. " * sentences + UNSAFE
    worker = Worker(broker, model_package.path, topics, tmp_path / "log")
    async with worker:
        await send(broker.bootstrap, topics.names["outputs"], [record("huge", huge), record("next", SAFE)])
        # A third of a million statements are a minute's work on a quiet machine.
        out = await collect(broker.bootstrap, topics, 2, worker, patience=400)
        assert await worker.stop() == 0
    verdicts = {
        a.message_id: a for a in (VerdictRecord.model_validate_json(r.value) for r in out["verdicts"]) if a.message_id
    }
    assert verdicts["next"].verdict is Verdict.SAFE
    flags = [FlagRecord.model_validate_json(r.value) for r in out["flags"]]
    assert [(f.message_id, huge[f.start : f.end]) for f in flags] == [("huge", UNSAFE)]


async def test_triton_going_away_pauses_and_loses_nothing(
    embedded: Broker, triton: LocalTriton, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(embedded)
    worker = Worker(
        embedded, model_package.path, topics, tmp_path / "log",
        scorer="triton", triton_url=triton.url, triton_timeout="5", chunk_records="4",
    )  # fmt: skip
    async with worker:
        await send(embedded.bootstrap, topics.names["outputs"], [record(f"a{i}", UNSAFE) for i in range(5)])
        await collect(embedded.bootstrap, topics, 5, worker)
        triton.stop()
        await send(embedded.bootstrap, topics.names["outputs"], [record(f"b{i}", f"{UNSAFE} {i}") for i in range(20)])
        for _ in range(100):
            if "scorer_unavailable" in worker.log.read_text():
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the worker did not notice that Triton was away")
        triton.start()
        out = await collect(embedded.bootstrap, topics, 25, worker)
        assert await worker.stop() == 0
    assert len({VerdictRecord.model_validate_json(r.value).message_id for r in out["verdicts"]}) == 25
    assert out["deadletter"] == []


async def test_killed_worker_loses_nothing(
    broker: Broker, redis_server: LocalRedis, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(broker)
    own = {"store": "redis", "redis_url": redis_server.url, "chunk_records": "1"}
    # Different texts, so that none comes from the cache and the work takes its time.
    sent = [
        record(f"m{i}", f"{UNSAFE if i % 4 == 0 else SAFE} " + f"Bed {i} gets remdesivir. " * 8) for i in range(400)
    ]
    first = Worker(broker, model_package.path, topics, tmp_path / "first", **own)
    async with first:
        await send(broker.bootstrap, topics.names["outputs"], sent[:350])
        await collect(broker.bootstrap, topics, 1, first, settle=False)
        await first.stop(signal.SIGKILL)
    group = topics.names["outputs"]
    assert await committed(broker.bootstrap, group, group, 2) < 350, "killed too late to prove anything"
    second = Worker(broker, model_package.path, topics, tmp_path / "second", **own)
    async with second:
        await send(broker.bootstrap, topics.names["outputs"], sent[350:])
        out = await collect(broker.bootstrap, topics, 400, second)
        assert await second.stop() == 0
    audits = [VerdictRecord.model_validate_json(r.value) for r in out["verdicts"]]
    assert {a.message_id for a in audits} == {f"m{i}" for i in range(400)}
    by_id: dict[str, set[bytes]] = {}
    for event in (*out["verdicts"], *out["flags"]):
        by_id.setdefault(dict(event.headers)["ce_id"].decode(), set()).add(event.value)
    assert all(len(values) == 1 for values in by_id.values()), "a repeated event differs from the first"
    assert await committed(broker.bootstrap, topics.names["outputs"], topics.names["outputs"], 2) == 400
