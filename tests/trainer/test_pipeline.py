"""The stages together: what they leave, what is skipped, what a change runs again, where an interrupted run goes on."""

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress

from monitor.package import ModelPackage
from trainer import pipeline
from trainer.artifacts import RunFolder, digest
from trainer.errors import CorpusError, StageMissing
from trainer.evaluation import report
from trainer.evaluation import stage as evaluation
from trainer.guideline.guidelines import Pack
from trainer.model import contrastive, export
from trainer.pipeline import STAGES, Pipeline, evaluate_again, load_settings
from trainer.settings import PROFILES, TrainSettings, VerifierSettings
from trainer.statements.corpus import load_split
from trainer.train import command
from trainer.types import Label, Split


@dataclass
class Run:
    """A copy of the toy run that a test may change."""

    folder: RunFolder
    pack: Path
    settings: TrainSettings

    def train(self, *stages: str, again: bool = False) -> dict[str, str]:
        """Run stages; return for each of them `ran` or `current`."""
        console = Console(file=io.StringIO(), width=200)
        Pipeline(self.folder, Pack.load(self.pack), self.settings).run(stages or STAGES, console, again=again)
        return said(console.file.getvalue())


def said(output: str) -> dict[str, str]:
    lines = re.findall(r"^(\w+) +(is current|[\d.]+ s)", output, re.MULTILINE)
    return {stage: "current" if what == "is current" else "ran" for stage, what in lines if stage in STAGES}


def expected(first: str | None) -> dict[str, str]:
    """Everything before `first` is current, `first` and what follows has run."""
    start = STAGES.index(first) if first else len(STAGES)
    return {stage: "ran" if i >= start else "current" for i, stage in enumerate(STAGES)}


@pytest.fixture
def run(tmp_path: Path, toy_run: SimpleNamespace) -> Run:
    shutil.copytree(toy_run.root, tmp_path / "toy")
    return Run(RunFolder(tmp_path / "toy" / "run"), tmp_path / "toy" / "pack" / "pack.yaml", toy_run.settings)


