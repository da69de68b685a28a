"""`make bench-verifier`: the same encoder, verifiers from several starts, side by side on voices never heard.

    python -m tests.benchmarks.verifier_starts --run runs/covid19-remdesivir --base ships --base PATH

Each start is fine-tuned on the same statements of the run (a share of the families, one epoch by default) and combined
with the run's encoder as export does, on the validation split; figures are of statements in the held-out styles and of
whole answers. Verifiers run in torch here, not as exported graphs. Besides F1, AUC, AUC of the hard ones and evidence
top-1 it prints the AUC with the right recommendation in hand, before and after fine-tuning, and the speed of training.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from sklearn.metrics import f1_score, roc_auc_score

from monitor.assessment import Assessment
from monitor.factory import build_scorer
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.types import Message, Verdict
from tests.benchmarks.results import report
from trainer.artifacts import RunFolder, read_rows
from trainer.evaluation.messages import MessageOutcome, measure_messages
from trainer.evaluation.quality import reported_answers
from trainer.model.encoder import Embedder, load_pretrained
from trainer.pipeline import load_settings
from trainer.settings import EvaluationSettings, VerifierSettings
from trainer.statements.corpus import load_answers, load_split
from trainer.types import Difficulty, Example, Label, Recommendation, Split
from trainer.verifier import combining, stage
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pairs import RELATIONS, Relation
from trainer.verifier.pretraining import DATA, read_all
from trainer.verifier.training import contradiction_auc

_OUTPUTS = [RELATIONS.index(Relation.CONTRADICTS), RELATIONS.index(Relation.NEUTRAL)]


class TorchVerifier:
    """A reader as the monitor's `Verifier`; remembers what it has read."""

    def __init__(self, reader: PairReader) -> None:
        self._reader = reader
        self._known: dict[tuple[str, str], NDArray[np.float32]] = {}

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return P(contradicts) and P(neutral), fp32 [n, 2]."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        self._known |= dict(zip(new, self._reader.probabilities(new)[:, _OUTPUTS], strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float32).reshape(-1, 2)

    async def close(self) -> None:
        """Hold nothing."""


