"""The switch between models, with ONNX Runtime in-process and a tiny model that has learnt nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError, ModelMismatch, ScorerUnavailable, StoreUnavailable
from monitor.events import EventFactory, Topics
from monitor.factory import build_screening
from monitor.memory import MemoryStore
from monitor.models.canaries import failures
from monitor.models.pointer import Alias, Choice, FilePointer
from monitor.models.promotion import promote, rollback
from monitor.models.switch import ModelSwitch, Serving
from monitor.package import CanarySpec, ModelPackage
from monitor.settings import Settings
from monitor.types import Message, MessageVerdict, Verdict
from tests.fixtures_variants import variant

TEXTS = ["Remdesivir is given for 5 days.", "Veklury 400 mg on day 1.", "Take care."]


def build(package: ModelPackage) -> Serving:
    settings = Settings(onnx_threads=1)
    screening = build_screening(settings, package, MemoryStore())
    topics = Topics(flags="f", review="r", deadletter="d", verdicts=None)
    events = EventFactory(topics, model=screening.model, thresholds=screening.thresholds, include_text=True)
    return Serving(package, screening, events)


async def screened(switch: ModelSwitch) -> list[MessageVerdict]:
    async with switch.use() as serving:
        return await serving.screening.screen([Message(str(i), text) for i, text in enumerate(TEXTS)])


async def own_canaries(package: ModelPackage) -> list[CanarySpec]:
    serving = build(package)
    verdicts = await serving.screening.screen([Message(str(i), text) for i, text in enumerate(TEXTS)])
    await serving.screening.close()
    return [CanarySpec(text=t, verdict=v.verdict, score=v.score) for t, v in zip(TEXTS, verdicts, strict=True)]


def chosen(package: ModelPackage) -> Choice:
    own = package.reference
    return Choice(path=package.path, name=own.name, version=own.version, at=datetime.now(UTC))


async def test_new_chunks_go_to_the_new_model_and_old_ones_finish_on_theirs(
    verified_package: ModelPackage, tmp_path: Path
) -> None:
    other = variant(verified_package, tmp_path / "other", "2", canaries=await own_canaries(verified_package))
    switch = ModelSwitch(build, build(verified_package))
    async with switch.use() as before:
        await switch.move(other.path)
        async with switch.use() as after:
            assert (before.model.version, after.model.version) == (verified_package.reference.version, "2")
        await before.screening.screen([Message("1", TEXTS[0])])  # still open
    with pytest.raises(RuntimeError):  # closed with its last chunk
        await before.screening.screen([Message("1", "Remdesivir is given for 10 days.")])
    assert len(await screened(switch)) == len(TEXTS)
    await switch.close()


async def test_moving_to_the_model_in_use_changes_nothing(verified_package: ModelPackage) -> None:
    switch = ModelSwitch(build, build(verified_package))
    before = switch.current
    await switch.move(verified_package.path)
    assert switch.current is before
    await switch.close()


async def test_a_model_that_fails_a_check_is_refused_and_the_old_one_serves_on(
    verified_package: ModelPackage, tmp_path: Path
) -> None:
    switch = ModelSwitch(build, build(verified_package))
    wrong = [CanarySpec(text=TEXTS[0], verdict=Verdict.ABSTAIN, score=0.9)]
    guideline = verified_package.manifest.guideline.model_dump(mode="json") | {"id": "another"}
    refused = {
        "canaries": variant(verified_package, tmp_path / "canaries", "2", canaries=wrong).path,
        "another": variant(verified_package, tmp_path / "guideline", "3", guideline=guideline).path,
    }
    corrupt = variant(verified_package, tmp_path / "corrupt", "4").path
    (corrupt / "encoder" / "1" / "model.onnx").write_bytes(b"no graph")
    for reason, path in {**refused, "not the file that was exported": corrupt}.items():
        with pytest.raises(ModelMismatch, match=reason):
            await switch.move(path)
    with pytest.raises(ConfigurationError, match="no model package"):
        await switch.move(tmp_path / "nowhere")
    assert switch.current.package is verified_package
    assert len(await screened(switch)) == len(TEXTS)
    await switch.close()


async def test_canaries_say_nothing_of_decisions_that_settings_changed(
    verified_package: ModelPackage, tmp_path: Path
) -> None:
    wrong = [CanarySpec(text=TEXTS[0], verdict=Verdict.ABSTAIN, score=0.9)]
    other = variant(verified_package, tmp_path / "other", "2", canaries=wrong)
    for settings in (Settings(onnx_threads=1, verify=False), Settings(onnx_threads=1, threshold_unsafe=0.99)):
        screening = build_screening(settings, other, MemoryStore())
        assert not screening.as_exported
        assert await failures(screening, wrong) == []
        await screening.close()
    screening = build_screening(Settings(onnx_threads=1), other, MemoryStore())
    assert len(await failures(screening, wrong)) == 1
    await screening.close()


async def test_it_follows_the_pointer_and_says_a_refusal_once(verified_package: ModelPackage, tmp_path: Path) -> None:
    good = variant(verified_package, tmp_path / "good", "2")
    bad = variant(verified_package, tmp_path / "bad", "3", canaries=[CanarySpec(text="x", verdict="abstain", score=1)])
    tries: list[str] = []

    def counting(package: ModelPackage) -> Serving:
        tries.append(package.reference.version)
        return build(package)

    switch = ModelSwitch(counting, build(verified_package))
    pointer = FilePointer(tmp_path / "active.json")
    await switch.look(pointer)
    for package in (good, bad):
        await pointer.move(Alias.CHAMPION, chosen(package))
        for _ in range(3):
            await switch.look(pointer)
    assert tries == ["2", "3"]
    assert switch.current.model.version == "2"
    await pointer.move(Alias.CHAMPION, chosen(verified_package))
    await switch.look(pointer)
    assert switch.current.model == verified_package.reference
    await switch.close()


async def test_a_model_server_that_is_away_is_tried_again(verified_package: ModelPackage, tmp_path: Path) -> None:
    other = variant(verified_package, tmp_path / "other", "2", canaries=await own_canaries(verified_package))
    away = [True]

    def sometimes(package: ModelPackage) -> Serving:
        serving = build(package)
        if away.pop() if away else False:

            async def refuse(_: object) -> list[MessageVerdict]:
                raise ScorerUnavailable("away")

            serving.screening.screen = refuse  # type: ignore[method-assign,assignment]
        return serving

    switch = ModelSwitch(sometimes, build(verified_package))
    pointer = FilePointer(tmp_path / "active.json")
    await pointer.move(Alias.CHAMPION, chosen(other))
    await switch.look(pointer)
    assert switch.current.package is verified_package
    await switch.look(pointer)
    assert switch.current.model.version == "2"
    await switch.close()


async def test_a_pointer_that_cannot_be_read_leaves_the_model(verified_package: ModelPackage, tmp_path: Path) -> None:
    class Away(FilePointer):
        async def history(self, alias: Alias) -> list[Choice]:
            raise StoreUnavailable("away")

    switch = ModelSwitch(build, build(verified_package))
    following = asyncio.create_task(switch.follow(Away(tmp_path / "x"), 0.001))
    await asyncio.sleep(0.02)
    assert not following.done()
    following.cancel()
    assert switch.current.package is verified_package
    await switch.close()


async def test_promote_and_roll_back_without_triton(verified_package: ModelPackage, tmp_path: Path) -> None:
    pointer = FilePointer(tmp_path / "active.json")
    said: list[str] = []
    settings = Settings(model=verified_package.path, onnx_threads=1)
    other = variant(verified_package, tmp_path / "other", "2", canaries=await own_canaries(verified_package))
    with pytest.raises(ConfigurationError, match="no champion before"):
        await rollback(pointer, settings, why="", say=said.append)
    await promote(other.path, Alias.CHAMPION, pointer, settings, why="better", say=said.append)
    assert said == [f"{len(TEXTS)} canaries decided as at export"]
    assert [c.why for c in await pointer.history(Alias.CHAMPION)] == ["better", "in use before the first promotion"]
    back = await rollback(pointer, settings, why="worse after all", say=said.append)
    assert back.reference == verified_package.reference
    bad = variant(verified_package, tmp_path / "bad", "3", canaries=[CanarySpec(text="x", verdict="abstain", score=1)])
    with pytest.raises(ModelMismatch, match="canaries fail"):
        await promote(bad.path, Alias.CHAMPION, pointer, settings, why="", say=said.append)
    assert (await pointer.history(Alias.CHAMPION))[0].why == "worse after all"
