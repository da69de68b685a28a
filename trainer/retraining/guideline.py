"""A changed guideline: the champion's corpus with only those statements made again that the change affects.

Recommendations are told apart by `trainer.guideline.revisions`. Statements of recommendations that did not change stay
to the byte and on their side of the splits. Those of changed and withdrawn ones are dropped, from training and from the
frozen sets alike, since nobody knows whether their labels still hold. For changed and added ones a language model (or
its recorded answers) writes new statements, which are checked and split as in the stage `corpus`. What used to be true
becomes a few unsafe statements, in training only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from monitor.segmentation import segment
from trainer.artifacts import (
    RunFolder,
    digest,
    fingerprint,
    fresh_folder,
    read_json_lines,
    read_rows,
    write_json,
    write_rows,
)
from trainer.errors import CorpusError
from trainer.guideline import guidelines
from trainer.guideline.guidelines import Pack
from trainer.guideline.revisions import STALE, Revision, affected, diff, stale_statements
from trainer.llm.port import Completer
from trainer.retraining.corpus import Base
from trainer.settings import CorpusSettings
from trainer.statements import assembly, corpus, generation
from trainer.statements.corpus import load_answers, load_split
from trainer.statements.generation import Context, GenerationSettings
from trainer.statements.verification import run_checks
from trainer.types import Example, Recommendation, Split

#: What became of the corpus, as JSON.
REPORT = "revision.json"


@dataclass(frozen=True)
class Revised:
    """A corpus for the new version, and counts of what was done to get there."""

    base: Base
    counts: dict[str, int]


def _counted(revision: Revision, **more: int) -> dict[str, int]:
    return {
        "unchanged recommendations": len(revision.unchanged),
        "changed": len(revision.changed),
        "added": len(revision.added),
        "withdrawn": len(revision.withdrawn),
        **more,
    }


def _outdated(revision: Revision, examples: Sequence[Example], known: set[str]) -> list[Example]:
    """Return statements of advice that is true no longer, against the recommendation that took its place."""
    stale, _ = stale_statements(revision, examples)
    return [
        Example(s.id, s.text, s.label, s.recommendation, STALE, s.difficulty, s.id, STALE)
        for s in stale
        if s.recommendation in known
    ]


def _written(
    pack: Pack,
    wanted: Sequence[Recommendation],
    folder: RunFolder,
    completer: Completer,
    settings: GenerationSettings,
    checks: CorpusSettings,
    progress: Progress,
) -> tuple[list[Example], dict[Split, list[str]]]:
    """Return new statements on some recommendations, checked and split.

    Raises:
        CorpusError: nothing was written, or nothing of it can be used.
    """
    if not wanted:
        return [], {part: [] for part in Split}
    context = Context(pack.spec.condition, pack.spec.treatment, {r.id: [r.quote] for r in wanted})
    generation.run(wanted, context, folder, completer, settings, progress)
    found, _ = corpus.load(folder.generated, wanted)
    if not found:
        raise CorpusError(
            f"{folder.generated}: no statements on what changed were written: name a language model with --provider; "
            "rejected.jsonl there says what came of the requests"
        )
    answers = load_answers(pack.corpus) if pack.spec.corpus else []
    outcome = run_checks(
        found,
        wanted,
        lambda rows: corpus.split(rows, assembly.split_settings(pack, checks, rows)),
        None,
        [s.text for answer in answers for s in segment(str(answer["text"]))],
        None,
        assembly.names_of(pack),
        checks.checks,
    )
    if not outcome.kept:
        raise CorpusError(f"{folder.generated}: none of what was written can be used: see rejected.jsonl there")
    return outcome.kept, {part: outcome.splits.get(part, []) for part in Split}


def revise(
    base: Base,
    pack: Pack,
    root: Path,
    completer: Completer,
    settings: GenerationSettings,
    progress: Progress,
    checks: CorpusSettings,
) -> Revised:
    """Return the corpus of a new version of the guideline, written to `root`, or found there where nothing changed.

    Args:
        base: the champion's corpus.
        pack: the new version.
        root: folder that is written.
        completer: writes statements on what changed.
        settings: how much it writes.
        progress: where the bars go.
        checks: of what it writes, and how that is split.

    Raises:
        PackError: the guideline cannot be read or holds no recommendation.
        CorpusError: statements have to be written and cannot.
        ProviderError, CostLimitReached: from the language model; what it answered is kept in its cache.
    """
    key = fingerprint(pack.fingerprint(), settings, checks, digest(base.folder.statements), digest(base.folder.splits))
    if (root / REPORT).exists() and (known := json.loads((root / REPORT).read_text()))["key"] == key:
        return Revised(replace(base, folder=RunFolder(root), pack=pack), known["counts"])
    folder = RunFolder(fresh_folder(root))
    guidelines.run(pack, folder)
    new = read_rows(folder.recommendations, Recommendation)
    old = read_rows(base.folder.recommendations, Recommendation)
    revision = diff(old, new)
    parts = load_split(base.folder)
    examples = list({e.id: e for own in parts.values() for e in own}.values())
    gone = set(affected(revision, examples))
    # An unchanged rule may have another id now: the ordinal in it moves when one is inserted before it.
    by_text = {r.text: r.id for r in revision.unchanged}
    renamed = {r.id: by_text[r.text] for r in old if by_text.get(r.text, r.id) != r.id}
    wanted = [*(change.new for change in revision.changed), *revision.added]
    written, splits = _written(pack, wanted, folder, completer, settings, checks, progress)
    outdated = _outdated(revision, examples, {r.id for r in new})
    kept = [row for row in read_json_lines(base.folder.statements) if row["id"] not in gone]
    rows: list[Any] = [
        row if row["recommendation"] not in renamed else row | {"recommendation": renamed[row["recommendation"]]}
        for row in kept
    ]
    write_rows(folder.statements, [*rows, *written, *outdated])
    before = json.loads(base.folder.splits.read_text())
    write_json(
        folder.splits,
        {
            part: [
                *(i for i in before[part] if i not in gone),
                *splits[part],
                *((e.id for e in outdated) if part is Split.TRAIN else ()),
            ]
            for part in Split
        },
    )
    counts = _counted(revision, kept=len(rows), dropped=len(gone), written=len(written), outdated=len(outdated))
    write_json(folder.root / REPORT, {"key": key, "counts": counts})
    return Revised(replace(base, folder=folder, pack=pack), counts)
