"""Stage `evaluate`: the served model against the frozen encoder, side by side, with intervals and plots.

What is measured is the exported package through the monitor's own path (tokenizers, ONNX Runtime, alignment, policy),
so the figures are those of serving. Baselines get the same training data and the same kind of heads on embeddings of
the encoder before fine-tuning. Suites: statements in voices that training heard (`test_id`) and in held-out ones
(`test_ood`), by difficulty; out-of-scope statements; whole answers with marked unsafe spans. Intervals are 95%
percentile bootstraps over families, because a parent and its variants are not independent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

from monitor.alignment import Alignment
from monitor.factory import build_scorer, build_screening
from monitor.memory import MemoryStore
from monitor.package import MANIFEST, EvaluationSummary, ModelPackage
from monitor.settings import Settings
from monitor.types import Message, StatementScore, Verdict
from trainer.artifacts import RunFolder, write_json, write_text
from trainer.classifier import calibrate, embed_splits, fit_joint, in_scope, is_unsafe
from trainer.corpus import load_answers, load_split, span_agreement
from trainer.encoder import Embedder, Floats, load_pretrained
from trainer.errors import StageMissing
from trainer.settings import ClassifierSettings, EncoderSettings, EvaluationSettings
from trainer.types import Difficulty, Example, Metric, Split

CONTRASTIVE = "contrastive"
FROZEN = "frozen"
FROZEN_BINARY = "frozen, one hyperplane"
TESTS = (Split.TEST_ID, Split.TEST_OOD)
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MessageOutcome:
    """How one labelled answer was judged: `spans_hit` of its `spans` overlap an unsafe statement."""

    label: str
    verdict: Verdict
    spans: int
    spans_hit: int
    flags: int
    flags_on_spans: int


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: all rows, the summary, and the scores of the held-out voices by model."""

    rows: list[Metric]
    summary: list[EvaluationSummary]
    unsafe: Bools
    p_unsafe: dict[str, Doubles]


def _safely(metric: Callable[[Bools, Doubles], float], unsafe: Bools, p: Doubles) -> float:
    """Return the metric, or NaN where a resample holds one class only."""
    return float(metric(unsafe, p)) if 0 < unsafe.sum() < len(unsafe) else float("nan")


#: name -> metric of (unsafe, calibrated p). Those that need a decision take it at one half.
METRICS: dict[str, Callable[[Bools, Doubles], float]] = {
    "F1": lambda unsafe, p: float(f1_score(unsafe, p >= 0.5)),
    "AUC": lambda unsafe, p: float(roc_auc_score(unsafe, p)),
    "AP": lambda unsafe, p: float(average_precision_score(unsafe, p)),
    "balanced accuracy": lambda unsafe, p: float(balanced_accuracy_score(unsafe, p >= 0.5)),
}


def _resamples(families: Sequence[str], settings: EvaluationSettings) -> Iterable[NDArray[np.int64]]:
    """Yield row indices of bootstrap samples, drawn by family."""
    rng = np.random.default_rng(settings.seed)
    names, inverse = np.unique(np.array(families), return_inverse=True)
    members = [np.flatnonzero(inverse == i) for i in range(len(names))]
    for _ in range(settings.bootstrap):
        yield np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])


def score_rows(
    examples: Sequence[Example], p: Doubles, *, model: str, split: Split, settings: EvaluationSettings
) -> list[Metric]:
    """Return all metrics of one model on one split, for all statements and by difficulty of the unsafe ones.

    A stratum holds its unsafe statements and all safe ones of the split.
    """
    rows: list[Metric] = []
    strata = {"all": None} | {d.value: d for d in Difficulty}
    for stratum, difficulty in strata.items():
        keep = [i for i, e in enumerate(examples) if difficulty is None or e.difficulty in (None, difficulty)]
        unsafe, scores = is_unsafe([examples[i] for i in keep]), p[keep]
        if not 0 < unsafe.sum() < len(unsafe):
            continue  # of one class only: nothing to tell apart
        samples = list(_resamples([examples[i].family for i in keep], settings))
        for name, metric in METRICS.items():
            values = [_safely(metric, unsafe[s], scores[s]) for s in samples]
            low, high = np.nanpercentile(values, [2.5, 97.5])
            rows.append(
                Metric("statements", model, split.value, stratum, name, round(_safely(metric, unsafe, scores), 4),
                       round(float(low), 4), round(float(high), 4), len(keep))
            )  # fmt: skip
    return rows


