"""Two models in a real tritonserver, switched and rolled back while statements are scored."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from monitor.agents import ChunkHandler, FailureLimit
from monitor.errors import ModelMismatch, ScorerUnavailable
from monitor.events import EventFactory, Topics
from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.models.pointer import Alias, FilePointer
from monitor.models.promotion import promote, rollback
from monitor.models.switch import ModelSwitch, Serving
from monitor.models.triton_repository import install
from monitor.package import ModelPackage, sha256_file
from monitor.settings import Settings
from monitor.turns import OrderedPublisher
from monitor.types import Message
from tests.fixtures_services import TRITON_VENV, LocalTriton
from tests.fixtures_variants import variant
from tests.monitor.fakes import RecordingPublisher, make_record

pytestmark = [pytest.mark.model, pytest.mark.connected]

TEXTS = [f"Remdesivir is given for {days} days to adult {i}." for i, days in enumerate([3, 5, 10] * 8)]


def record_of(offset: int, text: str) -> ConsumerRecord:
    return make_record(json.dumps({"id": f"m-{offset}", "text": text}).encode(), offset=offset)


@dataclass
class Deployment:
    """A Triton with a repository of its own, and settings that use it."""

    repository: Path
    server: LocalTriton
    settings: Settings
    pointer: FilePointer

    def build(self, package: ModelPackage) -> Serving:
        screening = build_screening(self.settings, package, MemoryStore(capacity=1))
        topics = Topics(flags="f", review="r", deadletter="d", verdicts="v")
        events = EventFactory(topics, model=screening.model, thresholds=screening.thresholds, include_text=True)
        return Serving(package, screening, events)


@pytest.fixture
def deployment(verified_package: ModelPackage, tmp_path: Path) -> Iterator[Deployment]:
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    repository = tmp_path / "repository"
    manifest = verified_package.manifest
    for spec in (manifest.encoder, manifest.verifier):
        assert spec is not None
        assert install(verified_package, spec, repository) == 1
    with LocalTriton(repository, venv=TRITON_VENV) as server:
        settings = Settings(
            model=verified_package.path,
            scorer="triton",
            triton_url=server.url,
            triton_timeout=20,
            triton_repository=repository,
        )
        yield Deployment(repository, server, settings, FilePointer(tmp_path / "active.json"))


@dataclass
class Load:
    """Scores without pause; counts what came back, by model, and what failed."""

    switch: ModelSwitch
    seen: Counter[str] = field(default_factory=Counter)
    scores: dict[str, set[tuple[float, ...]]] = field(default_factory=dict)
    failures: list[BaseException] = field(default_factory=list)
    stop: bool = False

    async def run(self) -> None:
        while not self.stop:
            try:
                async with self.switch.use() as serving:
                    verdicts = await serving.screening.screen([Message(str(i), t) for i, t in enumerate(TEXTS)])
                    version = serving.model.version
            except Exception as error:
                self.failures.append(error)
                return
            self.seen[version] += 1
            self.scores.setdefault(version, set()).add(tuple(round(v.score, 2) for v in verdicts))

    async def more(self, version: str, rounds: int = 6) -> None:
        """Wait until so many more rounds came back from a model."""
        until = self.seen[version] + rounds
        async with asyncio.timeout(120):
            while self.seen[version] < until and not self.failures:  # noqa: ASYNC110 - several workers count
                await asyncio.sleep(0.02)


async def test_switch_and_roll_back_under_load_without_a_failure(
    deployment: Deployment, verified_package: ModelPackage, tmp_path: Path
) -> None:
    other = variant(verified_package, tmp_path / "other", "2", factor=0.7)
    first = verified_package.reference.version
    switch = ModelSwitch(deployment.build, deployment.build(verified_package))
    load = Load(switch)
    said: list[str] = []
    workers = [asyncio.create_task(load.run()) for _ in range(3)]
    await load.more(first)
    await promote(other.path, Alias.CHAMPION, deployment.pointer, deployment.settings, why="", say=said.append)
    await load.more(first)  # loaded beside it, and not yet in use
    await switch.look(deployment.pointer)
    await load.more("2")
    await rollback(deployment.pointer, deployment.settings, why="", say=said.append)
    await switch.look(deployment.pointer)
    await load.more(first)
    load.stop = True
    await asyncio.gather(*workers)
    await switch.close()
    assert load.failures == []
    assert {*load.seen} == {first, "2"}
    # Each model gave its own scores all along: no answer of one came in the name of the other.
    assert [len(found) for found in load.scores.values()] == [1, 1]
    assert load.scores[first] != load.scores["2"]
    assert "Triton serves encoder 2" in said


async def test_a_graph_that_triton_cannot_load_is_refused_and_the_old_one_serves_on(
    deployment: Deployment, verified_package: ModelPackage, tmp_path: Path
) -> None:
    broken = variant(verified_package, tmp_path / "broken", "2")
    graph = broken.path / "encoder" / "1" / "model.onnx"
    graph.write_bytes(b"no graph")
    manifest = json.loads((broken.path / "manifest.json").read_text())
    manifest["files"]["encoder/1/model.onnx"] = sha256_file(graph)
    (broken.path / "manifest.json").write_text(json.dumps(manifest))
    switch = ModelSwitch(deployment.build, deployment.build(verified_package))
    with pytest.raises(ModelMismatch, match="does not load `encoder`"):
        await promote(broken.path, Alias.CHAMPION, deployment.pointer, deployment.settings, why="", say=print)
    assert list(await deployment.pointer.history(Alias.CHAMPION)) == []
    assert not (deployment.repository / "encoder" / "2").exists()
    async with switch.use() as serving:
        assert len(await serving.screening.screen([Message("1", TEXTS[0])])) == 1
    deployment.server.stop()
    deployment.server.start()  # nothing of the broken one is left to stumble over
    await switch.close()


async def test_when_triton_comes_back_the_chunk_that_waited_is_decided(
    deployment: Deployment, verified_package: ModelPackage
) -> None:
    publisher = RecordingPublisher()
    switch = ModelSwitch(deployment.build, deployment.build(verified_package))
    handler = ChunkHandler(
        models=switch, store=MemoryStore(), publisher=publisher, attempts=1, failures=FailureLimit(0)
    )
    turns = OrderedPublisher(publisher)
    await handler.handle([record_of(0, TEXTS[0])], turns.turn(0))
    deployment.server.stop()
    with pytest.raises(ScorerUnavailable):
        await switch.current.screening.screen([Message("1", TEXTS[1])])
    waiting = asyncio.create_task(handler.handle([record_of(1, TEXTS[2])], turns.turn(0)))
    await asyncio.sleep(1)
    assert not waiting.done()
    await asyncio.to_thread(deployment.server.start)
    async with asyncio.timeout(90):
        await waiting
    assert [json.loads(event.value or b"")["offset"] for event in publisher.on("v")] == [0, 1]
    await switch.close()
