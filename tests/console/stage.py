"""Messages, flags and users for the console's tests, and the console as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaProducer, ConsumerRecord

from monitor.console.store import Item
from monitor.console.users import Role, User, digest
from monitor.events import EventFactory, Topics
from monitor.package import ModelPackage
from monitor.publisher import Event
from monitor.records import Decision, FeedbackRecord, FlagRecord, ModelReference, Origin, Thresholds, event_id
from monitor.settings import DEFAULT_MODEL
from monitor.types import Evidence, Message, MessageVerdict, Statement, StatementVerdict, Verdict
from tests.alerts.flags import make_flag
from tests.fixtures_kafka import CHECKOUT, Broker
from tests.monitor.fakes import make_record

TOKENS = {name: f"token-of-{name}-which-is-long-enough" for name in ("anna", "ben", "cara", "vera")}
USERS = [
    User(name=name, role=Role.VIEWER if name == "vera" else Role.REVIEWER, sha256=digest(token))
    for name, token in TOKENS.items()
]
NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
TEXT = "For adults, remdesivir works. Give 400 mg on day 1. Then 100 mg once a day."
SPAN = (30, 51)
THRESHOLDS = Thresholds(unsafe=0.76, review=0.39, in_scope=0.48)
MODEL = ModelReference(name="covid19-remdesivir", version="20261128.b33b7837")
#: As a terminal would run it; entry points are looked up in what is installed, which may be an older checkout.
_COMMAND = "from monitor.console.command import command; command(prog_name='console')"


def write_users(path: Path) -> Path:
    """Write a file of users; see the package's docstring."""
    path.write_text(yaml.safe_dump({"users": [user.model_dump(mode="json") for user in USERS]}))
    return path


def item(number: int = 0, *, decisions: Sequence[FeedbackRecord] = (), **changes: Any) -> Item:
    """Return an item as the store keeps it; another number is another message, received an hour later."""
    flag = make_flag(number, **{"received_at": NOW + timedelta(hours=number)} | changes)
    places = {name: Origin(topic=name, partition=0, offset=number) for name in ("llm.outputs", "safety.flags")}
    kept = Item.of(flag, origin=places["llm.outputs"], place=places["safety.flags"])
    for record in decisions:
        kept = kept.merged(Item.of_decision(record))
    return kept


def decided(
    flag: FlagRecord,
    reviewer: str,
    decision: Decision,
    *,
    recommendation: str | None = None,
    minute: int = 0,
    note: str | None = None,
) -> FeedbackRecord:
    """Return a decision."""
    when = NOW + timedelta(minutes=minute)
    return FeedbackRecord(
        id=event_id(flag.id, reviewer, when),
        flag=flag,
        reviewer=reviewer,
        decision=decision,
        recommendation=recommendation,
        note=note,
        decided_at=when,
    )


class MemoryReader:
    """A `RecordReader` of records that a test keeps."""

    def __init__(self) -> None:
        self.records: dict[Origin, ConsumerRecord] = {}
        self.read_places: list[Origin] = []

    def keep(self, place: Origin, value: bytes) -> None:
        self.records[place] = make_record(value, topic=place.topic, partition=place.partition, offset=place.offset)

    async def read(self, place: Origin) -> ConsumerRecord | None:
        self.read_places.append(place)
        return self.records.get(place)


@dataclass
class Published:
    """A message that was published, and its flags."""

    message: Message
    origin: Origin
    flags: list[FlagRecord] = field(default_factory=list)