def _share(suite: str, split: str, stratum: str, metric: str, hits: int, n: int) -> list[Metric]:
    """Return a share with its 95% Wilson interval; no row where there is nothing to take a share of."""
    if n == 0:
        return []
    z, p = 1.96, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    row = Metric(
        suite, CONTRASTIVE, split, stratum, metric, round(p, 4), round(float(low), 4), round(float(high), 4), n
    )
    return [row]


def operating_point(
    package: ModelPackage, examples: Sequence[Example], scores: Sequence[StatementScore], split: Split
) -> list[Metric]:
    """Return what the policy does at the package's thresholds, and how often the alignment names the right rule."""
    limits = package.manifest.thresholds
    unsafe = is_unsafe(examples)
    p = np.array([s.p_unsafe for s in scores], dtype=np.float64)
    judged = np.array([s.p_in_scope >= limits.in_scope for s in scores], dtype=bool)
    flagged = judged & (p >= limits.unsafe)
    review = judged & (p >= limits.review) & (p < limits.unsafe)
    right = sum(s.recommendation == e.recommendation for s, e in zip(scores, examples, strict=True))
    name = split.value
    return [
        *_share("policy", name, "unsafe", "flagged", int((flagged & unsafe).sum()), int(unsafe.sum())),
        *_share(
            "policy",
            name,
            "unsafe",
            "flagged or in review",
            int(((flagged | review) & unsafe).sum()),
            int(unsafe.sum()),
        ),
        *_share("policy", name, "safe", "flagged", int((flagged & ~unsafe).sum()), int((~unsafe).sum())),
        *_share("policy", name, "safe", "in review", int((review & ~unsafe).sum()), int((~unsafe).sum())),
        *_share("policy", name, "all", "out of scope", int((~judged).sum()), len(unsafe)),
        *_share("alignment", name, "all", "right recommendation", right, len(unsafe)),
    ]


def _settings() -> Settings:
    """Return settings that measure the package itself, whatever thresholds this machine's environment sets."""
    return Settings(scorer="onnx", threshold_unsafe=None, threshold_review=None)


async def score_package(package: ModelPackage, texts: Sequence[str]) -> list[StatementScore]:
    """Return the scores that the monitor would compute for whole statements."""
    scorer = build_scorer(_settings(), package)
    try:
        return Alignment(package.manifest).read(await scorer.score(texts))
    finally:
        await scorer.close()


async def judge_messages(package: ModelPackage, rows: Sequence[dict[str, Any]]) -> list[MessageOutcome]:
    """Screen whole answers and hold the flags against the marked spans."""
    screening = build_screening(_settings(), package, MemoryStore())
    try:
        verdicts = await screening.screen([Message(id=row["id"], text=row["text"]) for row in rows])
    finally:
        await screening.close()
    outcomes = []
    for row, verdict in zip(rows, verdicts, strict=True):
        flags = [(f.statement.start, f.statement.end) for f in verdict.of(Verdict.UNSAFE)]
        spans = [(s["start"], s["end"]) for s in row["spans"]]
        hit, on_spans = span_agreement(flags, spans)
        outcomes.append(MessageOutcome(row["label"], verdict.verdict, len(spans), hit, len(flags), on_spans))
    return outcomes


def message_rows(outcomes: Sequence[MessageOutcome]) -> list[Metric]:
    """Return the figures of the message suite."""

    def by_label(label: str) -> list[MessageOutcome]:
        return [o for o in outcomes if o.label == label]

    flagged = {
        label: sum(o.verdict is Verdict.UNSAFE for o in by_label(label)) for label in ("unsafe", "safe", "out_of_scope")
    }
    return [
        *(
            row
            for label, n in flagged.items()
            for row in _share("messages", "all", label, "flagged", n, len(by_label(label)))
        ),
        *_share(
            "messages", "all", "spans", "found", sum(o.spans_hit for o in outcomes), sum(o.spans for o in outcomes)
        ),
        *_share(
            "messages",
            "all",
            "flags",
            "on a span",
            sum(o.flags_on_spans for o in outcomes),
            sum(o.flags for o in outcomes),
        ),
    ]


