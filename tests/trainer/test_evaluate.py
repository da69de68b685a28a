"""`guardline evaluate`: tables or JSON of a run that was evaluated, and what is said of one that was not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from monitor.settings import DEFAULT_RUN
from trainer import evaluate, evaluation, report
from trainer.artifacts import RunFolder, write_json
from trainer.errors import StageMissing
from trainer.evaluation import CONTRASTIVE, FROZEN, FROZEN_BINARY, load_metrics
from trainer.types import Metric


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(evaluate.command, arguments)


def test_it_prints_a_table_for_each_kind_of_voices_and_one_of_shares(toy_run: SimpleNamespace) -> None:
    result = call("--run", str(toy_run.folder.root))
    assert result.exit_code == 0, result.output
    where = [
        result.stdout.index(title)
        for title in (
            "Voices heard in training",
            "Voices never heard",
            "The monitor's path at the package's thresholds",
        )
    ]
    assert where == sorted(where)
    for model in (FROZEN_BINARY, FROZEN, CONTRASTIVE):
        assert result.stdout.count(model) >= 2
    for r in load_metrics(toy_run.folder):
        assert f"{r.value:.3f}" in result.stdout, r
    assert "report.html" in result.stdout


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

    def breaks(*_: object) -> None:
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


def test_help() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert str(DEFAULT_RUN) in result.stdout
