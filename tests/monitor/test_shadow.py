from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.models.commands import disagreements
from monitor.models.pointer import Alias, Choice, FilePointer
from monitor.models.shadow import Shadow, chosen
from monitor.package import ModelPackage
from monitor.records import ShadowRecord
from monitor.types import Message, MessageVerdict, Verdict
from tests.fixtures_variants import variant
from tests.monitor.fakes import RecordingPublisher
from tests.monitor.test_switch import build


class World:
    """A shadow, what it publishes, and the pointer that names the challenger."""

    def __init__(self, folder: Path, share: float = 1.0) -> None:
        self.pointer = FilePointer(folder / "active.json")
        self.publisher = RecordingPublisher()
        self.shadow = Shadow(build, self.pointer, self.publisher, topic="shadow", share=share, every=0)
        self.task = asyncio.create_task(self.shadow.run())

    async def challenge(self, package: ModelPackage) -> None:
        own = package.reference
        await self.pointer.move(
            Alias.CHALLENGER, Choice(path=package.path, name=own.name, version=own.version, at=datetime.now(UTC))
        )

    async def drained(self) -> list[ShadowRecord]:
        async with asyncio.timeout(60):
            await self.shadow.drain()
        return [ShadowRecord.model_validate_json(event.value or b"") for event in self.publisher.on("shadow")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    own = World(tmp_path)
    yield own
    own.task.cancel()
    await own.shadow.close()


async def decided(package: ModelPackage, count: int = 3) -> list[MessageVerdict]:
    serving = build(package)
    texts = ["Remdesivir is given for 5 days.", "Veklury 400 mg on day 1.", "Take care."]
    verdicts = await serving.screening.screen([Message(f"m{i}", texts[i % 3]) for i in range(count)])
    await serving.screening.close()
    return verdicts


async def test_both_opinions_are_published_without_text(
    world: World, verified_package: ModelPackage, tmp_path: Path
) -> None:
    await world.challenge(variant(verified_package, tmp_path / "other", "2", factor=0.5))
    verdicts = await decided(verified_package)
    world.shadow.offer(verified_package.reference, verdicts)
    records = await world.drained()
    assert [r.message_id for r in records] == ["m0", "m1", "m2"]
    assert [r.champion.verdict for r in records] == [v.verdict for v in verdicts]
    assert {r.challenger.model.version for r in records} == {"2"}
    assert not any(b"Remdesivir" in (event.value or b"") for event in world.publisher.events)
    again = await world.drained()
    world.shadow.offer(verified_package.reference, verdicts)
    assert len({r.id for r in [*again, *await world.drained()]}) == 3  # a repeat has the same id


async def test_without_a_challenger_nothing_happens(world: World, verified_package: ModelPackage) -> None:
    world.shadow.offer(verified_package.reference, await decided(verified_package))
    assert await world.drained() == []


async def test_a_challenger_that_cannot_be_used_does_not_end_the_shadow(
    world: World, verified_package: ModelPackage, tmp_path: Path
) -> None:
    verdicts = await decided(verified_package)
    gone = variant(verified_package, tmp_path / "gone", "2")
    (gone.path / "manifest.json").write_text("{}")
    await world.challenge(gone)
    world.shadow.offer(verified_package.reference, verdicts)
    assert await world.drained() == []
    await world.challenge(variant(verified_package, tmp_path / "other", "3"))
    world.shadow.offer(verified_package.reference, verdicts)
    assert len(await world.drained()) == 3


async def test_what_finds_the_queue_full_is_passed_over(tmp_path: Path, verified_package: ModelPackage) -> None:
    world = World(tmp_path)
    world.task.cancel()  # nobody works on the queue
    verdicts = await decided(verified_package)
    for _ in range(50):
        world.shadow.offer(verified_package.reference, verdicts)  # returns, never raises
    assert world.publisher.events == []


def test_the_share_is_by_message_and_about_right() -> None:
    ids = [f"message-{i}" for i in range(20_000)]
    some = {i for i in ids if chosen(i, 0.1)}
    assert 0.09 < len(some) / len(ids) < 0.11
    assert some == {i for i in ids if chosen(i, 0.1)}
    assert some <= {i for i in ids if chosen(i, 0.3)}
    assert not any(chosen(i, 0) for i in ids)
    assert all(chosen(i, 1) for i in ids)


def test_the_report_counts_by_verdicts_and_lists_the_gravest_first() -> None:
    def record(name: str, champion: tuple[Verdict, float], challenger: tuple[Verdict, float]) -> ShadowRecord:
        sides = {
            side: {"model": {"name": "m", "version": v}, "verdict": own[0], "score": own[1], "unsafe": []}
            for side, v, own in (("champion", "1", champion), ("challenger", "2", challenger))
        }
        return ShadowRecord.model_validate({"id": name, "message_id": name, "tenant": None, **sides})

    report = disagreements(
        [
            record("a", (Verdict.SAFE, 0.1), (Verdict.SAFE, 0.2)),
            record("b", (Verdict.SAFE, 0.4), (Verdict.UNSAFE, 0.8)),
            record("c", (Verdict.UNSAFE, 0.9), (Verdict.SAFE, 0.1)),
        ]
    )
    assert (report["messages"], report["disagreements"], report["share"]) == (3, 2, 0.6667)
    assert [row["message_id"] for row in report["first"]] == ["c", "b"]
    assert {"champion": "safe", "challenger": "safe", "messages": 1} in report["verdicts"]
    assert json.dumps(report)
    assert disagreements([])["share"] is None
