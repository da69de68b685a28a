"""`guardline feedback`: reviewers' decisions as labelled statements, and how far reviewers agree."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from monitor.errors import ConfigurationError
from monitor.feedback.agreement import Agreement, Estimate, agreement
from monitor.feedback.export import Export, Settled, Texts, export, read_texts, settled
from monitor.feedback.reading import Feedback, read_topic
from monitor.logs import configure
from monitor.settings import Settings, load_settings

_BOOTSTRAP = click.option(
    "--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]"
)
_JSON = click.option("--json", "json_", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """Export reviewers' decisions as labelled statements; tell how far reviewers agree."""


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's standard error; yield what is told how much is done, and of how much."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _read(settings: Settings) -> Feedback:
    with _progress("Reading decisions") as advance:
        found = asyncio.run(read_topic(settings, advance))
    _report(found.unreadable, "records of the topic are no decisions")
    return found


def _report(counts: Mapping[str, int], what: str) -> None:
    if total := sum(counts.values()):
        reasons = ", ".join(f"{reason} ({n})" for reason, n in sorted(counts.items()))
        click.echo(f"guardline: {total} {what}: {reasons}", err=True)


def _write(path: Path, made: Export) -> None:
    """Write the rows beside and put the file in place whole; it may hold health data, so only its owner reads it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in made.rows)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def _texts(settings: Settings, flags: list[Settled]) -> Texts:
    with _progress("Reading statements") as advance:
        return asyncio.run(read_texts(settings, flags, advance))


@command.command("export")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where the rows go, a line each."
)
@click.option(
    "--with-text",
    is_flag=True,
    help="Write the statements, too, of the flag or else of the message on the broker (they may be health data).",
)
@_JSON
@_BOOTSTRAP
def export_command(output: Path, with_text: bool, json_: bool, kafka_bootstrap: str | None) -> None:
    """Write settled decisions as labelled statements, a JSON line each.

    Settled is what two reviewers say and no two others contradict. A statement that was accepted, or contradicts
    another recommendation, is unsafe; one that was rejected is safe. Each row names flag, message, model, guideline and
    how many reviewers decided. Without --with-text it names the statement by its hash alone.

    Exits with 0; 2 for wrong usage or configuration; 3 when the broker cannot be used.
    """
    settings = load_settings(kafka_bootstrap=kafka_bootstrap)
    configure("warning", "console")
    flags = settled(_read(settings).decisions)
    texts = _texts(settings, flags) if with_text else Texts()
    made = export(flags, texts.found)
    _write(output, made)
    labels = Counter(row["label"] for row in made.rows)
    missing = sum(row["text"] is None for row in made.rows) if with_text else 0
    if json_:
        summary = {
            "rows": len(made.rows),
            "labels": labels,
            "flags": len(flags),
            "conflicting": made.conflicting,
            "without_text": missing,
        }
        click.echo(orjson.dumps(summary).decode())
        return
    click.echo(
        f"{output}: {len(made.rows)} statements of {len(flags)} settled flags: {labels['unsafe']} unsafe, "
        f"{labels['safe']} safe"
    )
    if made.conflicting:
        click.echo(
            f"guardline: {len(made.conflicting)} statements were settled as safe and as unsafe: left out", err=True
        )
    if missing:
        click.echo(f"guardline: {missing} statements have no text", err=True)
        _report(texts.missing, "flags without")


def _shown(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.2f} ({found.low:.2f}-{found.high:.2f})"


def _show(found: Agreement) -> None:
    console = Console(highlight=False)
    counts = ", ".join(f"{n} {status}" for status, n in found.statuses.items())
    console.print(f"flags with decisions: {sum(found.statuses.values())} ({counts})")
    table = Table("", "flags", "decisions", "agreement", "alpha", box=None)
    for row in found.strata:
        table.add_row(Text(row.name), str(row.flags), str(row.decisions), _shown(row.share), _shown(row.alpha))
    console.print(table)
    if found.pairs:
        pairs = Table("reviewers", "flags", "agreement", "kappa", box=None)
        for pair in found.pairs:
            pairs.add_row(Text(f"{pair.first}, {pair.second}"), str(pair.flags), _shown(pair.share), _shown(pair.kappa))
        console.print(pairs)


@command.command("agreement")
@_JSON
@_BOOTSTRAP
def agreement_command(json_: bool, kafka_bootstrap: str | None) -> None:
    """Print how far reviewers agree, by category and recommendation, and for every two of them.

    Counted are flags that two reviewers or more decided on (`unsure` is no decision). Beside the share of pairs of
    decisions that are the same: Krippendorff's alpha, and Cohen's kappa for two reviewers; 0 is chance, 1 is perfect.
    In brackets 95% bootstrap intervals over flags; "-" where all decisions are the same one, which chance explains.

    Exits with 0; 2 for wrong usage or configuration; 3 when the broker cannot be used.
    """
    settings = load_settings(kafka_bootstrap=kafka_bootstrap)
    configure("warning", "console")
    found = agreement(_read(settings).decisions)
    if json_:
        click.echo(orjson.dumps(asdict(found)).decode())
    else:
        _show(found)
