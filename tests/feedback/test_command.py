"""`guardline feedback` on both brokers: what it exports, whose text it reads, what it says of the rest."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monitor.errors import ConfigurationError
from monitor.feedback.command import command
from monitor.records import FeedbackRecord
from tests.feedback.decisions import ACCEPT, REJECT, decided, flag_on, origin
from tests.fixtures_kafka import Broker, produce

SAID, WITHHELD, GONE, CHANGED, ELSEWHERE = (f"Statement {n} on remdesivir." for n in range(5))


async def run(broker: Broker, topics: dict[str, str], *arguments: object) -> Result:
    environment = {f"GUARDLINE_TOPIC_{role}": name for role, name in topics.items()}
    environment["GUARDLINE_KAFKA_BOOTSTRAP"] = broker.bootstrap
    return await asyncio.to_thread(CliRunner().invoke, command, [*map(str, arguments)], env=environment)


@pytest.fixture
async def topics(broker: Broker) -> dict[str, str]:
    """A topic of decisions on five flags, two of them without text, and the topic of the messages behind them."""
    names = {
        "OUTPUTS": await broker.topic("llm.outputs", 1),
        "FEEDBACK": await broker.topic("safety.feedback", 2),
    }
    message = json.dumps({"id": "m", "text": f"Yes. {WITHHELD} And so on."}).encode()
    await produce(broker.bootstrap, names["OUTPUTS"], [b"nothing", message])

    def at(offset: int, topic: str = names["OUTPUTS"]) -> dict[str, object]:
        return {"origin": origin(offset, topic)}

    records: list[FeedbackRecord] = [
        *decided(flag_on(SAID, 1), ACCEPT, ACCEPT),
        *decided(flag_on(WITHHELD, 2, withheld=True, start=5), REJECT, REJECT, minute=1, **at(1)),
        *decided(flag_on(GONE, 3, withheld=True), ACCEPT, ACCEPT, minute=2, **at(7)),
        *decided(flag_on(CHANGED, 4, withheld=True), ACCEPT, ACCEPT, minute=3, **at(1)),
        *decided(flag_on(ELSEWHERE, 5, withheld=True), ACCEPT, ACCEPT, minute=4, **at(0, names["FEEDBACK"])),
        *decided(flag_on("open", 6), ACCEPT),
    ]
    values = [record.model_dump_json().encode() for record in records]
    await produce(broker.bootstrap, names["FEEDBACK"], [*values, *values, b"nothing"], 2)
    return names


async def test_settled_decisions_are_exported_with_the_text_that_is_still_there(
    broker: Broker, topics: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "reviewed.jsonl"
    result = await run(broker, topics, "export", "--output", output, "--with-text")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [
        (SAID, "unsafe"), (WITHHELD, "safe"), (None, "unsafe"), (None, "unsafe"), (None, "unsafe"),
    ]  # fmt: skip
    assert output.stat().st_mode & 0o777 == 0o600
    assert "5 statements of 5 settled flags: 4 unsafe, 1 safe" in result.stdout
    assert "1 records of the topic are no decisions: invalid_field (1)" in result.stderr
    assert "3 statements have no text" in result.stderr
    for reason in ("gone, by the topic's retention (1)", "another one (1)", "not in GUARDLINE_TOPIC_OUTPUTS (1)"):
        assert reason in result.stderr


async def test_without_being_asked_to_it_writes_no_text(embedded: Broker, tmp_path: Path) -> None:
    topic = {"FEEDBACK": await embedded.topic("safety.feedback", 1)}
    records = [*decided(flag_on(SAID, 1), ACCEPT, ACCEPT), *decided(flag_on(SAID, 2), REJECT, REJECT)]
    records += decided(flag_on(GONE, 3), ACCEPT, ACCEPT)
    await produce(embedded.bootstrap, topic["FEEDBACK"], [r.model_dump_json().encode() for r in records])
    output = tmp_path / "reviewed.jsonl"
    result = await run(embedded, topic, "export", "--output", output, "--json")
    summary = json.loads(result.stdout)
    assert summary == {
        "rows": 1,
        "labels": {"unsafe": 1},
        "flags": 3,
        "conflicting": [flag_on(SAID).statement_sha256],
        "without_text": 0,
    }
    assert "remdesivir" not in output.read_text()


async def test_agreement_is_printed_and_given_as_json(embedded: Broker) -> None:
    topic = {"FEEDBACK": await embedded.topic("safety.feedback", 1)}
    records = [*decided(flag_on("1", 1), ACCEPT, ACCEPT), *decided(flag_on("2", 2), ACCEPT, REJECT)]
    await produce(embedded.bootstrap, topic["FEEDBACK"], [r.model_dump_json().encode() for r in records])
    shown = (await run(embedded, topic, "agreement")).stdout
    assert "flags with decisions: 2 (0 second, 1 disputed, 1 settled)" in shown
    assert "recommendation: rem-1.2" in shown
    assert "a, b" in shown
    found = json.loads((await run(embedded, topic, "agreement", "--json")).stdout)
    everything = found["strata"][0]
    assert (everything["name"], everything["flags"], everything["decisions"]) == ("all", 2, 4)
    assert everything["share"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert everything["alpha"]["value"] == 0


async def test_a_topic_or_folder_that_is_not_there_is_said(embedded: Broker, tmp_path: Path) -> None:
    missing = await run(embedded, {"FEEDBACK": "no.such.topic"}, "agreement")
    assert isinstance(missing.exception, ConfigurationError)
    assert "set GUARDLINE_TOPIC_FEEDBACK" in str(missing.exception)
    topic = {"FEEDBACK": await embedded.topic("safety.feedback", 1)}
    unwritable = await run(embedded, topic, "export", "--output", tmp_path / "gone" / "rows.jsonl")
    assert "cannot write" in str(unwritable.exception)