@dataclass
class Scene:
    """Topics of one test, and what is in them."""

    broker: Broker
    names: dict[str, str]
    package: ModelPackage

    @classmethod
    async def create(cls, broker: Broker) -> Scene:
        roles = {"outputs": "llm.outputs", "flags": "safety.flags", "review": "safety.review"}
        roles |= {"feedback": "safety.feedback", "audit_events": "safety.audit.events"}
        names = {role: await broker.topic(name, 1) for role, name in roles.items()}
        return cls(broker, names, ModelPackage.load(DEFAULT_MODEL))

    def environment(self) -> dict[str, str]:
        return {f"GUARDLINE_TOPIC_{role.upper()}": name for role, name in self.names.items()}

    async def send(self, events: Sequence[Event], timestamps: Sequence[int] | None = None) -> list[ConsumerRecord]:
        """Write events and return where they lie, as records without content."""
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, acks="all")
        await producer.start()
        try:
            waiting = [
                await producer.send(
                    e.topic,
                    value=e.value,
                    key=e.key,
                    headers=list(e.headers),
                    timestamp_ms=timestamps[i] if timestamps else None,
                )
                for i, e in enumerate(events)
            ]
            return list(await asyncio.gather(*waiting))
        finally:
            await producer.stop()

    def statement(
        self,
        text: str,
        span: tuple[int, int],
        *,
        score: float,
        category: str,
        recommendation: str,
        reason: str | None = None,
    ) -> StatementVerdict:
        spec = next(r for r in self.package.manifest.recommendations if r.id == recommendation)
        guideline = self.package.manifest.guideline
        kind = Verdict.UNSAFE if score >= THRESHOLDS.unsafe else Verdict.REVIEW
        quoted = text[slice(*span)]
        evidence = Evidence(guideline.id, guideline.version, spec.id, spec.section, spec.text)
        return StatementVerdict(Statement(*span, quoted, quoted), kind, score, category, evidence, reason)

    async def publish(
        self,
        messages: Sequence[tuple[Message, Sequence[StatementVerdict]]],
        *,
        received: Sequence[datetime] | None = None,
        include_text: bool = True,
    ) -> list[Published]:
        """Publish messages as a platform does and their flags as the monitor does."""
        factory = EventFactory(
            Topics(self.names["flags"], self.names["review"], "dead", None),
            model=MODEL,
            thresholds=THRESHOLDS,
            include_text=include_text,
        )
        values = [
            json.dumps({"id": m.id, "text": m.text, "tenant": m.tenant, "model": m.model}).encode() for m, _ in messages
        ]
        stamps = [int(when.timestamp() * 1000) for when in received or [datetime.now(UTC)] * len(messages)]
        places = await self.send([Event(self.names["outputs"], None, value) for value in values], stamps)
        events, published = [], []
        for (message, statements), value, place, stamp in zip(messages, values, places, stamps, strict=True):
            record = make_record(
                value, offset=place.offset, partition=place.partition, topic=place.topic, timestamp=stamp
            )
            made = factory.of_verdict(record, MessageVerdict(message, Verdict.UNSAFE, 0.9, tuple(statements)))
            events += made
            origin = Origin(topic=place.topic, partition=place.partition, offset=place.offset)
            flags = [FlagRecord.model_validate_json(e.value) for e in made if e.value]
            published.append(Published(message, origin, flags))
        await self.send(events)
        return published


class Console:
    """Runs `guardline console` as a user would."""

    def __init__(self, scene: Scene, folder: Path, *, options: Sequence[str] = (), **settings: str) -> None:
        self.log = folder / "console.log"
        self._options = options
        self._environment = {
            **os.environ,
            "GUARDLINE_KAFKA_BOOTSTRAP": scene.broker.bootstrap,
            "GUARDLINE_SESSION_TIMEOUT": str(scene.broker.session),
            "GUARDLINE_GROUP": scene.names["outputs"],
            "GUARDLINE_CONSOLE_PORT": "0",
            "GUARDLINE_CONSOLE_TOKENS_FILE": str(write_users(folder / "users.yaml")),
            **scene.environment(),
            **{f"GUARDLINE_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.links: dict[str, str] = {}

    async def __aenter__(self) -> Console:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _COMMAND,
                *self._options,
                cwd=CHECKOUT,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.url = (await self._line())[1].rstrip("/")
        for _ in range(self._options.count("--one-time-link")):
            name, link = await self._line()
            self.links[name] = link
        return self

    async def _line(self) -> list[str]:
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = (await self.process.stdout.readline()).decode().split()
        assert len(line) == 2, self.log.read_text()[-3000:]
        return line

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
