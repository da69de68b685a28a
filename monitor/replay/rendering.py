"""Reports of a replay, for people and for programs. Text of statements only where it was asked for."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.replay import dead_letters, history
from monitor.replay.places import format_offsets
from monitor.text import normalise

_TEXT_WIDTH = 200


def show_dead_letters(report: dead_letters.Report, *, dry_run: bool, console: Console) -> None:
    """Print what became of the letters, a row for each reason."""
    shown = [outcome for outcome in dead_letters.Outcome if report.of(outcome)]
    if not shown:
        console.print("no dead letters to replay")
        return
    table = Table("reason", box=None)
    for outcome in shown:
        name = "would be replayed" if dry_run and outcome is dead_letters.Outcome.REPLAYED else outcome.value
        table.add_column(name, justify="right")
    for reason in sorted({reason for reason, _ in report.counts}):
        table.add_row(Text(reason), *(str(report.counts[reason, outcome]) for outcome in shown))
    console.print(table)


def dead_letters_as_json(report: dead_letters.Report, *, dry_run: bool) -> dict[str, object]:
    """Return what became of the letters."""
    rows: dict[str, dict[str, int]] = {}
    for (reason, outcome), n in report.counts.items():
        rows.setdefault(reason, {})[outcome.value] = n
    return {
        "dry_run": dry_run,
        "replayed": report.of(dead_letters.Outcome.REPLAYED),
        "left": report.left,
        "reasons": rows,
        "finished": report.finished,
        "resume": format_offsets(report.resume),
    }


def show_history(report: history.Report, *, show_text: bool, console: Console) -> None:
    """Print which verdicts would change."""
    compared = ", ".join(f"{n} by {by}" for by, n in report.before.most_common())
    console.print(Text(f"{report.read} inputs judged, {report.flipped} would flip; before: {compared or 'nothing'}"))
    if not report.flipped:
        return
    counts = Table("before", "after", box=None)
    counts.add_column("inputs", justify="right")
    for (before, after), n in sorted(report.counts.items(), key=lambda item: -item[1]):
        if before is not after:
            counts.add_row(before.value, after.value, str(n))
    console.print(counts)
    flips = Table("place", "message", "before", "after", box=None)
    for flip in report.flips:
        flips.add_row(
            f"{flip.topic}/{flip.partition}:{flip.offset}",
            Text(normalise(flip.after.message_id or "-")[:_TEXT_WIDTH]),
            f"{flip.before.verdict.value} {flip.before.score:.2f}",
            f"{flip.after.verdict.value} {flip.after.score:.2f}",
        )
    console.print(f"\nthe first {len(report.flips)} of {report.flipped}")
    console.print(flips)
    if show_text:
        for flip in report.flips:
            text = flip.after.text or flip.before.text
            if text:
                place = f"{flip.topic}/{flip.partition}:{flip.offset}"
                console.print(Text(f"{place}  {normalise(text)[:_TEXT_WIDTH]}"), soft_wrap=True)


def history_as_json(report: history.Report, *, show_text: bool) -> dict[str, object]:
    """Return which verdicts would change."""
    counts: dict[str, dict[str, int]] = {}
    for (before, after), n in report.counts.items():
        counts.setdefault(before.value, {})[after.value] = n
    return {
        "read": report.read,
        "flipped": report.flipped,
        "counts": counts,
        "before": report.before,
        "flips": [_flip(flip, show_text=show_text) for flip in report.flips],
        "finished": report.finished,
        "resume": format_offsets(report.resume),
    }


def _flip(flip: history.Flip, *, show_text: bool) -> dict[str, Any]:
    def decision(of: history.Decision) -> dict[str, Any]:
        shown = {"verdict": of.verdict.value, "score": of.score, "by": of.by}
        return shown | {"text": of.text} if show_text else shown

    return {
        "topic": flip.topic,
        "partition": flip.partition,
        "offset": flip.offset,
        "message_id": flip.after.message_id,
        "before": decision(flip.before),
        "after": decision(flip.after),
    }
