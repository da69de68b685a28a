"""`guardline evaluate`: tables or JSON of a run that was evaluated, and what is said of one that was not."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from monitor.settings import DEFAULT_RUN
from trainer import evaluate
from trainer.artifacts import RunFolder, digest, write_json
from trainer.errors import CorpusError, StageMissing
from trainer.evaluation import report, reviews
from trainer.evaluation import stage as evaluation
from trainer.evaluation.models import CONTRASTIVE, FROZEN, FROZEN_BINARY
from trainer.evaluation.stage import load_metrics
from trainer.statements.corpus import load_split
from trainer.types import Metric


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(evaluate.command, arguments)


def test_it_prints_the_tables_that_a_user_wants_first(toy_run: SimpleNamespace) -> None:
    result = call("--run", str(toy_run.folder.root))
    assert result.exit_code == 0, result.output
    where = [
        result.stdout.index(title)
        for title in (
            "Voices never heard (",
            "Voices heard in training (",
            "By difficulty, voices never heard",
            "The monitor's path at the package's thresholds",
        )
    ]
    assert where == sorted(where)
    for model in (FROZEN_BINARY, FROZEN, CONTRASTIVE):
        assert result.stdout.count(model) >= 2
    for r in load_metrics(toy_run.folder):
        if r.suite in ("statements", "policy", "messages") and r.stratum in ("all", "safe", "unsafe"):
            assert f"{r.value:.3f}" in result.stdout, r
    assert "report.html" in result.stdout
    assert len(result.stdout.splitlines()) < 90


def test_json_is_the_rows_of_the_metrics_and_nothing_else(toy_run: SimpleNamespace) -> None:
    result = call("--run", str(toy_run.folder.root), "--json")
    assert result.exit_code == 0, result.output
    assert [Metric(**row) for row in json.loads(result.stdout)] == load_metrics(toy_run.folder)


@pytest.mark.parametrize("arguments", [(), ("--again",), ("--json",)])
def test_a_run_that_was_not_evaluated_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = call("--run", str(tmp_path), *arguments)
    assert isinstance(result.exception, StageMissing)
    assert f"run `guardline train --run {tmp_path}`" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_without_a_run_it_is_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = Metric("policy", CONTRASTIVE, "test_id", "safe", "flagged", 0.1234, 0.1, 0.2, 50)
    write_json(DEFAULT_RUN / "evaluation" / "metrics.json", [])
    assert call("--json").stdout == "[]\n"
    (DEFAULT_RUN / "evaluation" / "metrics.json").write_text(json.dumps([evaluate.asdict(row)]))
    assert "0.123" in call().stdout


def test_it_reads_without_measuring_unless_asked(toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunFolder] = []
    monkeypatch.setattr(evaluate, "evaluate_again", asked.append)
    for arguments in ((), ("--json",)):
        assert call("--run", str(toy_run.folder.root), *arguments).exit_code == 0
    assert asked == []
    assert call("--run", str(toy_run.folder.root), "--again", "--json").exit_code == 0
    assert asked == [toy_run.folder]


def test_again_measures_writes_the_report_and_keeps_standard_output_for_the_rows(
    tmp_path: Path, toy_run: SimpleNamespace
) -> None:
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))
    shutil.rmtree(folder.evaluation)
    result = call("--run", str(folder.root), "--again", "--json")
    assert result.exit_code == 0, result.output
    assert [Metric(**row) for row in json.loads(result.stdout)] == load_metrics(toy_run.folder)
    assert (folder.evaluation / "report.html").is_file()
    assert "evaluate" in result.stderr


def test_again_that_fails_prints_no_old_figures(
    tmp_path: Path, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))

    def breaks(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(evaluation, "run", breaks)
    result = call("--run", str(folder.root), "--again")
    assert isinstance(result.exception, OSError)
    assert result.stdout == ""


def test_a_report_that_cannot_be_drawn_is_no_finished_stage(
    tmp_path: Path, toy_run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "run")))
    folder.stamp("evaluate").unlink()

    def breaks(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(report, "write_report", breaks)
    assert isinstance(call("--run", str(folder.root), "--again").exception, OSError)
    assert not folder.stamp("evaluate").exists()


# Runs side by side


@pytest.fixture
def copy(tmp_path: Path, toy_run: SimpleNamespace) -> RunFolder:
    return RunFolder(Path(shutil.copytree(toy_run.folder.root, tmp_path / "copy")))


def test_runs_are_compared(toy_run: SimpleNamespace, copy: RunFolder) -> None:
    result = call("--run", str(toy_run.folder.root), "--compare", str(copy.root))
    assert result.exit_code == 0, result.output
    assert result.stdout.count(CONTRASTIVE) == 4  # two runs, two kinds of voices
    assert "do not compare" not in result.stdout


def test_runs_on_other_statements_are_not_comparable(toy_run: SimpleNamespace, copy: RunFolder) -> None:
    rows = [replace(r, n=r.n + 1) for r in load_metrics(copy)]
    write_json(copy.evaluation / "metrics.json", [evaluate.asdict(r) for r in rows])
    result = call("--run", str(toy_run.folder.root), "--compare", str(copy.root))
    assert "were not measured on the same statements" in " ".join(result.stdout.split())


def test_compared_rows_name_their_run(toy_run: SimpleNamespace, copy: RunFolder) -> None:
    result = call("--run", str(toy_run.folder.root), "--compare", str(copy.root), "--json")
    rows = json.loads(result.stdout)
    assert len({row["run"] for row in rows}) == 2
    assert len(rows) == 2 * len(load_metrics(copy))


# Reviews


def test_a_sample_goes_out_and_comes_back(toy_run: SimpleNamespace, tmp_path: Path) -> None:
    run, file = str(toy_run.folder.root), tmp_path / "sample.csv"
    result = call("--run", run, "--export-reviews", "8", "--output", str(file))
    assert result.exit_code == 0, result.output
    assert "8 statements for review" in result.stdout
    labels = {reviews.key(e.text): e.label for own in load_split(toy_run.folder).values() for e in own}
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    assert len(rows) == 8
    for row in rows[:7]:
        row |= {"label": labels[row["statement"]], "reviewer": "ann"}
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, reviews.FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    before = digest(toy_run.folder.root)
    printed = call("--run", run, "--reviews", str(file))
    assert printed.exit_code == 0, printed.output
    assert "7 reviews of 7 statements; 7 confirmed by all who judged them, 0 not." in " ".join(printed.stdout.split())
    assert "1 rows have no label yet" in " ".join(printed.stdout.split())
    found = [Metric(**r) for r in json.loads(call("--run", run, "--reviews", str(file), "--json").stdout)]
    assert {(r.model, r.metric, r.value) for r in found if r.suite == "reviews"} == {
        ("ann, corpus", "agreement", 1.0), ("ann, corpus", "Cohen's kappa", 1.0),
    }  # fmt: skip
    assert any(r.suite == "reviewed" for r in found)
    assert digest(toy_run.folder.root) == before  # reading reviews changes nothing of the run


def test_a_sample_larger_than_the_corpus_is_what_there_is(toy_run: SimpleNamespace, tmp_path: Path) -> None:
    result = call("--run", str(toy_run.folder.root), "--export-reviews", "999", "--output", str(tmp_path / "s.csv"))
    assert "999 were asked for" in " ".join(result.stdout.split())


def test_a_file_that_is_not_usable_is_named(toy_run: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("statement,reviewer,label\nnobody,ann,safe\n")
    result = call("--run", str(toy_run.folder.root), "--reviews", str(file))
    assert isinstance(result.exception, CorpusError)
    assert "line 2: statement 'nobody'" in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--export-reviews", "3"),
        ("--output", "x.csv"),
        ("--export-reviews", "3", "--output", "x.csv", "--compare", "."),
        ("--export-reviews", "0", "--output", "x.csv"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_help() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert str(DEFAULT_RUN) in result.stdout