def _baselines(
    embeddings: dict[Split, Floats],
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    settings: ClassifierSettings,
) -> dict[str, dict[Split, Doubles]]:
    """Return calibrated probabilities of the two baselines on the test splits (in scope only), by model and split."""
    data = {}
    for part, own in embeddings.items():
        keep = in_scope(examples[part])
        data[part] = (own[keep], [examples[part][i] for i in keep])
    joint = fit_joint(data[Split.TRAIN], data[Split.VALIDATION], recommendations, settings.joint_c)
    plain = LogisticRegression(C=settings.joint_c, max_iter=500).fit(
        data[Split.TRAIN][0], is_unsafe(data[Split.TRAIN][1])
    )
    slope, intercept = calibrate(
        plain.decision_function(data[Split.VALIDATION][0]), is_unsafe(data[Split.VALIDATION][1])
    )

    def plain_p(part: Split) -> Doubles:
        if not len(data[part][0]):  # scikit-learn refuses nothing
            return np.zeros(0)
        return np.asarray(1 / (1 + np.exp(-(slope * plain.decision_function(data[part][0]) + intercept))))

    return {
        FROZEN_BINARY: {part: plain_p(part) for part in TESTS},
        FROZEN: {part: joint.p_unsafe(data[part][0]) for part in TESTS},
    }


def _summaries(rows: Sequence[Metric]) -> list[EvaluationSummary]:
    found = {
        (r.split, r.metric): r for r in rows if (r.suite, r.model, r.stratum) == ("statements", CONTRASTIVE, "all")
    }

    def value(split: Split, metric: str) -> Metric:
        return found[split.value, metric]

    return [
        EvaluationSummary(
            suite=f"statements/{split.value}",
            f1=value(split, "F1").value,
            auc=value(split, "AUC").value,
            average_precision=value(split, "AP").value,
            balanced_accuracy=value(split, "balanced accuracy").value,
            n=value(split, "AUC").n,
        )
        for split in TESTS
        if (split.value, "AUC") in found
    ]


def _scoped(examples: Sequence[Example]) -> list[Example]:
    return [examples[i] for i in in_scope(examples)]


def run(
    corpus: Path,
    recommendations: Sequence[str],
    folder: RunFolder,
    encoder: EncoderSettings,
    classifier: ClassifierSettings,
    settings: EvaluationSettings,
    progress: Progress,
) -> Measured:
    """Measure the package of a run, write `metrics.json` and put the summary into the manifest."""
    package = ModelPackage.load(folder.package)
    examples = load_split(folder)
    frozen = Embedder(*load_pretrained(encoder.base), max_length=encoder.max_length, sub_batch=2 * encoder.sub_batch)
    embeddings = embed_splits(frozen, examples, list(Split), progress, "evaluate: frozen")
    p = _baselines(embeddings, examples, recommendations, classifier)
    task = progress.add_task("evaluate: served model", total=5)
    rows: list[Metric] = []
    p[CONTRASTIVE] = {}
    for part in TESTS:
        scoped = _scoped(examples[part])
        scores = asyncio.run(score_package(package, [e.text for e in scoped]))
        p[CONTRASTIVE][part] = np.array([s.p_unsafe for s in scores], dtype=np.float64)
        rows += operating_point(package, scoped, scores, part)
        progress.advance(task)
    for model, by_split in p.items():
        for part, values in by_split.items():
            rows += score_rows(_scoped(examples[part]), values, model=model, split=part, settings=settings)
    progress.advance(task)
    outside = [e.text for e in examples[Split.TEST_ID] if e.recommendation is None]
    limits = package.manifest.thresholds
    passed = [s for s in asyncio.run(score_package(package, outside)) if s.p_in_scope >= limits.in_scope]
    flagged = sum(s.p_unsafe >= limits.unsafe for s in passed)
    rows += _share("out of scope", Split.TEST_ID.value, "all", "flagged", flagged, len(outside))
    rows += _share("out of scope", Split.TEST_ID.value, "all", "judged", len(passed), len(outside))
    messages = load_answers(corpus)
    if messages:
        rows += message_rows(asyncio.run(judge_messages(package, messages)))
    progress.advance(task)
    folder.evaluation.mkdir(parents=True, exist_ok=True)
    write_json(folder.evaluation / "metrics.json", [asdict(r) for r in rows])
    manifest = package.manifest.model_copy(update={"evaluation": _summaries(rows)})
    write_text(folder.package / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    progress.advance(task)
    ood = Split.TEST_OOD
    return Measured(rows, manifest.evaluation, is_unsafe(_scoped(examples[ood])), {m: by[ood] for m, by in p.items()})


def load_metrics(folder: RunFolder) -> list[Metric]:
    """Read the figures of a run.

    Raises:
        StageMissing: it has not been evaluated.
    """
    file = folder.evaluation / "metrics.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: no evaluation there: run `guardline train --run {folder.root}`")
    return [Metric(**row) for row in json.loads(file.read_text())]
