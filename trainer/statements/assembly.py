"""Stage `corpus`: recorded and generated statements -> checked statements -> splits without leakage, and a data card.

Statements come from the pack's corpus folder and from what a language model wrote in this run. They pass the checks of
their form (`trainer.statements.corpus`), of what they say, of near-duplicates, of what evaluation has
(`trainer.statements.verification`) and, where a judge is named, its judgement. Numeric vignettes with computed truth
join the training split, and no other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from monitor.segmentation import segment
from trainer.artifacts import RunFolder, read_json_lines, write_json, write_rows
from trainer.errors import CorpusError
from trainer.guideline.guidelines import Pack
from trainer.llm.port import Completer, Status
from trainer.settings import CorpusSettings
from trainer.statements import corpus, judge, vignettes
from trainer.statements.corpus import SplitSettings
from trainer.statements.datacard import Provenance, write_datacard
from trainer.statements.duplicates import Embed
from trainer.statements.generation import GenerationSettings
from trainer.statements.judge import JudgeOutcome
from trainer.statements.verification import check, run_checks
from trainer.types import Difficulty, Example, Label, Recommendation, Split

#: What the checks found, as JSON.
REPORT = "checks.json"


def split_settings(pack: Pack, settings: CorpusSettings, examples: Sequence[Example]) -> SplitSettings:
    """Return how these statements are divided.

    Held out are the styles that the pack names, or the default ones, as far as there are statements in them. Where
    there are none, or nothing else (a corpus that was generated in a few styles), the last of several styles is held
    out, so that a voice that training never heard is always measured. A single style has to be heard.
    """
    present = sorted({e.style for e in examples if e.recommendation is not None})
    named = {*(pack.spec.held_out_styles or settings.split.held_out_styles)}
    held_out = [style for style in present if style in named]
    if not held_out or len(held_out) == len(present):
        held_out = present[-1:] if len(present) > 1 else []
    return replace(settings.split, held_out_styles=tuple(held_out))


def _sources(pack: Pack, folder: RunFolder) -> list[Path]:
    """Return the folders that hold statements."""
    found = [pack.corpus] if pack.spec.corpus else []
    if any(folder.generated.glob(corpus.STATEMENT_FILES)):
        found.append(folder.generated)
    return found


def _read(
    pack: Pack, folder: RunFolder, recommendations: Sequence[Recommendation]
) -> tuple[list[Example], list[corpus.Rejected]]:
    """Read the statements of all folders, and those that cannot be used.

    Raises:
        CorpusError: there are none, or a line is not JSON.
    """
    sources = _sources(pack, folder)
    if not sources:
        raise CorpusError(
            f"{pack.path}: no statements to learn from: name a `corpus` folder in the pack, or let a language model "
            "write them: `guardline train --provider NAME` (see --estimate)"
        )
    examples: list[Example] = []
    rejected: list[corpus.Rejected] = []
    for path in sources:
        found, refused = corpus.load(path, recommendations)
        known = {e.id for e in examples}
        # A variant goes with its parent: the other statement of that id is not what it contradicts.
        examples += [e for e in found if known.isdisjoint((e.id, e.family))]
        rejected += refused
        rejected += [
            corpus.Rejected(e.id, path.name, "an id, or a parent's, that another statement has", e.text)
            for e in found
            if not known.isdisjoint((e.id, e.family))
        ]
    return examples, rejected


def _writers(folder: RunFolder) -> dict[str, str]:
    """Return which model wrote the generated statements of each style."""
    return {
        file.stem.removeprefix("llm_style_"): str(row["model"])
        for file in folder.generated.glob(corpus.STATEMENT_FILES)
        for row in read_json_lines(file)
    }


def forecast_judge(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    folder: RunFolder,
    settings: GenerationSettings,
    completer: Completer,
) -> None:
    """Ask the judge about all statements that a run would have; nothing is sent where `completer` is an off-line one.

    Statements of the pack and those in `folder.generated`, which the stage before has written from what is recorded,
    are asked about themselves; for each one that is still to come a text of the greatest length stands in.
    """
    # Three bytes a character is more than text in Latin script with typographic signs has.
    filler = "x" * (3 * settings.max_characters)
    coming = []
    for row in read_json_lines(folder.generated / "rejected.jsonl"):
        if not row["reason"].startswith(f"{Status.FAILED}:"):
            continue
        safe = row["label"] == Label.SAFE
        number = (
            settings.safe_per_recommendation_and_style + sum(map(settings.unsafe, Difficulty))
            if safe
            else settings.unsafe(Difficulty(row["difficulty"]))
        )
        for i in range(number):
            name = f"{row['id']}-{i}"
            coming.append(
                Example(name, f"{name} {filler}", Label.SAFE, row["recommendation"], None, None, name, row["style"])
            )
    judge.judge(
        [*_read(pack, folder, recommendations)[0], *coming],
        recommendations,
        completer,
        [],
        condition=pack.spec.condition,
        treatment=pack.spec.treatment,
    )


def names_of(pack: Pack) -> list[str]:
    """Return the one-word names of the treatment, which the checks read as the same."""
    return [name.lower() for name in pack.spec.names if name.isalpha()]


def _judged(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    pack: Pack,
    writers: Sequence[str],
    settings: CorpusSettings,
    completer: Completer | None,
    progress: Progress,
) -> JudgeOutcome | None:
    if completer is None:
        return None
    # What the rules reject anyway is not paid for.
    passed = {c.id for c in check(examples, recommendations, settings.checks.rules, names_of(pack)) if c.ok}
    asked = [e for e in examples if e.id in passed]
    task = progress.add_task("corpus: judge", total=len(asked))
    return judge.judge(
        asked,
        recommendations,
        completer,
        writers,
        condition=pack.spec.condition,
        treatment=pack.spec.treatment,
        advance=lambda n: progress.advance(task, n),
    )


def numeric_vignettes(pack: Pack, recommendations: Sequence[Recommendation], n: int, seed: int) -> list[Example]:
    """Return about `n` vignettes by the pack's rules, declared or read from its numbers; none where it has none."""
    return vignettes.generate_at_most(vignettes.load_rules(pack, recommendations), n, seed) if n > 0 else []


