"""`guardline evaluate`: print the figures of a run side by side, compare runs, and bring reviewers' labels in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from monitor.package import MANIFEST
from monitor.settings import DEFAULT_RUN
from trainer.artifacts import RunFolder, read_rows
from trainer.evaluation import quality, reviews
from trainer.evaluation.models import TESTS
from trainer.evaluation.report import comparison, difficulties, reviewed, shares, side_by_side
from trainer.evaluation.stage import load_judged, load_metrics
from trainer.pipeline import evaluate_again
from trainer.settings import EvaluationSettings
from trainer.statements.corpus import load_split
from trainer.types import Metric, Recommendation, Split


def _name(folder: RunFolder) -> str:
    """Return what a run is called beside others: its folder and the encoder it started from, where it has a package."""
    manifest = folder.package / MANIFEST
    if not manifest.exists():
        return str(folder.root)
    return f"{folder.root} ({json.loads(manifest.read_text())['encoder']['base']})"


def _started_from(folder: RunFolder) -> str:
    """Return what the verifier of a run started from; its encoder, where it has no verifier."""
    manifest = folder.package / MANIFEST
    if not manifest.exists():
        return str(folder.root)
    content = json.loads(manifest.read_text())
    return str((content.get("verifier") or content["encoder"])["base"])


def _review_rows(folder: RunFolder, file: Path) -> tuple[list[Metric], str]:
    """Return the rows of a file of reviews, and a sentence on what was in it."""
    examples = [e for own in load_split(folder).values() for e in own]
    given = reviews.load(file, examples)
    seen, confirmed = len(given.by_statement()), len(given.confirmed())
    said = (
        f"{len(given.given)} reviews of {seen} statements; {confirmed} confirmed by all who judged them, "
        f"{seen - confirmed} not. {given.unjudged} rows have no label yet."
    )
    return reviews.rows(given, load_judged(folder), EvaluationSettings()), said


def _export(folder: RunFolder, n: int, output: Path, console: Console) -> None:
    """Write a blind sample of the test splits for review."""
    parts = load_split(folder)
    chosen = reviews.sample([e for part in TESTS for e in parts[part]], n, EvaluationSettings().seed)
    reviews.export(chosen, read_rows(folder.recommendations, Recommendation), output)
    less = f" ({n} were asked for; there are no more families)" if len(chosen) < n else ""
    console.print(
        f"{len(chosen)} statements for review in {output}{less}. Fill in `reviewer` and `label`, then: "
        f"guardline evaluate --run {folder.root} --reviews {output}"
    )


@click.command()
@click.option(
    "--run",
    "run_",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_RUN,
    show_default=True,
    help="Run folder.",
)
@click.option("--again", is_flag=True, help="Compute the figures again, even where they are current.")
@click.option("--json", "json_", is_flag=True, help="Print rows as in metrics.json instead of tables.")
@click.option(
    "--compare",
    "others",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another run folder, to print beside this one; may be given several times.",
)
@click.option(
    "--suite",
    type=click.Choice(["quality"]),
    help="Print one table of the steps from the frozen encoder to the served model: statements, recommendations, whole "
    "answers, cost. Also written to build/results/quality.json.",
)
@click.option(
    "--reviews",
    "reviews_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or JSON lines of reviewers' labels: print agreement, and figures on what they confirmed.",
)
@click.option(
    "--export-reviews",
    "sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write N held-out statements for review to --output, blind to the corpus label.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where --export-reviews writes its CSV."
)
def command(
    run_: Path,
    again: bool,
    json_: bool,
    others: Sequence[Path],
    suite: str | None,
    reviews_: Path | None,
    sample: int | None,
    output: Path | None,
) -> None:
    """Print how a run's model does: frozen encoder against the served model, side by side, with 95% intervals.

    To have reviewers' figures in the report and the model card, too, lay their file into the run folder as
    reviews.csv (or reviews.jsonl) and call with --again.
    """
    if (sample is None) is not (output is None):
        raise click.UsageError("--export-reviews and --output belong together")
    if sum(map(bool, (others, reviews_, sample))) > 1:
        raise click.UsageError("only one of --compare, --reviews and --export-reviews at a time")
    if suite and (reviews_ or sample):
        raise click.UsageError("--suite goes with --compare, --again and --json only")
    folder, console = RunFolder(run_), Console()
    if again:
        evaluate_again(folder)
    if sample is not None and output is not None:
        load_metrics(folder)  # a run that was never evaluated has nothing to review
        _export(folder, sample, output, console)
    elif reviews_ is not None:
        load_metrics(folder)
        rows, said = _review_rows(folder, reviews_)
        _print_reviews(rows, said, json_, console)
    elif suite:
        _print_quality([folder, *map(RunFolder, others)], json_, console)
    elif others:
        runs = {_name(f): load_metrics(f) for f in (folder, *map(RunFolder, others))}
        _print_runs(runs, json_, console)
    else:
        _print_run(folder, load_metrics(folder), json_, console)


def _print_run(folder: RunFolder, rows: Sequence[Metric], json_: bool, console: Console) -> None:
    if json_:
        click.echo(json.dumps([asdict(r) for r in rows]))
        return
    for split in reversed(TESTS):
        console.print(comparison(rows, split))
    console.print(difficulties(rows, Split.TEST_OOD))
    console.print(shares(rows))
    console.print(
        f"Decisions at a calibrated probability of one half. All strata and plots: {folder.evaluation / 'report.html'}"
    )


def _print_runs(runs: dict[str, list[Metric]], json_: bool, console: Console) -> None:
    if json_:
        click.echo(json.dumps([{"run": name, **asdict(r)} for name, rows in runs.items() for r in rows]))
        return
    for split in reversed(TESTS):
        console.print(side_by_side(runs, split))
        sizes = {r.n for rows in runs.values() for r in rows
                 if (r.suite, r.split, r.stratum) == ("statements", split.value, "all")}  # fmt: skip
        if len(sizes) > 1:
            console.print("The runs were not measured on the same statements: their figures do not compare.")


def _print_quality(folders: Sequence[RunFolder], json_: bool, console: Console) -> None:
    """Print the tables of runs as one; with several, each line says what its model started from."""
    rows = quality.load(folders[0])
    if len(folders) > 1:
        rows = [row for folder in folders for row in quality.named(quality.load(folder), _started_from(folder))]
    path = quality.publish(rows)
    if json_:
        click.echo(json.dumps(rows))
        return
    for part in quality.terminal(rows):
        console.print(part)
    if len({row["statements"] for row in rows}) > 1:
        console.print("The runs were not measured on the same statements: their figures do not compare.")
    console.print(
        "95% intervals. Statements are decided at a probability of one half, the rest at the package's thresholds. "
        f"Rows: {path}"
    )


def _print_reviews(rows: Sequence[Metric], said: str, json_: bool, console: Console) -> None:
    if json_:
        click.echo(json.dumps([asdict(r) for r in rows]))
        return
    console.print(said)
    for table in reviewed(rows):
        console.print(table)