@pytest.fixture
def quick(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same with the two slow stages faked: what they leave is a file that says what they were given."""

    def fake_export(*given: Any) -> dict[str, Any]:
        folder = given[5]
        seen = digest(folder.encoder) + digest(folder.classifier)
        (folder.package / "encoder" / "seen").write_text(seen)
        (folder.package / "manifest.json").write_text(json.dumps({"seen": seen}))
        return {"model": "x"}

    def fake_evaluation(corpus: Path, rules: Any, folder: RunFolder, *rest: Any, **more: Any) -> Any:
        (folder.evaluation / "seen").write_text(digest(corpus))
        return SimpleNamespace(summary=[])

    monkeypatch.setattr(export, "run", fake_export)
    monkeypatch.setattr(evaluation, "run", fake_evaluation)
    monkeypatch.setattr(report, "write_report", lambda folder, measured: None)
    return run


def touch_row(run: Run, part: Split) -> None:
    """Add a word to one safe statement of a split."""
    identifier = next(e.id for e in load_split(run.folder)[part] if e.label is Label.SAFE)
    file = run.pack.parent / "corpus" / f"llm_style_{identifier[0]}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["id"] == identifier:
            row["text"] += " Always."
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


# A whole run


def test_all_stages_leave_their_artefacts(toy_run: SimpleNamespace) -> None:
    assert said(toy_run.output) == expected("extract")
    folder = toy_run.folder
    assert {p.name for p in folder.root.iterdir()} == {
        "settings.json", "stamps", "recommendations.jsonl", "rejected_recommendations.jsonl", "extraction.json",
        "passages.jsonl", "summaries.jsonl", "summaries_rejected.jsonl", "statements.jsonl", "rejected.jsonl",
        "checks.json", "DATACARD.md", "splits.json", "encoder", "classifier", "package", "evaluation",
    }  # fmt: skip
    assert {p.stem for p in (folder.root / "stamps").iterdir()} == set(STAGES)
    assert (folder.encoder / "model.safetensors").is_file()
    assert (folder.classifier / "classifier.json").is_file()
    assert (folder.evaluation / "report.html").is_file()
    assert ModelPackage.load(folder.package).manifest.name == "mumbles-zolamide"
    assert "recommendations 3" in toy_run.output


def test_a_second_run_has_nothing_to_do(run: Run) -> None:
    artefacts = [p for p in run.folder.root.iterdir() if p.name != "settings.json"]
    before = {p.name: digest(p) for p in artefacts}
    assert run.train() == expected(None)
    assert {p.name: digest(p) for p in artefacts} == before


def test_one_corpus_row_runs_the_corpus_and_what_follows(run: Run) -> None:
    package = ModelPackage.load(run.folder.package)
    touch_row(run, Split.TRAIN)
    assert run.train() == expected("corpus")
    again = ModelPackage.load(run.folder.package)
    assert again.manifest.corpus.sha256 == digest(run.folder.statements) != package.manifest.corpus.sha256
    assert again.reference != package.reference
    assert len(again.manifest.evaluation) == 2
    assert run.train() == expected(None)


def test_a_row_that_changes_no_weight_is_in_the_manifest_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement of a test split: encoder and classifier come out as they were."""
    monkeypatch.setattr(Pipeline, "_encoder", lambda self, progress: {})
    monkeypatch.setattr(Pipeline, "_classifier", lambda self, progress: {})
    touch_row(run, Split.TEST_OOD)
    assert run.train("extract", "corpus", "encoder", "classifier", "export")["corpus"] == "ran"
    manifest = ModelPackage.load(run.folder.package).manifest
    assert manifest.corpus.sha256 == digest(run.folder.statements)


# What a change runs again


def test_the_guideline_runs_all_again_that_depends_on_it(quick: Run) -> None:
    (quick.pack.parent / "guideline.md").write_text(
        (quick.pack.parent / "guideline.md").read_text().replace("Zolamide for mumbles", "Zolamide, for mumbles")
    )
    found = quick.train()
    assert found["extract"] == found["export"] == "ran"  # the pack's text is in the manifest
    # The recommendations' offsets have moved, so what was made from them is made again.
    assert found["corpus"] == "ran"
    assert found["encoder"] == found["classifier"] == "current"  # the same statements and splits


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda s: replace(s, corpus=replace(s.corpus, split=replace(s.corpus.split, seed=99))), "corpus"),
        (lambda s: replace(s, encoder=replace(s.encoder, seed=99)), "encoder"),
        (lambda s: replace(s, classifier=replace(s.classifier, joint_c=0.5)), "classifier"),
        (lambda s: replace(s, evaluation=replace(s.evaluation, seed=99)), "evaluate"),
    ],
)
def test_a_setting_runs_its_stage_and_what_follows(
    quick: Run, change: Callable[[TrainSettings], TrainSettings], first: str
) -> None:
    quick.train()
    quick.settings = change(quick.settings)
    # The verifier's candidates come from the frozen encoder: it does not depend on the trained one.
    assert quick.train() == expected(first) | ({"verifier": "current"} if first == "encoder" else {})


@pytest.mark.parametrize(
    ("spoil", "stage"),
    [
        (lambda f: f.recommendations.unlink(), "extract"),
        (lambda f: f.splits.write_text("{}"), "corpus"),
        (lambda f: (f.classifier / "joint.npz").unlink(), "classifier"),
        (lambda f: shutil.rmtree(f.evaluation), "evaluate"),
        (lambda f: (f.package / "tokenizer.json").write_text("{}"), "export"),
    ],
)
def test_an_artefact_that_was_spoilt_is_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[RunFolder], None], stage: str
) -> None:
    ran = []
    monkeypatch.setattr(Pipeline, "_export", lambda self, progress: ran.append("export") or {})
    monkeypatch.setattr(Pipeline, "_evaluate", lambda self, progress: ran.append("evaluate") or {})
    spoil(run.folder)
    found = run.train()
    assert found[stage] == "ran"
    assert found["encoder"] == "current"


def test_again_runs_what_is_current(quick: Run) -> None:
    assert quick.train("extract", "corpus", again=True) == {"extract": "ran", "corpus": "ran"}
    assert quick.train() == {**expected(None), "export": "current", "evaluate": "current"}


