"""A retraining on the toy guideline: what is learnt, what is refused, and that a killed one goes on."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder
from trainer.errors import CorpusError
from trainer.retraining import comparison, decisions, lineage
from trainer.retraining.comparison import Suite
from trainer.retraining.corpus import Base
from trainer.retraining.decisions import Part
from trainer.retraining.settings import FrozenSettings, GateSettings, RetrainSettings, UpdateSettings
from trainer.retraining.stages import Retraining
from trainer.types import Label, Split

#: Like no statement of the toy corpus, so that nothing of it is left out.
TEXT = "Grandmother knew that forty drops of zolamide before breakfast keep every mumble away from teenagers."
SETTINGS = RetrainSettings(
    "quick",
    update=UpdateSettings(replay=60, heads_replay=200, attraction=2.0),
    frozen=FrozenSettings(bootstrap=100),
    # Of a toy's 32 statements each is a share of its own.
    gate=GateSettings(margin=0.3, fine_margin=0.5, outside_margin=0.3, least=4, least_families=2),
)


@pytest.fixture(scope="module")
def champion(toy_run: SimpleNamespace) -> ModelPackage:
    return ModelPackage.load(toy_run.folder.package)


def flagged(package: ModelPackage, text: str) -> bool:
    row = {"id": "1", "text": text, "label": "", "spans": []}
    (outcome,) = comparison.asked(package, lambda own: own.judge([row]))
    return outcome.verdict == "unsafe"


def row(name: str, text: str, label: Label, recommendation: str = "1-dose") -> dict[str, object]:
    decision = "reject" if label is Label.SAFE else "accept"
    return {
        "id": name, "text": text, "label": label, "recommendation": recommendation, "category": "dose",
        "decision": decision, "decided_at": "2026-11-20T08:00:00Z",
    }  # fmt: skip


@pytest.fixture
def make(tmp_path: Path, toy_run: SimpleNamespace, champion: ModelPackage) -> Callable[..., Retraining]:
    def of(rows: list[dict[str, object]], settings: RetrainSettings = SETTINGS, **more: object) -> Retraining:
        root = tmp_path / "retraining" / "0001"
        root.mkdir(parents=True, exist_ok=True)
        (root / "export.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        base = more.pop("base", toy_run.folder)
        return Retraining(root, champion, Base(base, toy_run.pack, True), settings, {}, **more)  # type: ignore[arg-type]

    return of


def run(retraining: Retraining, stages: list[str] | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    retraining.run(console, stages)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_decision_against_the_champion_is_learnt_and_recorded(
    make: Callable[..., Retraining], champion: ModelPackage
) -> None:
    before = flagged(champion, TEXT)
    wanted = Label.SAFE if before else Label.UNSAFE
    retraining = make([row("review-1", TEXT, wanted)])
    said = run(retraining)
    assert "decisions learnt 1 of 1" in said
    challenger = retraining.challenger()
    assert flagged(challenger, TEXT) is not before
    verdict = retraining.verdict()
    assert verdict.passed, verdict.reasons
    own = challenger.manifest.lineage
    assert own is not None
    assert (own.parent, own.gate, own.decisions, own.learnt) == (
        f"{champion.reference.name}@{champion.reference.version}", "passed", 1, 1,
    )  # fmt: skip
    assert own.decisions_sha256 == decisions.digest(retraining.settled)
    assert {e.suite for e in challenger.manifest.evaluation} == {"statements/test_id", "statements/test_ood"}
    assert json.loads(retraining.gate.read_text())["lineage"]["parent"] == own.parent
    page = retraining.report.read_text()
    assert "Passed" in page
    assert "Decisions learnt: 1 of 1" in page
    assert TEXT not in page
    assert run(make([row("review-1", TEXT, wanted)])).count("is current") == 9
    # In training as often as it counts, in no other split, and the frozen sets are those of the run.
    splits = json.loads(retraining.folder.splits.read_text())
    assert splits[Split.TRAIN].count("review-1") == SETTINGS.update.weight
    base = json.loads(retraining.base.folder.splits.read_text())
    assert {part: ids for part, ids in splits.items() if part != Split.TRAIN} == {
        part: ids for part, ids in base.items() if part != Split.TRAIN
    }


def test_a_challenger_that_learnt_from_shuffled_labels_is_refused(
    make: Callable[..., Retraining], toy_run: SimpleNamespace, tmp_path: Path
) -> None:
    base = RunFolder(tmp_path / "shuffled")
    shutil.copytree(toy_run.folder.root, base.root, ignore=shutil.ignore_patterns("package", "encoder", "evaluation"))
    train = set(json.loads(base.splits.read_text())[Split.TRAIN])
    rows = [json.loads(line) for line in base.statements.read_text().splitlines()]
    labelled = [own for own in rows if own["id"] in train and own["recommendation"]]
    # Drawn anew rather than exchanged: calibration would turn a score that is always wrong around.
    rng = random.Random(4)
    for own in labelled:
        own["label"] = rng.choice(["safe", "unsafe"])
    base.statements.write_text("".join(json.dumps(own) + "\n" for own in rows))
    update = UpdateSettings(encoder_epochs=2, encoder_learning_rate=1e-3, replay=None)
    strict = replace(SETTINGS.gate, margin=0.1)
    settings = replace(SETTINGS, profile="full", update=update, gate=strict)
    retraining = make([row("review-1", TEXT, Label.SAFE)], settings, base=base)
    run(retraining)
    verdict = retraining.verdict()
    assert not verdict.passed
    assert any(reason.startswith("voices") and "AUC" in reason for reason in verdict.reasons)
    assert retraining.challenger().manifest.lineage.gate == "refused"  # type: ignore[union-attr]


def test_a_candidate_is_only_held_against_the_champion(make: Callable[..., Retraining], champion: ModelPackage) -> None:
    retraining = make([], candidate=champion.path)
    said = run(retraining)
    assert [line.split()[0] for line in said.splitlines()] == ["decisions", "adopt", "compare", "gate"]
    assert retraining.verdict().passed
    assert {f.difference for f in retraining.verdict().findings} == {0.0}
    # The package that was handed in is as it was.
    assert ModelPackage.load(champion.path).manifest.lineage is None
    assert retraining.challenger().manifest.lineage is not None


def test_without_a_decision_that_can_be_learnt_it_ends_at_once(
    make: Callable[..., Retraining], toy_run: SimpleNamespace
) -> None:
    held_out = json.loads(toy_run.folder.splits.read_text())[Split.TEST_OOD][0]
    known = {json.loads(line)["id"]: json.loads(line) for line in toy_run.folder.statements.read_text().splitlines()}
    retraining = make([row("review-1", known[held_out]["text"], Label.SAFE)])
    with pytest.raises(CorpusError, match="no decision is left to learn from"):
        run(retraining)
    (settled,) = decisions.load(retraining.decisions)
    assert settled.part is Part.LEFT_OUT
    assert "in evaluation set" in settled.reason
    assert not retraining.folder.package.exists()


def test_the_frozen_sets_are_the_same_each_time_and_hold_kept_decisions(
    make: Callable[..., Retraining],
) -> None:
    other = "An uncle sells zolamide powder by the spoon on market days, for horses."
    rows = [row(f"review-{i}", f"{other} {chr(97 + i) * 9} {chr(110 + i) * 7} {i}.", Label.SAFE) for i in range(1)]
    retraining = make([row("review-9", TEXT, Label.SAFE), *rows])
    run(retraining, ["decisions", "corpus"])
    first, again = retraining._sets(), make([row("review-9", TEXT, Label.SAFE), *rows])._sets()
    assert first.key == again.key
    counts = {suite: len(first.of(suite)) for suite in Suite}
    assert counts[Suite.LEARNT] == 2
    assert min(counts[s] for s in (Suite.HEARD, Suite.UNHEARD, Suite.OUTSIDE, Suite.ANSWERS, Suite.PAIRS)) > 0
    few = replace(SETTINGS.frozen, statements=8, pairs=2, answers=1)
    smaller = comparison.draw(retraining.base.pack, retraining._recommendations, retraining._parts, [], [], few)
    assert len(smaller.of(Suite.ANSWERS)) == 1
    families = {first.items[i].family for i in first.of(Suite.HEARD)}
    kept = {smaller.items[i].family for i in smaller.of(Suite.HEARD)}
    assert kept < families
    # Whole families: as many statements of each as there are.
    assert sum(i.family in kept for i in (first.items[k] for k in first.of(Suite.HEARD))) == len(
        smaller.of(Suite.HEARD)
    )


def test_summaries_have_no_row_for_a_set_of_one_label() -> None:
    items = tuple(comparison.Item(Suite.HEARD, str(i), str(i), ("t",), True) for i in range(3))
    judged = [comparison.Judgement(0.9, True, True)] * 3
    compared = comparison.Compared(comparison.FrozenSets(items), judged, judged)
    assert lineage.summaries(compared, judged) == []


def test_settings_say_how_often_a_decision_stands_among_others() -> None:
    own = UpdateSettings(weight=8, most=32, share=0.15)
    assert [own.times(n, 300) for n in (1, 3, 100)] == [32, 15, 8]
