"""Settled decisions -> labelled statements: what of them may be trained on, what is kept to measure by, what neither.

Input is the export of `guardline feedback export` (`monitor.feedback.export` says what a row holds). An accepted flag
is an unsafe statement, a rejected one a safe statement on the recommendation that it was flagged for, which is the
hardest negative there is.

Decisions that nearly repeat each other are one family, whatever their labels. A family that nearly repeats a statement
of a frozen evaluation set is left out, or the set would no longer be one. Of the families that no retraining has seen
yet the latest fifth is kept for evaluation, for ever: trained on what was, measured on what came after. A family stays
on its side in all later retrainings, and a new decision joins the side of its family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from monitor.records import Decision, ModelReference
from monitor.text import normalise
from trainer.artifacts import fingerprint, read_json_lines
from trainer.errors import CorpusError
from trainer.statements.claims import read_claim
from trainer.statements.duplicates import SketchIndex, sketch
from trainer.statements.leakage import LeakageSettings, decontaminate
from trainer.types import Difficulty, Example, Label

#: Style of reviewers' statements.
STYLE = "review"
#: Of the new families, one in so many is kept for evaluation, the latest ones.
KEPT_OF = 5


class Part(StrEnum):
    """What a decision serves."""

    TRAINING = "training"
    RECENT = "recent"  # kept to measure by
    LEFT_OUT = "left_out"


class ExportedRow(BaseModel):
    """A row of the export, as far as it is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    text: str | None
    label: Label
    recommendation: str
    category: str
    decision: Decision
    decided_at: datetime
    reviewers: int = 0
    flags: tuple[str, ...] = ()
    message_id: str | None = None
    statement_sha256: str = ""
    model: ModelReference | None = None
    origin: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """One settled decision as a labelled statement, and which part of the work it serves, and why."""

    example: Example
    decision: Decision
    decided_at: datetime
    part: Part
    reason: str
    row: ExportedRow

    @property
    def id(self) -> str:
        """The id of the row."""
        return self.example.id

    def recorded(self) -> dict[str, Any]:
        """Return it with its provenance, for the run folder."""
        return {
            "part": self.part,
            "reason": self.reason,
            "family": self.example.family,
            **self.row.model_dump(mode="json"),
        }