def test_a_manifest_that_was_deleted_is_made_again(quick: Run) -> None:
    (quick.folder.package / "manifest.json").unlink()
    assert quick.train()["export"] == "ran"


@pytest.mark.parametrize("what", ["thresholds", "terms"])
def test_what_only_the_manifest_says_is_evaluated_again(
    run: Run, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    source = toy_run.folder.package / "encoder" / "1" / "model.onnx"
    monkeypatch.setattr(export, "to_onnx", lambda model, path, **_: shutil.copy(source, path))
    if what == "thresholds":
        own = run.settings.classifier
        run.settings = replace(run.settings, classifier=replace(own, flagged_safe=0.0, reviewed_safe=1.0))
    else:
        run.pack.write_text(run.pack.read_text() + "scope_terms: [mumbling]\n")
    before = ModelPackage.load(run.folder.package)
    found = run.train()
    assert found["encoder"] == "current"
    assert found["export"] == "ran"
    assert found["evaluate"] == "ran"
    after = ModelPackage.load(run.folder.package)
    assert after.reference.version != before.reference.version
    assert len(after.manifest.evaluation) == 2
    assert run.train() == expected(None)


def test_a_package_that_was_exported_again_is_evaluated_again(
    run: Run, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh manifest has no summary yet."""
    source = toy_run.folder.package / "encoder" / "1" / "model.onnx"
    monkeypatch.setattr(export, "to_onnx", lambda model, path, **_: shutil.copy(source, path))
    assert run.train("export", again=True) == {"export": "ran"}
    assert ModelPackage.load(run.folder.package).manifest.evaluation == []
    assert run.train() == {**expected(None), "evaluate": "ran"}
    assert len(ModelPackage.load(run.folder.package).manifest.evaluation) == 2


def test_the_package_asks_for_no_more_tokens_than_the_encoder_has_positions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    monkeypatch.setattr(export, "run", lambda *given: lengths.append(given[2].encoder.max_length) or {})
    settings = replace(run.settings, encoder=replace(run.settings.encoder, max_length=512))
    Pipeline(run.folder, Pack.load(run.pack), settings)._export(Progress(disable=True))
    assert lengths == [300]


# Single stages, missing stages, interruptions


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_without_those_before_it_says_which(run: Run, tmp_path: Path, stage: str) -> None:
    run.folder = RunFolder(tmp_path / "empty")
    with pytest.raises(StageMissing, match="run `guardline train extract` first"):
        run.train(stage)


def test_a_stage_in_the_middle_that_is_missing_is_named(run: Run) -> None:
    shutil.rmtree(run.folder.encoder)
    with pytest.raises(StageMissing, match="run `guardline train encoder` first"):
        run.train("classifier")
    with pytest.raises(StageMissing, match="run `guardline train encoder` first"):
        run.train("extract", "evaluate")


def test_evaluate_without_a_manifest_names_export(quick: Run) -> None:
    (quick.folder.package / "manifest.json").unlink()
    with pytest.raises(StageMissing, match="run `guardline train export` first"):
        quick.train("evaluate")


def test_what_comes_after_may_be_missing(run: Run) -> None:
    shutil.rmtree(run.folder.package)
    shutil.rmtree(run.folder.evaluation)
    assert run.train("extract", "corpus") == {"extract": "current", "corpus": "current"}


def test_an_interrupted_run_goes_on_where_it_stopped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.folder = RunFolder(tmp_path / "fresh")
    with monkeypatch.context() as patch:

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(pipeline.classifier, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.train()
    assert (run.folder.encoder / "config.json").exists()
    assert not run.folder.stamp("classifier").exists()
    found = run.train("extract", "corpus", "encoder", "classifier")
    assert found == {"extract": "current", "corpus": "current", "encoder": "current", "classifier": "ran"}


def test_an_encoder_that_was_interrupted_while_saving_is_trained_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def breaks(*_: Any, **__: Any) -> None:
            (run.folder.encoder / "config.json").write_text("{}")
            raise OSError("disk full")

        patch.setattr(contrastive, "save", breaks)
        with pytest.raises(OSError, match="disk full"):
            run.train("encoder", again=True)
    assert run.train("encoder") == {"encoder": "ran"}


def test_a_pack_without_a_corpus_says_so(run: Run) -> None:
    run.pack.write_text(run.pack.read_text().replace("corpus: corpus\n", ""))
    with pytest.raises(CorpusError, match="no statements to learn from: name a `corpus` folder in the pack"):
        run.train()


def test_evaluate_again_needs_the_run_folder_only(quick: Run) -> None:
    quick.train()
    before = digest(quick.folder.root / "settings.json")
    assert not (quick.folder.evaluation / "seen").exists()
    evaluate_again(quick.folder)
    assert (quick.folder.evaluation / "seen").is_file()
    assert digest(quick.folder.root / "settings.json") == before
    assert quick.train() == expected(None)
    with pytest.raises(StageMissing, match="nothing was trained there"):
        evaluate_again(RunFolder(quick.pack.parent))


def changed(settings: Any) -> Any:
    """Return settings that differ from the defaults in every field."""

    def other(value: Any) -> Any:
        if is_dataclass(value):
            return changed(value)
        if isinstance(value, tuple):
            return (*value, value[-1] + 1 if value and isinstance(value[-1], float) else "z")
        if isinstance(value, bool):
            return not value
        if isinstance(value, Enum):
            return next(member for member in type(value) if member is not value)
        return f"{value}-other" if isinstance(value, str) else value + 1

    own = {field.name: getattr(settings, field.name) for field in fields(settings)}
    unset = {"max_minutes": 0.5, "pooling": "cls", "head": "plain", "verifier": VerifierSettings(), "base": "any"}
    return replace(settings, **{name: other(unset[name] if value is None else value) for name, value in own.items()})


@pytest.mark.parametrize("settings", [*PROFILES.values(), changed(PROFILES["smoke"])], ids=lambda s: s.profile)
def test_all_settings_of_a_run_come_back(run: Run, settings: TrainSettings) -> None:
    Pipeline(run.folder, Pack.load(run.pack), settings).record_settings()
    pack, found = load_settings(run.folder)
    assert found == settings
    assert pack == Pack.load(run.pack)


def test_settings_of_another_version_are_refused_with_what_to_do(run: Run) -> None:
    file = run.folder.root / "settings.json"
    content = json.loads(file.read_text())
    content["classifier"]["false_positive_rate"] = 0.05
    file.write_text(json.dumps(content))
    with pytest.raises(StageMissing, match="guardline train"):
        evaluate_again(run.folder)


# The command


def test_train_from_the_command_line(
    tmp_path: Path,
    make_pack: Callable[[Path], Path],
    tiny_bert: Path,
    tiny_settings: TrainSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], corpus=tiny_settings.corpus))
    pack = make_pack(tmp_path / "pack")
    arguments = ["--pack", str(pack), "--profile", "smoke", "--encoder", str(tiny_bert)]
    first = CliRunner().invoke(command, arguments)
    assert first.exit_code == 0, first.output
    assert said(first.output) == expected("extract")
    folder = RunFolder(tmp_path / "runs" / "mumbles-zolamide")
    assert "runs/mumbles-zolamide/package" in first.output
    assert "evaluation/report.html" in first.output
    assert ModelPackage.load(folder.package).manifest.encoder.base == str(tiny_bert)
    again = CliRunner().invoke(command, [*arguments, "corpus", "evaluate"])
    assert again.exit_code == 0, again.output
    assert said(again.output) == {"corpus": "current", "evaluate": "current"}


def test_train_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert CliRunner().invoke(command, ["polish"]).exit_code == 2
    assert CliRunner().invoke(command, ["--profile", "huge"]).exit_code == 2
    assert CliRunner().invoke(command, ["--pack", str(tmp_path / "none.yaml")]).exit_code == 2
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0


def test_train_of_a_missing_stage_fails(tmp_path: Path, make_pack: Callable[[Path], Path]) -> None:
    result = CliRunner().invoke(
        command, ["classifier", "--pack", str(make_pack(tmp_path / "pack")), "--run", str(tmp_path / "run")]
    )
    assert isinstance(result.exception, StageMissing)


def test_profiles_carry_their_names() -> None:
    assert {name: p.profile for name, p in PROFILES.items()} == {name: name for name in PROFILES}
    assert PROFILES["quick"].encoder.max_minutes is not None