def _chosen(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Return whole families, about `most` statements in scope and a tenth as many out of scope."""
    rng = random.Random(seed)
    inside = [e for e in examples if e.recommendation and e.style != "vignette"]
    families = sorted({e.family for e in inside})
    rng.shuffle(families)
    kept: list[Example] = []
    members: dict[str, list[Example]] = {}
    for e in inside:
        members.setdefault(e.family, []).append(e)
    for family in families:
        if len(kept) >= most:
            break
        kept += members[family]
    outside = [e for e in examples if e.recommendation is None]
    return kept + rng.sample(outside, min(most // 10, len(outside)))


async def _figures(
    package: ModelPackage, verifier: TorchVerifier, parts: dict[Split, list[Example]], folder: RunFolder
) -> dict[str, float]:
    pack, settings = load_settings(folder)
    own = settings.classifier
    scorer = build_scorer(Settings(scorer="onnx"), package)
    most, mass = own.candidates, own.candidate_mass

    async def read(examples: Sequence[Example]) -> combining.Read:
        texts = [e.text for e in examples]
        return await combining.read_served(package, scorer, verifier, texts, most=most, mass=mass, weighing=weighing)

    if package.manifest.combination is None:
        raise click.UsageError(f"{folder.root}: train it with a verifier first")
    weighing = package.manifest.combination.claims
    combined = combining.fit(await read(parts[Split.VALIDATION]), parts[Split.VALIDATION], weighing, own)
    manifest = package.manifest.model_copy(update={"combination": combined.spec})
    package = ModelPackage(package.path, manifest)
    assessment = Assessment(manifest, scorer, verifier)
    examples = [e for e in parts[Split.TEST_OOD] if e.recommendation]
    outside = [e.text for e in parts[Split.TEST_ID] if e.recommendation is None]
    scores = await assessment.assess([e.text for e in examples])
    p = np.array([s.p_unsafe for s in scores])
    unsafe = np.array([e.label is Label.UNSAFE for e in examples])
    hard = np.array([e.label is Label.SAFE or e.difficulty is Difficulty.HARD for e in examples])
    limits = combined.spec.thresholds
    quiet = await assessment.assess(outside)
    screening = Screening(package, assessment=assessment, store=MemoryStore())
    answers = load_answers(pack.corpus)
    answers = [answers[i] for i in reported_answers(pack.corpus, answers)]
    verdicts = await screening.screen([Message(row["id"], row["text"]) for row in answers])
    outcomes = [
        MessageOutcome(
            row["label"],
            v.verdict,
            tuple((s["start"], s["end"]) for s in row["spans"]),
            tuple((f.statement.start, f.statement.end) for f in v.of(Verdict.UNSAFE)),
        )
        for row, v in zip(answers, verdicts, strict=True)
    ]
    found = measure_messages(outcomes, EvaluationSettings())
    await scorer.close()
    return {
        "F1": float(f1_score(unsafe, p >= 0.5)),
        "AUC": float(roc_auc_score(unsafe, p)),
        "AUC, hard": float(roc_auc_score(unsafe[hard], p[hard])),
        "evidence top-1": float(
            np.mean([s.recommendation == e.recommendation for s, e in zip(scores, examples, strict=True)])
        ),
        "out of scope, flagged": float(
            np.mean([s.p_in_scope >= limits.in_scope and s.p_unsafe >= limits.unsafe for s in quiet])
        ),
        **{name: found[name][0].value for name in ("message F1", "span F1", "safe answers flagged") if name in found},
    }


@click.command()
@click.option("--run", "run_", type=click.Path(exists=True, path_type=Path), required=True, help="A trained run.")
@click.option("--base", "bases", multiple=True, default=("ships",), help="Start of a verifier; ships: the default.")
@click.option("--statements", type=int, default=6000, show_default=True, help="In scope, to fine-tune on.")
@click.option("--epochs", type=int, default=1, show_default=True)
@click.option("--general", type=float, default=0.0, show_default=True, help="Pairs on other topics for each pair.")
@click.option("--wrong", type=float, default=0.2, show_default=True, help="Share read beside a wrong recommendation.")
@click.option("--rate", type=float, default=1e-4, show_default=True, help="Learning rate of what is no default start.")
def main(
    run_: Path, bases: Sequence[str], statements: int, epochs: int, general: float, wrong: float, rate: float
) -> None:
    """Fine-tune and measure each start."""
    folder = RunFolder(run_)
    package = ModelPackage.load(folder.package)
    parts = load_split(folder)
    recommendations = read_rows(folder.recommendations, Recommendation)
    training = _chosen(parts[Split.TRAIN], statements, 1)
    frozen = Embedder(*load_pretrained(package.manifest.encoder.base), max_length=256, sub_batch=32)
    candidates = stage.out_of_fold_candidates(
        frozen.embed([e.text for e in training]), training, [r.id for r in recommendations], 5, 1
    )
    others = read_all(DATA, None) if general else []
    right = stage.validation_pairs(parts[Split.TEST_OOD], recommendations)
    rows = []
    for base in bases:
        own = VerifierSettings(
            base=None if base == "ships" else base, epochs=epochs, general=general, wrong=wrong, mined=0.0,
            edits_per_recommendation=2,
        )  # fmt: skip
        if base != "ships":
            own = replace(own, learning_rate=rate, head_learning_rate=rate)
        reader = stage.start(own)
        before = contradiction_auc(reader, right)
        started = time.monotonic()
        with Progress() as progress:
            task = progress.add_task(base, total=1.0)
            said = stage.fine_tune(
                reader, training, candidates, recommendations, others, own,
                lambda done, line: progress.update(task, completed=done, description=line),  # noqa: B023
            )  # fmt: skip
        minutes = (time.monotonic() - started) / 60
        after = contradiction_auc(reader, right)
        rows.append(
            {
                "start": Path(base).name,
                "AUC, right recommendation, before": before or float("nan"),
                "and after": after or float("nan"),
                **asyncio.run(_figures(package, TorchVerifier(reader), parts, folder)),
                "pairs/s in training": float(said.get("pairs_per_second", 0.0)),
                "minutes": minutes,
            }
        )
        report("verifier_starts", rows)


if __name__ == "__main__":
    main()
