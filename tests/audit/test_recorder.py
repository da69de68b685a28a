"""What the recorder writes, what it leaves out, and what it does when the log cannot be written."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from monitor.audit.file_log import FileLog
from monitor.audit.log import LogUnavailable
from monitor.audit.verification import verify
from monitor.errors import GuardlineError
from monitor.records import Decision
from tests.alerts.flags import STATEMENT, make_flag
from tests.audit.logs import (
    NOTE,
    ORIGIN,
    START,
    action,
    chain,
    drafts,
    entries,
    feedback,
    flag_record,
    recorded,
    recorder,
    write,
)
from tests.monitor.fakes import make_record


def events(folder: Path) -> list[str]:
    found = asyncio.run(entries(FileLog(folder)))
    return [e["details"]["event"] for e in found if "event" in e["details"]]  # type: ignore[index]


def one(folder: Path, record: ConsumerRecord, **settings: object) -> dict[str, object]:
    """Return the entry of a record."""
    asyncio.run(recorded(folder, [record], **settings))
    return asyncio.run(entries(FileLog(folder)))[-1]


def test_a_flag_is_recorded_without_its_text(tmp_path: Path) -> None:
    flag = make_flag(7)
    entry = one(tmp_path, flag_record(7))
    assert (entry["kind"], entry["subject"], entry["actor"]) == ("flag", flag.id, None)
    assert entry["details"] == {
        "event": flag.id,
        "source": {"topic": "safety.flags", "partition": 0, "offset": 7},
        "verdict": "unsafe",
        "score": 0.93,
        "category": "dose",
        "recommendation": "rem-1.2",
        "guideline": {"id": "covid", "version": "2026"},
        "model": {"name": "tiny", "version": "1"},
        "thresholds": {"unsafe": 0.8, "review": 0.4, "in_scope": 0.5},
        "message_id": "message-7",
        "tenant": "north",
        "start": 0,
        "end": len(STATEMENT),
        "statement_sha256": "0" * 64,
        "received_at": "2026-03-02T12:00:00+00:00",
        "origin": {"topic": "llm.outputs", "partition": 3, "offset": 41},
    }
    log = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"Maria" not in log
    assert b"400 mg" not in log


def test_a_decision_is_recorded_with_the_digest_of_its_note(tmp_path: Path) -> None:
    decided = feedback(make_flag(7), decision=Decision.WRONG_RECOMMENDATION, recommendation="rem-2", note=NOTE)
    entry = one(tmp_path, make_record(decided.model_dump_json().encode(), topic="safety.feedback"))
    details = entry["details"]
    assert isinstance(details, dict)
    assert (entry["kind"], entry["subject"], entry["actor"]) == ("decision", make_flag(7).id, "ann")
    assert (details["decision"], details["recommendation"]) == ("wrong_recommendation", "rem-2")
    assert details["note_sha256"] == hashlib.sha256(NOTE.encode()).hexdigest()
    assert "Maria" not in json.dumps(entry)


def test_people_are_pseudonyms_where_a_key_is_set(tmp_path: Path) -> None:
    reveal = make_record(action().model_dump_json().encode(), topic="safety.audit.events")
    first = one(tmp_path / "a", reveal, audit_key="secret")["actor"]
    assert str(first).startswith("hmac-sha256:")
    assert one(tmp_path / "b", reveal, audit_key="secret")["actor"] == first
    assert one(tmp_path / "c", reveal, audit_key="other")["actor"] != first
    entry = one(tmp_path / "d", reveal)
    assert (entry["kind"], entry["actor"], entry["details"]["about"]) == ("reveal", "ann", {"n": 1})  # type: ignore[index]


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [
        ("safety.flags", None, "empty"),
        ("safety.flags", b"\xff no flag", "invalid_field"),
        ("safety.feedback", b"{}", "missing_field"),
        ("safety.feedback", None, "empty"),
        ("safety.audit.events", b"[]", "wrong_type"),
        ("safety.audit.events", None, "empty"),
        ("safety.audit.events", action("flag").model_dump_json().encode(), "invalid_field"),
        ("safety.flags", make_flag(1, end=2**60).model_dump_json().encode(), "not_canonical"),
        (
            "safety.feedback",
            feedback(make_flag(1)).model_dump_json().encode().replace(b"12:00:00Z", b"12:00:00"),
            "invalid_field",
        ),
    ],
)
def test_what_cannot_be_read_is_an_entry_that_says_why(
    tmp_path: Path, topic: str, value: bytes | None, reason: str
) -> None:
    entry = one(tmp_path, make_record(value, offset=5, topic=topic))
    details = entry["details"]
    assert isinstance(details, dict)
    assert (entry["kind"], entry["subject"], details["reason"]) == ("unreadable", f"{topic}/0:5", reason)
    assert details["sha256"] == (None if value is None else hashlib.sha256(value).hexdigest())


def test_fields_of_a_newer_monitor_pass(tmp_path: Path) -> None:
    value = json.loads(feedback(make_flag(1)).model_dump_json())
    value |= {"mood": "good", "flag": value["flag"] | {"new": 1}}
    entry = one(tmp_path, make_record(json.dumps(value).encode(), topic="safety.feedback"))
    assert entry["kind"] == "decision"


def test_an_event_that_comes_again_is_recorded_once(tmp_path: Path) -> None:
    asyncio.run(recorded(tmp_path, [flag_record(1), flag_record(1, offset=9), flag_record(2)]))
    asyncio.run(recorded(tmp_path, [flag_record(2, offset=10), flag_record(3, partition=1)]))
    assert events(tmp_path) == [make_flag(n).id for n in (1, 2, 3)]


def test_an_event_that_says_something_else_under_a_known_id_is_not_hidden(tmp_path: Path) -> None:
    def flag(offset: int, origin: bytes, **changes: object) -> ConsumerRecord:
        headers = (*ORIGIN[:2], ("ce_originoffset", origin))
        value = make_flag(1, **changes).model_dump_json().encode()
        return make_record(value, offset=offset, topic="safety.flags", headers=headers)

    other = flag(2, b"43", score=0.94)
    # The same message, sent and flagged twice; then, under the same id, another score, and that once more.
    asyncio.run(recorded(tmp_path, [flag(0, b"41"), flag(1, b"42", received_at=START), other]))
    asyncio.run(recorded(tmp_path, [other, flag(3, b"44")]))
    found = asyncio.run(entries(FileLog(tmp_path)))[1:]
    assert [(e["subject"], e["details"]["score"]) for e in found] == [  # type: ignore[index]
        (make_flag(1).id, 0.93), (make_flag(1).id, 0.94),
    ]  # fmt: skip


def test_whole_numbers_are_known_again(tmp_path: Path) -> None:
    """1.0 is written as 1."""
    record = make_record(make_flag(1, score=1.0).model_dump_json().encode(), topic="safety.flags")
    for _ in range(2):
        asyncio.run(recorded(tmp_path, [record]))
    assert events(tmp_path) == [make_flag(1).id]


def test_a_further_segment_carries_hash_and_offsets_on(tmp_path: Path) -> None:
    async def record(n: int) -> dict[TopicPartition, int]:
        log = FileLog(tmp_path, segment_bytes=2500)
        own = recorder(log)
        await own.open()
        await own.take([flag_record(n, partition=n % 3)], asyncio.Event())
        await log.close()
        return own._offsets

    for n in range(12):
        asyncio.run(record(n))
    assert len(asyncio.run(entries(FileLog(tmp_path)))) > 13
    files = sorted(tmp_path.glob("audit-*.jsonl"))
    for file in files[:-1]:
        file.rename(file.with_suffix(".moved"))
    assert asyncio.run(record(12)) == {TopicPartition("safety.flags", n): o for n, o in enumerate((13, 11, 12))}
    assert len(files) > 2


def test_a_line_that_a_crash_tore_is_cut_off_and_an_entry_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, chain(drafts(3)))
    file.write_bytes(file.read_bytes() + b'{"actor":null,"at')
    asyncio.run(recorded(tmp_path, [flag_record(1)]))
    *_, repair, flag = asyncio.run(entries(FileLog(tmp_path)))
    assert (repair["kind"], repair["subject"], flag["kind"]) == ("repair", f"{file.name}:4", "flag")
    digest = hashlib.sha256(b'{"actor":null,"at').hexdigest()
    assert repair["details"] == {"size": 17, "sha256": digest, "after": 2}


def test_a_first_line_that_was_torn_leaves_a_log_that_begins_with_its_genesis(tmp_path: Path) -> None:
    write(tmp_path, []).write_bytes(b'{"act')
    asyncio.run(recorded(tmp_path, [flag_record(1)]))
    assert [e["kind"] for e in asyncio.run(entries(FileLog(tmp_path)))] == ["genesis", "repair", "flag"]


def test_a_reader_gives_a_line_that_is_being_written_time_to_end(tmp_path: Path) -> None:
    own = chain(drafts(3))
    file = write(tmp_path, own[:2])

    async def read() -> list[object]:
        with file.open("ab", buffering=0) as writer:
            writer.write(own[2][:50])
            reading = asyncio.create_task(entries(FileLog(tmp_path, patience=60)))
            await asyncio.sleep(0.2)
            assert not reading.done()
            writer.write(own[2][50:] + b"\n")
            return [e["seq"] for e in await reading]

    assert asyncio.run(read()) == [0, 1, 2]


def test_a_broken_chain_is_not_continued(tmp_path: Path) -> None:
    own = chain(drafts(4))
    file = write(tmp_path, [own[0], own[2], own[3]])
    before = file.read_bytes()
    with pytest.raises(GuardlineError, match=r"jsonl:2: .*is not continued"):
        asyncio.run(recorded(tmp_path, [flag_record(1)]))
    assert file.read_bytes() == before


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    async def two() -> None:
        first = FileLog(tmp_path)
        await first.open()
        try:
            with pytest.raises(GuardlineError, match="another process writes"):
                await FileLog(tmp_path).open()
        finally:
            await first.close()
        again = FileLog(tmp_path)
        await again.open()
        await again.close()

    asyncio.run(two())


def test_a_full_disk_leaves_the_log_as_it_was_and_the_lines_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a batch is written, then the disk is full; the next try writes it whole."""
    real = os.write
    full = [False]

    def write_half(file: int, content: bytes | memoryview) -> int:
        if full[0]:
            full[0] = False
            raise OSError(28, "No space left on device")
        full[0] = len(content) > 200
        return real(file, content[:200])

    async def record() -> None:
        log = FileLog(tmp_path)
        await log.open()
        lines = chain(drafts(5))
        await log.append(lines[:2], segment=0)
        monkeypatch.setattr(os, "write", write_half)
        with pytest.raises(LogUnavailable, match="No space left"):
            await log.append(lines[2:])
        monkeypatch.undo()
        await log.append(lines[2:])
        await log.close()
        result = await verify(FileLog(tmp_path), advance=lambda _: None)
        assert (result.entries, result.problem) == (5, None)

    asyncio.run(record())


