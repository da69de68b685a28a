"""Stage `verifier`: statements, and a cross-encoder that can compare texts -> one that knows this guideline.

Each statement of the training split is read beside its recommendation (consistent or contradicts), beside plausible
wrong ones and, where it is about none, beside the likeliest (neutral). The wrong ones are what a plain classifier on
the frozen encoder takes for right, out of fold, so that the verifier meets the mistakes that alignment makes. Between
epochs the pairs that it gets most wrong are mined and join the next one. A share of pairs on other topics keeps it
general, for a guideline that comes later. Edits of the guideline's own sentences, with exact truth, complete an epoch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from trainer.artifacts import RunFolder, write_json
from trainer.errors import CorpusError
from trainer.model.encoder import Floats
from trainer.model.heads import family_groups, held_out_folds, softmax_regression
from trainer.settings import VerifierSettings
from trainer.types import Example, Label, Recommendation
from trainer.verifier import crossencoder, shipped
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.edits import edited_pairs
from trainer.verifier.pairs import RELATIONS, Pair, Relation
from trainer.verifier.pretraining import DATA, read_all
from trainer.verifier.training import Trainer, VerifierTraining, batched, contradiction_auc, train, twin_groups

HISTORY = "history.json"
GUIDELINE, WRONG, OUTSIDE, EDITS, GENERAL = "guideline", "wrong recommendation", "outside", "edits", "general"
#: Candidates that a wrong recommendation is drawn from.
_CANDIDATES = 5


def out_of_fold_candidates(
    embeddings: Floats, examples: Sequence[Example], recommendations: Sequence[str], folds: int, seed: int
) -> list[list[str]]:
    """Return the likeliest recommendations of each statement, best first, by a classifier that has not seen its family.

    Args:
        embeddings: of the frozen encoder, fp32 [n, dim].
        examples: the statements; those out of scope are predicted, never learnt from.
        recommendations: ids.
        folds: of cross-validation by family.
        seed: of the folds.
    """
    names = [str(e.recommendation) for e in examples]
    known = sorted(recommendations)
    scores = np.zeros((len(examples), len(known)))
    rows = np.array([i for i, e in enumerate(examples) if e.recommendation is not None], dtype=np.int64)
    outside = np.array([i for i, e in enumerate(examples) if e.recommendation is None], dtype=np.int64)
    scoped = [examples[int(i)] for i in rows]
    labels = np.array([e.label is Label.UNSAFE for e in scoped], dtype=bool)
    parts = held_out_folds(labels, family_groups(scoped), folds, seed)
    for rest, part in parts:
        classes, weights, bias = softmax_regression(embeddings[rows[rest]], [names[int(i)] for i in rows[rest]], 10.0)
        places = np.array([known.index(str(c)) for c in classes], dtype=np.int64)
        for where, share in ((rows[part], 1.0), (outside, 1 / len(parts))):
            scores[np.ix_(where, places)] += share * (embeddings[where].astype(np.float64) @ weights.T + bias)
    order = np.argsort(-scores, axis=1)[:, :_CANDIDATES]
    return [[known[j] for j in row] for row in order]


def guideline_pairs(
    examples: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    recommendations: Sequence[Recommendation],
    wrong: float,
    rng: random.Random,
) -> list[Pair]:
    """Return one epoch's pairs of statements: right recommendation each, a wrong one for a share of them.

    Which wrong recommendation is drawn anew each epoch, the likelier ones more often.
    """
    texts = {r.id: r.text for r in recommendations}
    pairs = []
    for example, likely in zip(examples, candidates, strict=True):
        if example.recommendation is None:
            pairs.append(Pair(texts[_draw(likely, rng)], example.text, Relation.NEUTRAL, example.family, OUTSIDE))
            continue
        relation = Relation.CONTRADICTS if example.label is Label.UNSAFE else Relation.CONSISTENT
        pairs.append(
            Pair(
                texts[example.recommendation],
                example.text,
                relation,
                example.family,
                GUIDELINE,
                twin=example.family,
                difficulty=example.difficulty,
            )
        )
        others = [r for r in likely if r != example.recommendation]
        if others and rng.random() < wrong:
            pairs.append(Pair(texts[_draw(others, rng)], example.text, Relation.NEUTRAL, example.family, WRONG))
    return pairs


def _draw(likely: Sequence[str], rng: random.Random) -> str:
    """Draw one, the first ones more often: weights 1, 1/2, 1/3, ..."""
    return rng.choices(likely, weights=[1 / (i + 1) for i in range(len(likely))])[0]


def guideline_edits(recommendations: Sequence[Recommendation], times: int, rng: random.Random) -> list[Pair]:
    """Return twins of edited sentences of the guideline itself."""
    pairs: list[Pair] = []
    for turn in range(times):
        own = edited_pairs([(r.id, r.text) for r in recommendations], rng)
        pairs += [replace(p, twin=f"{turn}:{p.twin}", source=EDITS) for p in own]
    return pairs


def mine(reader: PairReader, pairs: Sequence[Pair], share: float) -> list[Pair]:
    """Return the pairs that the verifier gets most wrong: the given share of them, of greatest loss."""
    if not pairs or share <= 0:
        return []
    p = reader.probabilities([(pair.premise, pair.hypothesis) for pair in pairs])
    right = p[np.arange(len(pairs)), [RELATIONS.index(pair.relation) for pair in pairs]]
    worst = np.argsort(right)[: round(share * len(pairs))]
    return [replace(pairs[i], twin=None) for i in sorted(worst)]


class _Epochs:
    """The pairs of each epoch; which are added by mining depends on the reader as it is then."""

    def __init__(
        self,
        reader: PairReader,
        examples: Sequence[Example],
        candidates: Sequence[Sequence[str]],
        recommendations: Sequence[Recommendation],
        general: Sequence[Pair],
        settings: VerifierSettings,
    ) -> None:
        self._reader = reader
        self._examples, self._candidates = examples, candidates
        self._recommendations = recommendations
        self._general = twin_groups(general)
        self._settings = settings

    def pairs(self, epoch: int) -> list[Pair]:
        """Return an epoch's pairs without the mined ones; the same for the same epoch, whenever asked."""
        own = self._settings
        rng = random.Random(f"{own.seed}-{epoch}")
        pairs = guideline_pairs(self._examples, self._candidates, self._recommendations, own.wrong, rng)
        pairs += guideline_edits(self._recommendations, own.edits_per_recommendation, rng)
        wanted = round(own.general * len(pairs))
        for group in rng.sample(self._general, len(self._general)):
            if wanted <= 0:
                break
            pairs += group
            wanted -= len(group)
        return pairs

    def batches(self) -> Iterator[list[Pair]]:
        """Yield batches for ever."""
        own, epoch = self._settings, 0
        while True:
            rng = random.Random(f"{own.seed}-order-{epoch}")
            pairs = self.pairs(epoch)
            if epoch and own.mined:
                # Of the epoch before, other draws of wrong recommendations: what it should have learnt and has not.
                pool = self.pairs(epoch - 1)
                pairs += mine(self._reader, rng.sample(pool, min(own.mining_pool, len(pool))), own.mined)
            groups = twin_groups(pairs)
            rng.shuffle(groups)
            yield from batched(groups, own.batch_size)
            epoch += 1


