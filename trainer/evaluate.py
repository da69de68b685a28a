"""`guardline evaluate`: print the figures of a run, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from monitor.settings import DEFAULT_RUN
from trainer.artifacts import RunFolder
from trainer.evaluation import load_metrics
from trainer.pipeline import evaluate_again
from trainer.report import VOICES, comparison, shares


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
@click.option("--json", "json_", is_flag=True, help="Print the rows of metrics.json instead of tables.")
def command(run_: Path, again: bool, json_: bool) -> None:
    """Print how a run's model does: frozen encoder against contrastive, side by side, with 95% intervals."""
    folder = RunFolder(run_)
    if again:
        evaluate_again(folder)
    rows = load_metrics(folder)
    if json_:
        click.echo(json.dumps([asdict(r) for r in rows]))
        return
    console = Console()
    for split, voices in VOICES.items():
        console.print(comparison(rows, split, voices.capitalize()))
    console.print(shares(rows))
    console.print(f"Decisions at a calibrated probability of one half. Plots: {folder.evaluation / 'report.html'}")
