"""The model card: what a package is for, what it was made from, how good it is and where it must not be used.

`MODEL_CARD.md` in the package, made from the manifest, the rows of the evaluation and counts of the corpus (after
Mitchell et al., "Model Cards for Model Reporting", FAT* 2019). Nothing in it is written by hand for one model: a figure
without a row, and a fact without a file, is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from monitor.package import Manifest, ModelPackage
from trainer.artifacts import RunFolder, write_text
from trainer.evaluation.measures import METRICS
from trainer.evaluation.models import COMBINED, CONTRASTIVE, FROZEN, TESTS, VOICES, served_of
from trainer.statements.corpus import load_split
from trainer.types import Label, Metric, Split

CARD = "MODEL_CARD.md"
_TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class DataFacts:
    """Counts of the corpus of a run."""

    by_split: dict[str, dict[str, int]]  # split -> label -> statements
    heard: tuple[str, ...]  # styles of the training split
    held_out: tuple[str, ...]  # styles of test_ood
    rejected: int

    @property
    def statements(self) -> int:
        """All statements of all splits."""
        return sum(sum(labels.values()) for labels in self.by_split.values())

    @classmethod
    def of(cls, folder: RunFolder) -> DataFacts:
        """Count the statements of a run."""
        parts = load_split(folder)

        def styles(part: Split) -> tuple[str, ...]:
            return tuple(sorted({e.style for e in parts[part] if e.recommendation is not None}))

        return cls(
            by_split={
                part.value: {label.value: Counter(e.label for e in own)[label] for label in Label}
                for part, own in parts.items()
            },
            heard=styles(Split.TRAIN),
            held_out=styles(Split.TEST_OOD),
            rejected=folder.rejected.read_bytes().count(b"\n") if folder.rejected.exists() else 0,
        )


def _cell(row: Metric | None) -> str:
    return f"{row.value:.3f} ({row.low:.2f} to {row.high:.2f})" if row else ""


def _compared(rows: Sequence[Metric]) -> list[str]:
    """Return the models of the table of figures, the served one last."""
    served = served_of(r.model for r in rows)
    return [FROZEN, CONTRASTIVE, served] if served == COMBINED else [FROZEN, served]


def _figures(rows: Sequence[Metric]) -> list[list[str]]:
    """Return lines of voices, metric, a cell for each model compared, n."""
    models = _compared(rows)
    found = {
        (r.model, r.split, r.metric): r
        for r in rows
        if r.stratum == "all" and (r.suite == "statements" or (r.suite, r.metric) == ("twins", "both right"))
    }
    lines = []
    for split in reversed(TESTS):
        for metric in (*METRICS, "both right"):
            cells = [found.get((model, split.value, metric)) for model in models]
            if own := cells[-1]:
                name = "twins, both right" if metric == "both right" else metric
                lines.append([VOICES[split], name, *map(_cell, cells), str(own.n)])
    return lines


def _shares(rows: Sequence[Metric]) -> list[list[str]]:
    """Return lines of what, share, n for what the package does at its thresholds."""
    return [
        [
            {"policy": "statements", "alignment": "statements"}.get(r.suite, r.suite),
            VOICES[Split(r.split)] if r.split in TESTS and r.suite != "out of scope" else "",
            r.stratum,
            r.metric,
            _cell(r),
            str(r.n),
        ]
        for r in rows
        if r.suite in ("policy", "alignment", "out of scope", "messages")
    ]


def _limits(rows: Sequence[Metric]) -> list[str]:
    """Return limits that the figures show."""
    served = served_of(r.model for r in rows)
    found = {(r.suite, r.split, r.stratum, r.metric): r for r in rows if r.model == served}
    limits = []
    if missed := found.get(("policy", Split.TEST_OOD.value, "unsafe", "flagged or in review")):
        limits.append(
            f"In voices never heard {1 - missed.value:.0%} of the unsafe statements are neither flagged nor sent to "
            "review."
        )
    if false := found.get(("messages", "all", "safe", "flagged")):
        limits.append(f"{false.value:.0%} of the whole answers without an error get at least one flag.")
    if cited := found.get(("alignment", Split.TEST_OOD.value, "all", "right recommendation")):
        limits.append(f"For {1 - cited.value:.0%} of the statements another recommendation is cited than is meant.")
    return limits


def model_card(manifest: Manifest, rows: Sequence[Metric], facts: DataFacts) -> str:
    """Return the model card as Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - Markdown, of the pack's own words
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    reviewed = [r for r in rows if r.suite == "reviews"]
    return environment.get_template("modelcard.md.j2").render(
        manifest=manifest,
        facts=facts,
        thresholds=manifest.combination.thresholds if manifest.combination else manifest.thresholds,
        figures=_figures(rows),
        shares=_shares(rows),
        limits=_limits(rows),
        agreement=[[r.model, r.metric, _cell(r), str(r.n)] for r in reviewed],
    )


def write_card(folder: RunFolder, rows: Sequence[Metric]) -> Path:
    """Write the card into the package of a run; return where it is."""
    manifest = ModelPackage.load(folder.package).manifest
    path = folder.package / CARD
    write_text(path, model_card(manifest, rows, DataFacts.of(folder)))
    return path