def start(settings: VerifierSettings) -> PairReader:
    """Load what training starts from: the start that ships, or the cross-encoder or encoder that the settings name."""
    folder = shipped.FOLDER if settings.base is None else Path(settings.base)
    if settings.base is None or (folder / shipped.WEIGHTS).exists():
        encoder, tokenizer = shipped.load(folder)
    else:
        encoder, tokenizer = crossencoder.load(settings.base)
    return PairReader(encoder, tokenizer, max_length=settings.max_length)


def fine_tune(
    reader: PairReader,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    recommendations: Sequence[Recommendation],
    general: Sequence[Pair],
    settings: VerifierSettings,
    report: Callable[[float, str], None],
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train a verifier on a guideline's statements, in place; return what to say of it.

    Raises:
        CorpusError: no statement is about a recommendation.
    """
    if not any(e.recommendation for e in examples):
        raise CorpusError("no statement on the guideline to train a verifier on: see splits.json of the run")
    if not settings.epochs:
        return {"epochs": 0}
    epochs = _Epochs(reader, examples, candidates, recommendations, general, settings)
    sizes = [len(epochs.pairs(i)) * (1 + settings.mined * bool(i)) for i in range(settings.epochs)]
    own = VerifierTraining(
        steps=max(round(sum(sizes) / settings.batch_size), 1),
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        head_learning_rate=settings.head_learning_rate,
        ranking_weight=settings.ranking_weight,
        average=settings.average,
        freeze_words=True,
        seed=settings.seed,
        source_weights={WRONG: settings.wrong_weight},
    )
    trainer = Trainer(reader, own)
    key = trainer.key(settings, [[e.id, e.text, e.label, e.recommendation] for e in examples], len(general))
    resumed = checkpoint is not None and trainer.resume(checkpoint, key)
    summary = train(trainer, epochs.batches(), report, checkpoint, key, every=100)
    return {"epochs": settings.epochs, **summary, "resumed": resumed}


def validation_pairs(examples: Sequence[Example], recommendations: Sequence[Recommendation]) -> list[Pair]:
    """Return statements beside their right recommendations."""
    return guideline_pairs(
        [e for e in examples if e.recommendation], [[]] * sum(bool(e.recommendation) for e in examples),
        recommendations, 0.0, random.Random(0),
    )  # fmt: skip


def run(
    examples: Sequence[Example],
    validation: Sequence[Example],
    recommendations: Sequence[Recommendation],
    embed: Callable[[Sequence[str]], Floats],
    folder: RunFolder,
    settings: VerifierSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it. `embed` is the frozen encoder's."""
    task = progress.add_task("verifier: candidates", total=1.0)
    reader = start(settings)
    ids = [r.id for r in recommendations]
    candidates = (
        out_of_fold_candidates(embed([e.text for e in examples]), examples, ids, settings.folds, settings.seed)
        if settings.epochs
        else [[]] * len(examples)
    )

    def report(done: float, line: str) -> None:
        progress.update(task, completed=done, description=f"verifier: {line}")

    general = read_all(DATA, None) if settings.general else []
    before = contradiction_auc(reader, validation_pairs(validation, recommendations))
    summary = fine_tune(
        reader, examples, candidates, recommendations, general, settings, report, folder.verifier_checkpoint
    )
    after = contradiction_auc(reader, validation_pairs(validation, recommendations))
    crossencoder.save(reader, folder.verifier)
    summary = {"validation AUC, right recommendation, before": before, "after": after, **summary}
    write_json(folder.verifier / HISTORY, {**summary, "settings": asdict(settings)})
    folder.verifier_checkpoint.unlink(missing_ok=True)
    progress.update(task, completed=1.0)
    return summary