def run(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    folder: RunFolder,
    settings: CorpusSettings,
    embed: Embed,
    progress: Progress,
    completer: Completer | None = None,
) -> dict[str, Any]:
    """Run the stage; return what to say of it. `completer` is the judge, if there is to be one.

    Raises:
        CorpusError: no statements, or a file of them is not usable.
        ProviderError, CostLimitReached: from the judge; what it answered is in its cache.
    """
    examples, rejected = _read(pack, folder, recommendations)
    writers = _writers(folder)
    judged = _judged(examples, recommendations, pack, list(writers.values()), settings, completer, progress)
    task = progress.add_task("corpus: checks", total=1)
    answers = corpus.load_answers(pack.corpus) if pack.spec.corpus else []
    outcome = run_checks(
        examples,
        recommendations,
        lambda rows: corpus.split(rows, split_settings(pack, settings, rows)),
        embed if settings.embedding_duplicates else None,
        [s.text for answer in answers for s in segment(str(answer["text"]))],
        judged,
        names_of(pack),
        settings.checks,
    )
    progress.advance(task)
    training = outcome.splits[Split.TRAIN]
    rng = random.Random(settings.split.seed)
    drawn = numeric_vignettes(pack, recommendations, round(settings.vignettes * len(training)), rng.randrange(2**32))
    splits = {**outcome.splits, Split.TRAIN: [*training, *(e.id for e in drawn)]}
    write_rows(folder.statements, [*outcome.kept, *drawn])
    write_rows(folder.rejected, [*rejected, *outcome.rejected])
    write_json(folder.root / REPORT, outcome.report)
    write_datacard(
        folder,
        # All that was written and all that was not, whoever decided.
        replace(outcome, kept=[*outcome.kept, *drawn], rejected=[*rejected, *outcome.rejected], splits=splits),
        recommendations,
        Provenance(
            title=pack.spec.title or pack.spec.id,
            condition=pack.spec.condition,
            treatment=pack.spec.treatment,
            sources=tuple(f"{s.title}, {s.version}" for s in pack.spec.sources),
            written_by=writers | {vignettes.STYLE: "rules of the pack, with computed truth"},
        ),
    )
    write_json(folder.splits, splits)
    unheard_ids = set(splits[Split.TEST_OOD])
    unheard = sorted({e.style for e in outcome.kept if e.id in unheard_ids})
    said: dict[str, Any] = {
        "statements": len(outcome.kept),
        "vignettes": len(drawn),
        "rejected": len(rejected) + len(outcome.rejected),
    }
    if judged is not None:
        said |= {"of them by the judge": len(judged.rejected), "left open by the judge": len(judged.unjudged)}
    return said | {
        "training": len(splits[Split.TRAIN]),
        "validation": len(splits[Split.VALIDATION]),
        "test in heard voices": len(splits[Split.TEST_ID]),
        "test in unheard voices": f"{len(unheard_ids)} ({', '.join(unheard) or 'no voice is held out'})",
    }
