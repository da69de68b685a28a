"""`guardline audit reproduce`: the verdict again, from the package and the message that the log names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from monitor.audit.command import command
from monitor.errors import ConfigurationError
from monitor.events import EventFactory, Topics
from monitor.factory import build_screening
from monitor.intake import parse
from monitor.memory import MemoryStore
from monitor.models.pointer import Alias, Choice, FilePointer
from monitor.package import ModelPackage
from monitor.settings import DEFAULT_MODEL, load_settings
from tests.audit.logs import START, recorded
from tests.audit.packages import another_version
from tests.e2e.worker import Topics as WorkerTopics
from tests.e2e.worker import Worker, collect
from tests.fixtures_kafka import CHECKOUT, Broker, produce
from tests.monitor.fakes import make_record

ANSWERS = CHECKOUT / "trainer/data/corpus/messages.jsonl"
ANSWER = {
    "id": "m-1",
    "tenant": "north",
    "text": "Of course. Remdesivir is given as a 400 mg loading dose on day 1. Then 100 mg follow once a day.",
}


def run(*arguments: object, **settings: str) -> Result:
    environment = {f"GUARDLINE_{name.upper()}": value for name, value in settings.items()}
    return CliRunner().invoke(command, ["reproduce", *map(str, arguments)], env=environment)


def reproduced(*arguments: object, **settings: str) -> dict[str, Any]:
    result = run(*arguments, "--json", **settings)
    assert result.stdout, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if found["identical"] else 1)
    return found


async def screened(answer: dict[str, str], **settings: object) -> list[Any]:
    """Return the flags and reviews that a monitor with these settings publishes, as records of their topics."""
    own = load_settings(onnx_threads=1, **settings)
    package = ModelPackage.load(own.model)
    screening = build_screening(own, package, MemoryStore())
    value = json.dumps(answer).encode()
    try:
        (verdict,) = await screening.screen([parse(value)])
    finally:
        await screening.close()
    events = EventFactory(
        Topics("safety.flags", "safety.review", "safety.deadletter", None),
        model=package.reference,
        thresholds=screening.thresholds,
        include_text=True,
    ).of_verdict(make_record(value, topic="llm.outputs"), verdict)
    return [
        make_record(event.value, offset=n, topic=event.topic, headers=event.headers) for n, event in enumerate(events)
    ]


def log_of(folder: Path, records: Iterable[Any]) -> list[str]:
    """Record events in a log; return the ids of the flags."""
    own = list(records)
    asyncio.run(recorded(folder, own))
    return [json.loads(record.value)["id"] for record in own]


@pytest.fixture
def message(tmp_path: Path) -> Path:
    file = tmp_path / "message.json"
    file.write_text(json.dumps(ANSWER))
    return file


@pytest.mark.model
@pytest.mark.parametrize(
    "settings",
    [{}, {"threshold_unsafe": 0.9999, "threshold_review": 0.2}, {"verify": False}],
    ids=["as shipped", "other thresholds", "the encoder alone"],
)
def test_the_shipped_package_gives_the_identical_score(
    tmp_path: Path, message: Path, settings: dict[str, object]
) -> None:
    records = asyncio.run(screened(ANSWER, **settings))
    assert records
    for flag in log_of(tmp_path / "log", records):
        found = reproduced(flag, tmp_path / "log", "--message", message)
        assert found["identical"], found
        assert found["recorded"] == found["recomputed"]
        assert found["recorded"]["score"] > 0


@pytest.mark.model
def test_the_bare_text_will_do_and_no_text_is_printed(tmp_path: Path) -> None:
    (flag, *_) = log_of(tmp_path / "log", asyncio.run(screened(ANSWER)))
    file = tmp_path / "message.txt"
    file.write_text(ANSWER["text"])
    result = run(flag, tmp_path / "log", "--message", file)
    assert result.exit_code == 0, result.output
    assert "identical" in result.stdout
    assert "loading" not in result.output.replace("2.1-loading-dose", "")


@pytest.mark.model
def test_what_differs_is_named(tmp_path: Path, message: Path) -> None:
    (record, *_) = asyncio.run(screened(ANSWER))
    value = json.loads(record.value)
    changed = value | {"score": value["score"] - 1e-6, "category": "duration"}
    elsewhere = value | {"id": "1" * 32, "start": value["start"] + 1}
    log = tmp_path / "log"
    flag, other = log_of(
        log,
        [
            make_record(json.dumps(v).encode(), offset=n, topic="safety.flags")
            for n, v in enumerate((changed, elsewhere))
        ],
    )
    found = reproduced(flag, log, "--message", message)
    assert (found["identical"], found["differences"]) == (False, ["score", "category"])
    result = run(flag, log, "--message", message)
    assert (result.exit_code, "different: score, category" in result.stdout) == (1, True)
    assert reproduced(other, log, "--message", message)["recomputed"] is None
    assert "no such statement" in run(other, log, "--message", message).stdout


@pytest.mark.model
def test_a_package_that_was_promoted_before_is_found(tmp_path: Path, message: Path) -> None:
    (flag, *_) = log_of(tmp_path / "log", asyncio.run(screened(ANSWER)))
    models = tmp_path / "models.json"
    own = ModelPackage.load(DEFAULT_MODEL).reference
    choice = Choice(path=DEFAULT_MODEL, name=own.name, version=own.version, at=START)
    gone = Choice(path=tmp_path / "gone", name=own.name, version=own.version, at=START)
    other = str(another_version(tmp_path / "other"))
    nowhere = run(flag, tmp_path / "log", "--message", message, model=other)
    assert isinstance(nowhere.exception, ConfigurationError)
    assert f"no package {own.name} {own.version}" in str(nowhere.exception)

    async def promote() -> None:
        pointer = FilePointer(models)
        await pointer.move(Alias.CHAMPION, choice)
        await pointer.move(Alias.CHAMPION, gone)

    asyncio.run(promote())
    assert reproduced(flag, tmp_path / "log", "--message", message, model=other, models_file=str(models))["identical"]
    wrong = run(flag, tmp_path / "log", "--message", message, "--model", other)
    assert "and the flag is of" in str(wrong.exception)


@pytest.mark.model
def test_what_is_not_there_is_said(tmp_path: Path, message: Path, embedded: Broker) -> None:
    log = tmp_path / "log"
    (record, *_) = asyncio.run(screened(ANSWER))
    (flag, *_) = log_of(log, [record])
    assert f"no flag {'0' * 32}" in str(run("0" * 32, log, "--message", message).exception)
    assert "where is the audit log?" in str(run(flag, "--message", message).exception)
    assert run(flag, log, "--topic").exit_code == 2
    unknown = run(flag, log, kafka_bootstrap=embedded.bootstrap)
    assert "not of GUARDLINE_TOPIC_OUTPUTS" in str(unknown.exception)
    outputs = asyncio.run(embedded.topic("llm.outputs", 1))
    content = json.loads(record.value)
    place = (("ce_origintopic", outputs.encode()), ("ce_originpartition", b"0"), ("ce_originoffset", b"0"))
    moved = make_record(json.dumps(content | {"id": "2" * 32}).encode(), offset=9, topic="safety.flags", headers=place)
    gone = make_record(json.dumps(content | {"id": "3" * 32}).encode(), offset=10, topic="safety.flags")
    log_of(log, [moved, gone])
    settings = {"kafka_bootstrap": embedded.bootstrap, "topic_outputs": outputs}
    assert "gone from the broker" in str(run("2" * 32, log, **settings).exception)
    assert "does not say where its message is" in str(run("3" * 32, log, **settings).exception)
    file = next(log.glob("audit-*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'"category":"dose"', b'"category":"rose"'))
    assert "changed: `guardline audit verify` says more" in str(run(flag, log, "--message", message).exception)


@pytest.mark.model
async def test_the_flags_of_a_stream_are_reproduced_from_the_broker(broker: Broker, tmp_path: Path) -> None:
    topics = await WorkerTopics.create(broker)
    answers = ANSWERS.read_bytes().splitlines()[:6]
    async with Worker(broker, DEFAULT_MODEL, topics, tmp_path / "worker.log") as worker:
        await produce(broker.bootstrap, topics.names["outputs"], answers, 2)
        results = await collect(broker.bootstrap, topics, len(answers), worker, settle=False)
    found = [
        make_record(r.value, offset=r.offset, topic=f"safety.{role}", headers=r.headers)
        for role in ("flags", "review")
        for r in results[role]
    ]
    assert found
    await recorded(tmp_path / "log", found)
    settings = {"kafka_bootstrap": broker.bootstrap, "topic_outputs": topics.names["outputs"]}
    for record in found:
        flag = json.loads(record.value)["id"]
        again = await asyncio.to_thread(reproduced, flag, tmp_path / "log", **settings)
        assert again["identical"], again
