"""Which canaries are sent, and what the path from text to verdict makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.canary.expected import Expected
from monitor.canary.identity import PREFIX, TENANT
from monitor.canary.ledger import Canary
from monitor.canary.messages import Rounds, event_of, from_file, from_package
from monitor.errors import ConfigurationError
from monitor.intake import parse
from monitor.models.pointer import Alias, Choice, FilePointer
from monitor.package import ModelPackage
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.types import Message, Verdict
from tests.monitor.fakes import (
    SAFE,
    UNSAFE,
    FakeScorer,
    RecordingStore,
    make_assessment,
    make_package,
    write_package,
)

BOTH = [
    {"text": UNSAFE, "verdict": "unsafe", "score": 0.95},
    {"text": SAFE, "verdict": "safe", "score": 0.05},
    {"text": "maybe", "verdict": "review", "score": 0.6},
]


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_the_package_s_own_canaries_are_sent_but_those_that_need_a_human() -> None:
    found = from_package(make_package(canaries=BOTH), settings())
    assert found == [Canary(UNSAFE, Verdict.UNSAFE), Canary(SAFE, Verdict.SAFE)]


def test_the_package_that_ships_has_canaries_of_both_kinds(model_package: ModelPackage) -> None:
    found = from_package(model_package, settings())
    assert {canary.verdict for canary in found} == {Verdict.UNSAFE, Verdict.SAFE, Verdict.OUT_OF_SCOPE}


@pytest.mark.parametrize("wrong", [{"threshold_unsafe": 0.99}, {"threshold_review": 0.1}])
def test_with_other_thresholds_nobody_knows_what_canaries_should_get(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="--messages"):
        from_package(make_package(canaries=BOTH), settings(**wrong))


def test_without_the_verifier_nobody_knows_it_either(model_package: ModelPackage) -> None:
    with pytest.raises(ConfigurationError, match="--messages"):
        from_package(model_package, settings(verify=False))
    from_package(make_package(canaries=BOTH), settings(verify=False))  # it has none


def test_a_package_without_canaries_is_said_to_have_none() -> None:
    for canaries in ([], BOTH[:1], BOTH[1:]):
        with pytest.raises(ConfigurationError, match="both kinds"):
            from_package(make_package(canaries=canaries), settings())


def test_a_file_s_canaries_are_read_and_its_mistakes_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_text('{"text": "a", "verdict": "unsafe"}\n\n{"text": "b", "verdict": "out_of_scope", "note": 1}\n')
    assert from_file(path) == [Canary("a", Verdict.UNSAFE), Canary("b", Verdict.OUT_OF_SCOPE)]
    for content, said in (
        ('{"text": "hush", "verdict": "bad"}', "line 1: verdict"),
        ('{"verdict": "safe"}', "line 1: text"),
        ("{", "line 1: the line"),
        ('{"text": "a", "verdict": "unsafe"}', "both kinds"),
        ("", "both kinds"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=said) as caught:
            from_file(path)
        assert "hush" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        from_file(tmp_path / "none")


def test_a_round_tries_every_partition_with_both_kinds_and_then_the_next_texts() -> None:
    rounds = Rounds([Canary(c, Verdict.UNSAFE) for c in "abc"] + [Canary("x", Verdict.SAFE)])
    first, second = list(rounds.deal([0, 5], 1.0)), list(rounds.deal([0, 5], 2.0))
    assert [(s.partition, s.canary.text, s.at) for s in first] == [(0, "a", 1), (0, "x", 1), (5, "b", 1), (5, "x", 1)]
    assert [s.canary.text for s in second] == ["c", "x", "a", "x"]
    assert len({s.id for s in first + second}) == 8


def test_a_canary_is_an_ordinary_message_with_both_marks() -> None:
    (sent, _) = Rounds([Canary(UNSAFE, Verdict.UNSAFE), Canary(SAFE, Verdict.SAFE)]).deal([7], 0.0)
    event = event_of(sent, "outputs")
    assert (event.topic, event.partition, event.key) == ("outputs", 7, None)
    message = parse(event.value, (), origin="outputs-7-0")
    assert (message.tenant, message.id, message.text) == (TENANT, sent.id, UNSAFE)
    assert message.id.startswith(PREFIX)


async def test_a_canary_is_scored_afresh_where_another_message_is_remembered() -> None:
    scorer, store = FakeScorer(), RecordingStore()
    screening = Screening(make_package(), assessment=make_assessment(scorer), store=store)
    await screening.screen([Message("m1", UNSAFE)])
    (remembered,) = await screening.screen([Message("m2", UNSAFE)])
    assert (len(scorer.calls), remembered.cached) == (1, 1)
    (fresh,) = await screening.screen([Message(f"{PREFIX}1", UNSAFE, tenant=TENANT)])
    assert (len(scorer.calls), fresh.cached) == (2, 0)
    assert fresh.verdict is remembered.verdict is Verdict.UNSAFE


async def test_the_champion_s_canaries_are_followed_and_one_that_cannot_be_read_is_not(tmp_path: Path) -> None:
    old = write_package(tmp_path / "old", canaries=BOTH)
    new = write_package(tmp_path / "new", version="2.0.0", canaries=[{**BOTH[0], "text": "new"}, *BOTH[1:]])
    pointer = FilePointer(tmp_path / "models.json")
    expected = Expected(settings(model=old), pointer)
    assert not await expected.changed()

    async def promote(path: Path) -> None:
        choice = Choice(path=path, name="tiny", version="2.0.0", at=datetime(2026, 1, 1, tzinfo=UTC))
        await pointer.move(Alias.CHAMPION, choice)

    await promote(new)
    assert await expected.changed()
    assert expected.canaries[0].text == "new"
    assert not await expected.changed()
    await promote(tmp_path / "gone")
    assert not await expected.changed()
    assert expected.canaries[0].text == "new"


async def test_canaries_that_somebody_wrote_down_are_those_of_every_champion(tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_text('{"text": "a", "verdict": "unsafe"}\n{"text": "b", "verdict": "safe"}')
    pointer = FilePointer(tmp_path / "models.json")
    expected = Expected(settings(canary_messages=path), pointer)
    choice = Choice(path=tmp_path, name="tiny", version="2", at=datetime(2026, 1, 1, tzinfo=UTC))
    await pointer.move(Alias.CHAMPION, choice)
    assert not await expected.changed()
    assert [canary.text for canary in expected.canaries] == ["a", "b"]
