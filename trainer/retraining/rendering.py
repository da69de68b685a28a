"""The gate's verdict for people: a table for the terminal, and one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from monitor.package import Manifest
from trainer.artifacts import write_text
from trainer.evaluation import plots
from trainer.evaluation.report import Grid, environment, svg
from trainer.retraining import decisions, lineage
from trainer.retraining.comparison import Compared
from trainer.retraining.decisions import Part
from trainer.retraining.gate import Finding, Outcome, Rule, Verdict

#: Small strata on the page and in the terminal, those that differ most.
_SHOWN = 20
_HEAD = ("set", "stratum", "metric", "champion", "challenger", "difference", "margin", "n", "outcome")


def _cells(f: Finding) -> list[str]:
    interval = f"{f.difference:+.3f} ({f.low:+.3f} to {f.high:+.3f})"
    return [
        f.suite, f.stratum, f.metric, f"{f.champion:.3f}", f"{f.challenger:.3f}", interval, f"{f.margin:g}", str(f.n),
        f.outcome.value,
    ]  # fmt: skip


def _of(verdict: Verdict, rule: Rule) -> list[Finding]:
    return [f for f in verdict.findings if f.rule is rule]


def _fine(verdict: Verdict) -> list[Finding]:
    """Return the small strata that differ most, the losses first."""
    known = [f for f in _of(verdict, Rule.NOT_WORSE) if f.outcome is not Outcome.NOT_SHOWN]
    return sorted(known, key=lambda f: f.difference)[:_SHOWN]


def tables(verdict: Verdict) -> list[Table]:
    """Return the comparison for the terminal."""
    result = []
    for title, findings in (
        ("Champion against challenger on the frozen sets", _of(verdict, Rule.SHOWN)),
        ("Decisions", _of(verdict, Rule.DECISIONS)),
        ("Small strata that lost most", [f for f in _fine(verdict) if f.difference < 0][:5]),
    ):
        table = Table(title=title, title_justify="left")
        for name in _HEAD:
            table.add_column(name, justify="left" if name in ("set", "stratum", "metric", "outcome") else "right")
        for finding in findings:
            table.add_row(*_cells(finding))
        if findings:
            result.append(table)
    return result


def summary(facts: lineage.Facts, compared: Compared, verdict: Verdict) -> list[str]:
    """Return what has to be said in words."""
    counts = decisions.counted(facts.settled)
    right, of = lineage.learnt(compared)
    said = []
    said.append(
        f"Decisions learnt: {right} of {of} ({counts['hard negatives']} hard negatives, {counts['positives']} "
        f"positives); {counts[Part.RECENT]} kept to measure by, {counts[Part.LEFT_OUT]} left out."
    )
    said += [f"{n} left out: {reason}." for reason, n in decisions.left_out_by_reason(facts.settled).items()]
    said += [f"Refused: {reason}." for reason in verdict.reasons]
    if (n := len(verdict.not_shown)) > 0:
        said.append(f"{n} comparisons show nothing for want of statements.")
    if not facts.exact:
        said.append(
            "The champion was trained on another split of the corpus: it may know some of the statements in voices "
            "heard, which flatters it there and is never to its disadvantage."
        )
    if not facts.same_guideline:
        said.append("The guideline changed: the champion does not know the recommendations that are new.")
    return said


def _grid(caption: str, findings: Sequence[Finding]) -> Grid:
    return Grid(caption, _HEAD, [_cells(f) for f in findings], labels=3)


def write(path: Path, manifest: Manifest, facts: lineage.Facts, compared: Compared, verdict: Verdict) -> None:
    """Write the page."""
    large = _of(verdict, Rule.SHOWN)
    figure = plots.plot_differences(
        [f"{f.suite}:\n{f.metric}" for f in large], [(f.difference, f.low, f.high, f.margin) for f in large]
    )
    reference = facts.champion.reference
    page = (
        environment()
        .get_template("gate.html.j2")
        .render(
            manifest=manifest,
            parent=f"{reference.name} {reference.version}",
            passed=verdict.passed,
            summary=summary(facts, compared, verdict),
            figure=svg(figure, "Differences between challenger and champion with intervals and margins"),
            large=_grid("Large sets.", large),
            fine=_grid("Small strata, the losses first.", _fine(verdict)),
            unknown=_grid("What had too few statements.", verdict.not_shown),
            decisions=_grid("Reviewers' decisions.", _of(verdict, Rule.DECISIONS)),
        )
    )
    write_text(path, page)
