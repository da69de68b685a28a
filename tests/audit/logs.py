"""Logs, records and recorders for the tests of the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiokafka import ConsumerRecord

from monitor.audit.chain import Draft, Head, link
from monitor.audit.entries import Drafts, genesis
from monitor.audit.file_log import FileLog
from monitor.audit.log import AuditLog
from monitor.audit.recorder import Recorder
from monitor.records import ActionRecord, Decision, FeedbackRecord, FlagRecord, event_id
from monitor.settings import load_settings
from tests.alerts.flags import make_flag
from tests.monitor.fakes import make_record

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOTE = "Maria should not have 400 mg."
ORIGIN = (("ce_origintopic", b"llm.outputs"), ("ce_originpartition", b"3"), ("ce_originoffset", b"41"))


def drafts(count: int) -> list[Draft]:
    """Return a genesis and some drafts of several kinds."""
    kinds = ("flag", "decision", "reveal")
    return [
        genesis("log"),
        *(
            Draft(kinds[n % 3], f"{n:032x}", {"score": n / 7, "tenant": "nörth", "n": n}, "ann" if n % 3 else None)
            for n in range(count - 1)
        ),
    ]


def chain(entries: Sequence[Draft]) -> list[bytes]:
    """Return linked lines, a second apart."""
    head, lines = Head(), []
    for n, draft in enumerate(entries):
        line, head = link(draft, head, START + timedelta(seconds=n))
        lines.append(line)
    return lines


def write(folder: Path, lines: Sequence[bytes], name: str = "audit-000000000000.jsonl") -> Path:
    """Write a log of one file and return the file."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def flag_record(
    number: int, *, offset: int | None = None, topic: str = "safety.flags", partition: int = 0
) -> ConsumerRecord:
    flag = make_flag(number, verdict="review" if topic.endswith("review") else "unsafe")
    return make_record(
        flag.model_dump_json().encode(),
        offset=number if offset is None else offset,
        partition=partition,
        topic=topic,
        headers=ORIGIN,
    )


def feedback(
    flag: FlagRecord, reviewer: str = "ann", decision: Decision = Decision.REJECT, minute: int = 0, **more: object
) -> FeedbackRecord:
    at = START + timedelta(minutes=minute)
    return FeedbackRecord(
        id=event_id(flag.id, reviewer, at), flag=flag, reviewer=reviewer, decision=decision, decided_at=at, **more
    )


def action(kind: str = "reveal", **changes: object) -> ActionRecord:
    values = {"id": "f" * 32, "kind": kind, "actor": "ann", "subject": "flag-1", "details": {"n": 1}, "at": START}
    return ActionRecord.model_validate(values | changes)


def recorder(log: AuditLog, **settings: object) -> Recorder:
    return Recorder(log, Drafts(load_settings(**settings)), lambda: START)


async def recorded(folder: Path, records: Sequence[ConsumerRecord], **settings: object) -> Recorder:
    """Let a recorder of its own append these records to the log in a folder."""
    log = FileLog(folder)
    own = recorder(log, **settings)
    try:
        await own.open()
        await own.take(records, asyncio.Event())
    finally:
        await log.close()
    return own


async def entries(log: AuditLog) -> list[dict[str, object]]:
    """Return all entries of a log that is intact."""
    from monitor.audit.chain import Follower

    follower = Follower()
    return [follower.follow(line.value) async for lines in log.read() for line in lines]
