"""The model card: made of the manifest, the rows and the corpus, and of nothing else."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder
from trainer.evaluation.modelcard import CARD, DataFacts, model_card, write_card
from trainer.evaluation.models import CONTRASTIVE, FROZEN
from trainer.evaluation.stage import load_metrics
from trainer.statements.corpus import load_split
from trainer.types import Label, Metric, Split


@pytest.fixture
def card(toy_run: SimpleNamespace) -> str:
    return (toy_run.folder.package / CARD).read_text(encoding="utf-8")


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_a_run_leaves_a_card_in_its_package_and_the_package_stays_whole(toy_run: SimpleNamespace, card: str) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    assert card.startswith(f"# {manifest.name} {manifest.version}\n")
    assert "zolamide for mumbles" in card
    for title in ("Intended use", "Not for", "Training data", "Figures", "Limits", "Thresholds", "Versions"):
        assert f"\n## {title}\n" in card
    assert "None" not in card
    assert "{{" not in card


def test_figures_are_those_of_the_rows(toy_run: SimpleNamespace, card: str) -> None:
    figures = section(card, "Figures")
    for r in load_metrics(toy_run.folder):
        if (r.suite, r.stratum) == ("statements", "all") and r.model in (CONTRASTIVE, FROZEN):
            (line,) = (x for x in figures.splitlines() if f"| {r.metric} |" in x and x.endswith(f"| {r.n} |"))
            assert f"{r.value:.3f} ({r.low:.2f} to {r.high:.2f})" in line


def test_data_facts_are_counted(toy_run: SimpleNamespace, card: str) -> None:
    parts = load_split(toy_run.folder)
    facts = DataFacts.of(toy_run.folder)
    assert facts.statements == sum(map(len, parts.values()))
    assert facts.by_split["train"]["unsafe"] == sum(e.label is Label.UNSAFE for e in parts[Split.TRAIN])
    assert (facts.heard, facts.held_out) == (("a", "b"), ("g", "l"))
    data = section(card, "Training data")
    assert f"{facts.statements} statements" in data
    assert "No clinician has reviewed them" in data
    assert "Held out of it, for the figures on voices never heard: g, l." in data


def test_thresholds_and_hashes_are_those_of_the_manifest(toy_run: SimpleNamespace, card: str) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    for value in (manifest.thresholds.unsafe, manifest.thresholds.review, manifest.thresholds.in_scope):
        assert f"| {value} |" in section(card, "Thresholds")
    versions = section(card, "Versions")
    for digest in (manifest.guideline.sha256, manifest.corpus.sha256, *manifest.files.values()):
        assert f"`{digest}`" in versions


def test_tables_are_whole(card: str) -> None:
    """Every line of a Markdown table has as many cells as its head, and a rule follows the head."""
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        lines = table.splitlines()
        assert set(lines[1]) == {"|", "-"}
        assert len({line.count("|") for line in lines}) == 1, table


def test_reviewers_are_named_only_where_there_are_reviews(toy_run: SimpleNamespace) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    facts = DataFacts.of(toy_run.folder)
    row = Metric("reviews", "ann, corpus", "all", "all", "Cohen's kappa", 0.8, 0.7, 0.9, 50)
    card = model_card(manifest, [row], facts)
    assert "| ann, corpus | Cohen's kappa | 0.800 (0.70 to 0.90) | 50 |" in card
    assert "No clinician has reviewed" not in card
    assert "### Reviewers" not in model_card(manifest, [], facts)


def test_limits_say_what_the_figures_say(toy_run: SimpleNamespace) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    rows = [
        Metric("policy", CONTRASTIVE, "test_ood", "unsafe", "flagged or in review", 0.7, 0.6, 0.8, 50),
        Metric("messages", CONTRASTIVE, "all", "safe", "flagged", 0.4, 0.3, 0.5, 50),
        Metric("alignment", CONTRASTIVE, "test_ood", "all", "right recommendation", 0.9, 0.8, 1.0, 50),
    ]
    limits = section(model_card(manifest, rows, DataFacts.of(toy_run.folder)), "Limits")
    assert "30% of the unsafe statements are neither flagged nor sent to review" in limits
    assert "40% of the whole answers without an error get at least one flag" in limits
    assert "For 10% of the statements another recommendation is cited" in limits
    assert "%" not in section(model_card(manifest, [], DataFacts.of(toy_run.folder)), "Limits")


def test_a_card_without_figures_says_that_there_are_none(tmp_path: Path, toy_run: SimpleNamespace) -> None:
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))
    folder.rejected.unlink()
    path = write_card(folder, [])
    assert path == folder.package / CARD
    assert "None: no test split has statements of both labels" in path.read_text()
