"""The data card of a run: what its statements are, who wrote them, how they were checked, what is wrong with them.

In: what `trainer.statements.verification.run_checks` kept and found. Out: `DATACARD.md` in the run folder, beside the
statements (after Gebru et al., "Datasheets for Datasets", 2021). Every figure comes from the run; what is not known is
said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainer.artifacts import RunFolder, write_text
from trainer.statements.verification import ChecksOutcome, reason_counts
from trainer.types import Difficulty, Example, Label, Recommendation, Split

FILE = "DATACARD.md"
#: What wrote the statements of a style of which nothing else is known.
RECORDED = "recorded completions"
_TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Provenance:
    """What a data card says that the statements do not."""

    title: str
    condition: str
    treatment: str
    sources: tuple[str, ...] = ()  # of the guideline: title and version
    licence: str = "Apache-2.0"
    written_by: Mapping[str, str] = field(default_factory=dict)  # style -> provider and model
    reviewers: str | None = None  # who reviewed, how many statements, with what agreement


def _by_label(examples: Iterable[Example], key: Callable[[Example], str | None]) -> dict[str, Counter[Label]]:
    """Count labels by a key, in the order of the keys; statements without a key take no part."""
    result: dict[str, Counter[Label]] = {}
    for example in examples:
        if (name := key(example)) is not None:
            result.setdefault(name, Counter())[example.label] += 1
    return dict(sorted(result.items()))


def _counts(outcome: ChecksOutcome, written_by: Mapping[str, str]) -> dict[str, Any]:
    kept = outcome.kept
    labels = Counter(e.label for e in kept)
    difficulties = Counter(e.difficulty for e in kept if e.difficulty)
    split_of = {i: part.value for part, ids in outcome.splits.items() for i in ids}
    styles: dict[str, set[str]] = {}
    for example in kept:
        if name := split_of.get(example.id):
            styles.setdefault(name, set()).add(example.style)
    splits = _by_label(kept, lambda e: split_of.get(e.id))
    return {
        "total": len(kept),
        "rejected": len(outcome.rejected),
        "label": [(label.value, labels[label]) for label in Label],
        "difficulty": [(d.value, difficulties[d], difficulties[d] / difficulties.total()) for d in Difficulty]
        if difficulties
        else [],
        "style": [
            (style, written_by.get(style, RECORDED), n[Label.SAFE], n[Label.UNSAFE], n[Label.OUT_OF_SCOPE])
            for style, n in _by_label(kept, lambda e: e.style).items()
        ],
        "category": _safe_and_unsafe(kept, lambda e: e.category),
        "recommendation": _safe_and_unsafe(kept, lambda e: e.recommendation),
        "split": [
            (part.value, n[Label.SAFE], n[Label.UNSAFE], n[Label.OUT_OF_SCOPE], ", ".join(sorted(styles[part.value])))
            for part in Split
            if (n := splits.get(part.value))
        ],
    }


def _safe_and_unsafe(kept: Sequence[Example], key: Callable[[Example], str | None]) -> list[tuple[str, int, int]]:
    return [(name, n[Label.SAFE], n[Label.UNSAFE]) for name, n in _by_label(kept, key).items()]


def _gaps(outcome: ChecksOutcome, recommendations: Sequence[Recommendation]) -> list[str]:
    """Say what is thin or missing."""
    covered = Counter(e.recommendation for e in outcome.kept)
    gaps = []
    if bare := [r.id for r in recommendations if not covered[r.id]]:
        gaps.append(f"No statement on {len(bare)} of {len(recommendations)} recommendations: {', '.join(bare)}.")
    placed = {i for ids in outcome.splits.values() for i in ids}
    if unused := sum(e.id not in placed for e in outcome.kept):
        gaps.append(f"{unused} statements share a text with a held-out style and serve no split.")
    return gaps


def render_datacard(outcome: ChecksOutcome, recommendations: Sequence[Recommendation], about: Provenance) -> str:
    """Return the data card as Markdown."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("datacard.md.j2").render(
        about=about,
        counts=_counts(outcome, about.written_by),
        recommendations=len(recommendations),
        rejections=list(reason_counts(outcome.rejected)),
        report=outcome.report,
        gaps=_gaps(outcome, recommendations),
    )


def write_datacard(
    folder: RunFolder, outcome: ChecksOutcome, recommendations: Sequence[Recommendation], about: Provenance
) -> Path:
    """Write `DATACARD.md` into the run folder, whole or not at all; return where it lies."""
    path = folder.root / FILE
    write_text(path, render_datacard(outcome, recommendations, about))
    return path
