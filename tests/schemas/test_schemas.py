"""The schemas are the ones of the code, are schemas, and hold of what is really published."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from monitor.audit.trail import PublishedTrail
from monitor.console.deciding import feedback_event
from monitor.intake import parse
from monitor.package import ModelPackage
from monitor.publisher import Event
from monitor.records import Decision, FeedbackRecord, ModelReference, Opinion, Origin, ShadowRecord, timestamp
from monitor.schemas.catalogue import CHANNELS, SCHEMAS
from monitor.schemas.command import command, files
from monitor.settings import Settings
from monitor.types import Verdict
from tests.alerts.flags import make_flag
from tests.e2e.worker import Topics, Worker, collect
from tests.fixtures_kafka import Broker, consume_all, produce
from tests.producers.topic import Topic

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"
NODE = Path(__file__).with_name("node")
ASYNCAPI = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())


def check(instance: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(instance)


def check_event(channel: str, headers: Sequence[tuple[str, bytes]], value: bytes | None) -> None:
    """Headers and payload of an event as the AsyncAPI document says."""
    message = ASYNCAPI["components"]["messages"][channel]
    check({name: content.decode() for name, content in headers}, message["headers"])
    payload = message["payload"]
    if "$ref" in payload:
        check(json.loads(value or b""), json.loads((FOLDER / payload["$ref"]).read_text()))


def test_they_are_those_of_the_code() -> None:
    stale = [name for name, text in files().items() if (FOLDER / name).read_text() != text]
    assert not stale, "run `guardline schemas`"
    assert {path.name for path in FOLDER.iterdir()} == set(files())


def test_the_command_tells_what_is_stale(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(command, ["--output", str(tmp_path / "s")]).exit_code == 0
    assert run(command, ["--output", str(tmp_path / "s"), "--check"]).exit_code == 0
    (tmp_path / "s" / "flag.json").write_text("{}")
    (tmp_path / "s" / "action.json").unlink()
    result = run(command, ["--output", str(tmp_path / "s"), "--check"])
    assert result.exit_code == 1
    assert [Path(line.partition(":")[0]).name for line in result.stderr.splitlines()] == ["flag.json", "action.json"]
    assert (tmp_path / "s" / "flag.json").read_text() == "{}"


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_each_is_a_schema(schema: Any) -> None:
    Draft202012Validator.check_schema(json.loads((FOLDER / f"{schema.name}.json").read_text()))


def test_no_topic_is_forgotten() -> None:
    topics = {name for name in Settings.model_fields if name.startswith("topic_")}
    # The audit log's own lines are between its writer and `guardline audit`.
    assert {channel.setting for channel in CHANNELS} == topics - {"topic_audit"}


async def test_what_a_worker_publishes(embedded: Broker, model_package: ModelPackage, tmp_path: Path) -> None:
    topics = await Topics.create(embedded)
    texts = ["Remdesivir is given as a 400 mg loading dose on day 1.", "", "Remdesivir is given for 7 days or so."]
    values = [
        json.dumps({"id": str(n), "text": text, "conversation_id": "c", "tenant": "t"}).encode()
        for n, text in enumerate(texts)
    ]
    await produce(embedded.bootstrap, topics.names["outputs"], [*values, b"{"])
    async with Worker(embedded, model_package.path, topics, tmp_path / "log") as worker:
        published = await collect(embedded.bootstrap, topics, 4, worker)
        await worker.stop()
    assert published["flags"]
    assert published["deadletter"]
    for channel, records in published.items():
        for record in records:
            check_event(channel, record.headers, record.value)


async def test_what_reviewers_and_challengers_publish() -> None:
    sent: list[Event] = []

    class Recorder:
        async def publish(self, events: Sequence[Event]) -> list[Event]:
            sent.extend(events)
            return []

    await PublishedTrail(Recorder(), "t", source="s").record("reveal", actor="a", subject="f", details={"n": 1})
    check_event("actions", sent[0].headers, sent[0].value)
    decision = FeedbackRecord(
        id="d", flag=make_flag(), origin=Origin(topic="t", partition=0, offset=1), reviewer="anna",
        decision=Decision.WRONG_RECOMMENDATION, recommendation="rem-1.3", note="n", decided_at=timestamp(0),
    )  # fmt: skip
    event = feedback_event(decision, "t")
    check_event("feedback", event.headers, event.value)
    opinion = Opinion(model=ModelReference(name="m", version="1"), verdict=Verdict.UNSAFE, score=0.9, unsafe=[(0, 4)])
    shadow = ShadowRecord(id="s", message_id="m", tenant=None, champion=opinion, challenger=opinion)
    check_event("shadow", (), shadow.model_dump_json().encode())


async def test_what_platforms_publish(embedded: Broker) -> None:
    topic = await Topic.create(embedded)
    with topic.producer(tenant="t") as producer:
        producer.publish(text="Give 200 mg.", id="a", partial=True, created_at=timestamp(0))
    (record,) = await consume_all(topic.bootstrap, topic.name)
    check_event("outputs", record.headers, record.value)


@pytest.mark.parametrize(
    ("record", "accepted"),
    [
        ({"id": "a", "text": ""}, True),
        ({"id": "a", "text": "", "more": 1, "tenant": None}, True),
        ({"id": "", "text": ""}, False),
        ({"text": ""}, False),
        ({"id": "a", "text": "", "metadata": 1}, False),
    ],
)
def test_the_schema_accepts_what_the_monitor_accepts(record: dict[str, Any], accepted: bool) -> None:
    schema = json.loads((FOLDER / "output.json").read_text())
    if accepted:
        check(record, schema)
        parse(json.dumps(record).encode())
    else:
        with pytest.raises(ValidationError):
            check(record, schema)
        with pytest.raises(Exception, match=r"missing_field|wrong_type|invalid_field"):
            parse(json.dumps(record).encode())


async def test_asyncapis_own_parser_finds_nothing_wrong() -> None:
    if shutil.which("node") is None or not (NODE / "node_modules" / "@asyncapi" / "parser").is_dir():
        pytest.skip("no AsyncAPI parser: `make test` installs it where npm is (tests/schemas/node/package.json)")
    result = await asyncio.to_thread(
        subprocess.run,
        ["node", "parse.mjs", FOLDER / "asyncapi.yaml"],
        cwd=NODE,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.stdout)
    assert found["problems"] == []
    assert set(found["topics"]) == {channel.topic for channel in CHANNELS}
    flag = json.loads((FOLDER / "flag.json").read_text())
    assert found["topics"]["safety.flags"] == list(flag["properties"])
    assert {action for name, action in found["operations"].items() if name != "receiveOutputs"} == {"send"}