class AwayLog(FileLog):
    """Cannot be written for a while."""

    def __init__(self, folder: Path, tries: int) -> None:
        super().__init__(folder)
        self.tries = tries

    async def append(self, lines: Sequence[bytes], *, segment: int | None = None) -> None:
        self.tries -= 1
        if self.tries >= 0:
            raise LogUnavailable("away")
        await super().append(lines, segment=segment)


async def test_records_wait_for_a_log_that_is_away(tmp_path: Path) -> None:
    log = AwayLog(tmp_path, 2)
    own = recorder(log)
    await own.open()
    assert await own.take([flag_record(1)], asyncio.Event())
    assert (log.tries, own.head.seq) == (-1, 1)
    await log.close()


async def test_a_stop_while_the_log_is_away_leaves_the_records_to_the_next_start(tmp_path: Path) -> None:
    log = AwayLog(tmp_path, 1000)
    own, stop = recorder(log), asyncio.Event()
    await own.open()
    taking = asyncio.create_task(own.take([flag_record(1)], stop))
    while log.tries > 997:  # noqa: ASYNC110 - it tries by the clock
        await asyncio.sleep(0.01)
    assert [p.lag for p in own.progress()] == [1]
    stop.set()
    assert not await taking
    assert own.head.seq == -1
    await log.close()