def read(path: Path) -> list[ExportedRow]:
    """Read an export, in order of time; of two rows with one id the later counts.

    Raises:
        CorpusError: a line is not such a row; the message names it.
    """
    rows: dict[str, ExportedRow] = {}
    for number, content in enumerate(read_json_lines(path), 1):
        try:
            row = ExportedRow.model_validate(content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise CorpusError(
                f"{path}:{number}: {where}: {problem['msg']}: expected a row of `guardline feedback export`"
            ) from error
        if row.id not in rows or rows[row.id].decided_at <= row.decided_at:
            rows[row.id] = row
    return sorted(rows.values(), key=lambda row: (row.decided_at, row.id))


def _example(row: ExportedRow) -> Example:
    unsafe = row.label is Label.UNSAFE
    return Example(
        id=row.id,
        text=normalise(row.text or ""),
        label=row.label,
        recommendation=row.recommendation,
        category=row.category,
        # What reviewers had to decide on was not easy to tell; nobody measured how hard it is.
        difficulty=Difficulty.HARD if unsafe else None,
        family=row.id,
        style=STYLE,
    )


def families(
    examples: Sequence[Example], names: Sequence[str] = (), jaccard: float = LeakageSettings().jaccard
) -> dict[str, str]:
    """Return the family of each example by id: those that nearly repeat each other, named by the first of them.

    `names` are those of the treatment, read as one; `jaccard` is of three-word shingles, as for leakage.
    """
    parent = {e.id: e.id for e in examples}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    index = SketchIndex(jaccard)
    for example in examples:
        own = sketch(read_claim(example.text, names))
        for _, other in index.alike(own):
            first, second = sorted((find(other), find(example.id)), key=lambda n: list(parent).index(n))
            parent[second] = first
        index.add(example.id, own)
    return {e.id: find(e.id) for e in examples}


def _refused(row: ExportedRow, recommendations: Iterable[str]) -> str | None:
    """Return why a row cannot be learnt from, or None."""
    if row.text is None or not any(map(str.isalnum, row.text)):
        return "no text: export with --with-text while the broker still has the message"
    if row.decision is Decision.UNSURE or row.label is Label.OUT_OF_SCOPE:
        return "reviewers are not sure"
    if row.recommendation not in set(recommendations):
        return f"the guideline has no recommendation {row.recommendation}"
    return None


def assign(
    rows: Sequence[ExportedRow],
    recommendations: Sequence[str],
    evaluation: Mapping[str, Sequence[str]],
    guideline: Sequence[str],
    before: Mapping[str, Part],
    names: Sequence[str] = (),
) -> list[Settled]:
    """Return every decision with the part that it serves, in order of time. Deterministic.

    Args:
        rows: all settled decisions, in order of time.
        recommendations: ids of the guideline.
        evaluation: statements of the frozen sets, by name of the set.
        guideline: sentences of the guideline, of which no runs of words count as copied.
        before: the part of decisions of earlier retrainings, by id.
        names: one-word names of the treatment, read as one.
    """
    refused = {row.id: reason for row in rows if (reason := _refused(row, recommendations))}
    usable = [_example(row) for row in rows if row.id not in refused]
    family = families(usable, names)
    usable = [replace(e, family=family[e.id]) for e in usable]
    touched = {family[c.id]: c.reason for c in decontaminate(usable, evaluation, guideline, names=names)}
    side: dict[str, Part] = {}
    for example in usable:
        earlier = before.get(example.id)
        # Of a family whose members lay on two sides before a new one joined them, evaluation has the say.
        if earlier in (Part.TRAINING, Part.RECENT) and side.get(example.family) is not Part.RECENT:
            side[example.family] = earlier
    new = list(dict.fromkeys(e.family for e in usable if e.family not in side and e.family not in touched))
    latest = {e.family: i for i, e in enumerate(usable)}
    new.sort(key=lambda name: latest[name])
    for i, name in enumerate(new):
        side[name] = Part.RECENT if i >= len(new) - len(new) // KEPT_OF else Part.TRAINING
    by_id = {e.id: e for e in usable}
    result = []
    for row in rows:
        example = by_id.get(row.id, _example(row))
        reason = refused.get(row.id) or touched.get(example.family, "")
        part = Part.LEFT_OUT if reason else side[example.family]
        result.append(Settled(example, row.decision, row.decided_at, part, reason, row))
    return result


def load(path: Path) -> list[Settled]:
    """Read what `Settled.recorded` gave."""
    result = []
    for content in read_json_lines(path):
        row = ExportedRow.model_validate(content)
        example = replace(_example(row), family=content["family"])
        result.append(Settled(example, row.decision, row.decided_at, Part(content["part"]), content["reason"], row))
    return result


def digest(settled: Iterable[Settled]) -> str:
    """Return a digest of what was decided on what, and of what each decision served."""
    return fingerprint([[s.id, s.example.text, s.example.label, s.example.recommendation, s.part] for s in settled])


def counted(settled: Sequence[Settled]) -> dict[str, int]:
    """Return how many there are of each part, and of the training part by label."""
    parts = Counter(s.part for s in settled)
    labels = Counter(s.example.label for s in settled if s.part is Part.TRAINING)
    return {
        **{part.value: parts[part] for part in Part},
        "hard negatives": labels[Label.SAFE],
        "positives": labels[Label.UNSAFE],
    }


def of(settled: Iterable[Settled], part: Part) -> list[Example]:
    """Return the statements of a part."""
    return [s.example for s in settled if s.part is part]


def left_out_by_reason(settled: Iterable[Settled]) -> dict[str, int]:
    """Return why decisions were left out, and how many for each kind of reason."""
    kinds = (s.reason.partition(" (")[0].partition(":")[0] for s in settled if s.part is Part.LEFT_OUT)
    return dict(Counter(kinds).most_common())


def overruled(corpus: Sequence[Example], settled: Sequence[Example]) -> set[str]:
    """Return the ids of corpus statements that say, word for word, what reviewers gave the other label."""
    decided = {e.text.casefold(): e.label for e in settled}
    return {e.id for e in corpus if (own := decided.get(e.text.casefold())) is not None and own is not e.label}
