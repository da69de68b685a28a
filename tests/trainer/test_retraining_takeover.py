"""From a challenger that passed to the champion: the shadow, the fence before the pointer, the schedule."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from monitor.errors import ConfigurationError, GuardlineError
from monitor.models.pointer import Alias, FilePointer
from monitor.package import ModelPackage
from monitor.records import ModelReference, Opinion, ShadowRecord
from monitor.settings import Settings
from monitor.types import Verdict
from tests.fixtures_variants import variant
from trainer.retraining import takeover
from trainer.retraining.attempts import Attempts, Ended, model_name
from trainer.retraining.command import Result, command, on_schedule
from trainer.retraining.lock import LockLost
from trainer.retraining.settings import ShadowSettings
from trainer.retraining.takeover import Disagreement, FencedPointer


class Lock:
    def __init__(self, *, ours: bool = True) -> None:
        self.ours = ours

    def require(self) -> None:
        if not self.ours:
            raise LockLost("gone")


def record(number: int, champion: Verdict, challenger: Verdict, version: str = "2") -> ShadowRecord:
    def opinion(own: str, verdict: Verdict) -> Opinion:
        return Opinion(model=ModelReference(name="g", version=own), verdict=verdict, score=0.5, unsafe=[])

    return ShadowRecord(
        id=f"s-{number}", message_id=f"m-{number}", tenant=None, champion=opinion("1", champion),
        challenger=opinion(version, challenger),
    )  # fmt: skip


def records(new: int, lost: int, same: int) -> list[ShadowRecord]:
    pairs = [(Verdict.SAFE, Verdict.UNSAFE)] * new + [(Verdict.UNSAFE, Verdict.REVIEW)] * lost
    pairs += [(Verdict.UNSAFE, Verdict.UNSAFE), (Verdict.SAFE, Verdict.REVIEW)] * (same // 2)
    return [record(i, *pair) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("new", "lost", "same", "wanted", "reasons"),
    [
        (0, 0, 100, 100, []),
        (5, 5, 90, 100, []),
        (6, 0, 94, 100, ["flagged by the challenger alone: 6.0% of 100 messages, at most 5.0% may be"]),
        (0, 6, 94, 100, ["flagged by the champion alone: 6.0% of 100 messages, at most 5.0% may be"]),
        (0, 0, 40, 100, ["the shadow saw 40 of 100 messages in time, so nothing was shown"]),
        (0, 0, 0, 10, ["the shadow saw 0 of 10 messages in time, so nothing was shown"]),
    ],
)
def test_the_stream_speaks_against_a_challenger_that_behaves_otherwise(
    new: int, lost: int, same: int, wanted: int, reasons: list[str]
) -> None:
    assert Disagreement.of(records(new, lost, same)).reasons(ShadowSettings(), wanted) == reasons


async def test_the_shadow_waits_for_its_messages_and_leaves_no_challenger(
    verified_package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_EVERY", 0.01)
    challenger = variant(verified_package, tmp_path / "other", "2")
    pointer, settings = FilePointer(tmp_path / "active.json"), Settings(model=verified_package.path)
    seen: list[list[str]] = []

    async def read(_: Settings) -> list[ShadowRecord]:
        seen.append([choice.version for choice in await pointer.history(Alias.CHALLENGER)])
        # Those of an earlier challenger are nothing to this one.
        return [record(99, Verdict.SAFE, Verdict.UNSAFE, "1"), *records(0, 0, 4 * len(seen))]

    told: list[int] = []
    found = await takeover.shadow(
        challenger, pointer, settings, wanted=8, patience=60, advance=told.append, say=lambda _: None, read=read
    )
    assert (found.messages, found.new_flags, told) == (8, 0.0, [4, 8])
    assert seen == [["2"], ["2"]]
    assert list(await pointer.history(Alias.CHALLENGER)) == []
    late = await takeover.shadow(
        challenger, pointer, settings, wanted=10**6, patience=0.05, advance=told.append, say=lambda _: None, read=read
    )
    assert late.reasons(ShadowSettings(), 10**6)


async def test_nothing_moves_without_the_lock_or_past_another_champion(
    verified_package: ModelPackage, tmp_path: Path
) -> None:
    other = variant(verified_package, tmp_path / "other", "2")
    settings, name = Settings(model=verified_package.path), model_name(verified_package)
    pointer, lock = FilePointer(tmp_path / "active.json"), Lock(ours=False)
    fenced = FencedPointer(pointer, lock)
    with pytest.raises(LockLost):
        await takeover.promote(other, name, fenced, settings, why="", say=lambda _: None)
    assert list(await pointer.history(Alias.CHAMPION)) == []
    lock.ours = True
    await takeover.promote(other, name, fenced, settings, why="better", say=lambda _: None)
    latest, before = await pointer.history(Alias.CHAMPION)
    assert (latest.version, latest.why, before.version) == ("2", "better", verified_package.reference.version)
    third = variant(verified_package, tmp_path / "third", "3")
    with pytest.raises(ConfigurationError, match="became champion meanwhile"):
        await takeover.promote(third, name, fenced, settings, why="", say=lambda _: None)


def test_a_schedule_works_at_its_times_and_outlives_a_failure() -> None:
    clock = datetime(2026, 11, 28, 2, 59, 50, tzinfo=UTC)
    stop, at = threading.Event(), []

    def now() -> datetime:
        nonlocal clock
        clock += timedelta(minutes=10)
        return clock

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return self.is_set()

    stop = Waiting()

    def work() -> Result:
        at.append(clock.replace(minute=0, second=0))
        if len(at) == 3:
            stop.set()
        if len(at) == 2:
            raise GuardlineError("Redis does not answer")
        return Result(None, "nothing to do", {})

    console = Console(file=io.StringIO())
    on_schedule("0 3 * * *", work, stop, console, now)
    assert [own.strftime("%d %H") for own in at] == ["29 03", "30 03", "01 03"]
    with pytest.raises(ConfigurationError, match="no cron expression"):
        on_schedule("every monday", work, stop, console, now)


def test_attempts_are_numbered_and_an_open_one_is_found(verified_package: ModelPackage, tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    assert attempts.unfinished() is None
    numbers = []
    for how in (Ended.REFUSED, Ended.SUPERSEDED, None):
        export = tmp_path / "retraining" / "next.jsonl"
        export.parent.mkdir(exist_ok=True)
        export.write_text("")
        own = attempts.begin(verified_package, "quick", export, {"pack": None})
        numbers.append(own.root.name)
        if how is not None:
            own.end(how)
    assert numbers == ["0001", "0002", "0003"]
    open_ = attempts.unfinished()
    assert open_ is not None
    assert (open_.root.name, open_.champion, open_.given) == ("0003", model_name(verified_package), {"pack": None})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --from FILE or --topic"),
        (["--from", "{file}", "--topic"], "either --from FILE or --topic"),
        (["--topic", "--once", "--schedule", "0 3 * * *"], "exclude each other"),
        (["--topic", "--provider", "gpt-4o-mini"], "--provider belongs to --pack"),
    ],
)
def test_what_is_asked_for_must_make_sense(arguments: list[str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text("")
    result = CliRunner().invoke(command, [a.format(file=file) for a in arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_without_a_pointer_it_says_what_to_set_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GUARDLINE_MODELS_FILE", raising=False)
    file = tmp_path / "decisions.jsonl"
    file.write_text("")
    result = CliRunner().invoke(command, ["--from", str(file), "--run", str(tmp_path)])
    assert isinstance(result.exception, ConfigurationError)
    assert "GUARDLINE_MODELS_FILE" in str(result.exception)


def test_too_few_new_decisions_are_no_reason_to_retrain(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text("")
    result = CliRunner().invoke(command, ["--from", str(file), "--run", str(tmp_path), "--no-promote", "--least", "3"])
    assert (result.exit_code, result.exception) == (0, None)
    assert "nothing to do: 0 settled decisions, 0 of them new since the last retraining, and --least asks for 3" in (
        result.output
    )
    assert [p.name for p in (tmp_path / "retraining").iterdir()] == ["lock"]
