"""Stage `evaluate`: the served model against the frozen encoder, side by side, with intervals.

What is measured is the exported package through the monitor's own path (tokenizers, ONNX Runtime, alignment, verifier,
policy), so the figures are those of serving. A package with a verifier is served in two ways: `contrastive`, its fast
path (the encoder alone, at the encoder's thresholds), and `combined`, the default. "The served model" is the latter;
of a package without a verifier it is `contrastive`. Baselines get the same training data, and a head chosen and
calibrated in the same way, on embeddings of the encoder before fine-tuning. Suites (`Metric.suite`):

    statements      every metric by stratum, in voices that training heard (`test_id`) and in held-out ones (`test_ood`)
    difference      the served model minus each other, paired
    twins           a safe statement and the unsafe one made from it: both right?
    policy          what the package's thresholds do; `alignment`: is the right recommendation cited?
    conformal       how often the encoder's guaranteed band errs, one statement a family (stratum: what was promised)
    learning curve  heads refitted on part of the training families (stratum: how many statements), same embeddings
    out of scope    statements about nothing that the guideline says
    messages        whole answers with marked unsafe spans
    reviews         reviewers' agreement; `reviewed`: metrics on what they confirmed, where a file of reviews is there

`trainer.evaluation.measures` says how metrics and intervals are computed. Shares of the suites policy, alignment, out
of scope and messages have Wilson intervals (Wilson 1927). Besides, `trainer.evaluation.quality` makes one table of the
steps from the frozen encoder to the served model.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from monitor.assessment import Assessment, Scorer, Verifier
from monitor.factory import build_scorer, build_verifier
from monitor.memory import MemoryStore
from monitor.package import MANIFEST, CombinationSpec, EvaluationSummary, ModelPackage
from monitor.policy import judge
from monitor.records import Thresholds
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.types import Message, ModelScores, StatementScore, Verdict
from trainer.artifacts import RunFolder, read_json_lines, write_json, write_rows, write_text
from trainer.errors import StageMissing
from trainer.evaluation import quality, reviews
from trainer.evaluation.measures import Bools, Doubles, Judged, difference_rows, score_rows, twin_rows
from trainer.evaluation.messages import MessageOutcome
from trainer.evaluation.models import COMBINED, CONTRASTIVE, FROZEN, FROZEN_BINARY, TESTS, served_of
from trainer.model.classifier import calibrate, embed_splits, fit, fit_joint, in_scope, is_unsafe, measure_coverage
from trainer.model.conformal import wilson
from trainer.model.encoder import Embedder, Floats, load_pretrained
from trainer.settings import ClassifierSettings, EncoderSettings, EvaluationSettings
from trainer.statements.corpus import load_answers, load_split
from trainer.types import Example, Metric, Split
from trainer.verifier.combining import Read, read_served

#: Shares of the training families that the learning curve is drawn over.
SIZES = (0.1, 0.2, 0.4, 0.7, 1.0)
#: Statements scored between two steps of the progress bar; a verifier takes seconds over so many.
_SLICE = 256
#: Statements whose scoring is timed, and those before that warm up.
_TIMED, _WARM_UP = 256, 16

#: Texts in, calibrated probabilities of unsafe out, fp64 [n].
Score = Callable[[Sequence[str]], Doubles]
#: A further suite of the evaluation: is handed what scores texts, by model (the baselines and the served one), and
#: returns rows.
Suite = Callable[[Mapping[str, Score]], list[Metric]]


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: all rows, the summary, every held-out statement, and embeddings of the OOD ones.

    `embeddings` is by model (frozen, contrastive), fp32 [n, dim], in the order of `judged` of the split `test_ood`.
    """

    rows: list[Metric]
    summary: list[EvaluationSummary]
    judged: list[Judged]
    embeddings: dict[str, Floats]

    @property
    def served(self) -> str:
        """The model that the monitor serves."""
        return served_of(r.model for r in self.rows)

    def of(self, split: Split) -> list[Judged]:
        """Return the statements of one split."""
        return [j for j in self.judged if j.split is split]


def share_row(
    suite: str, split: str, stratum: str, metric: str, hits: int, n: int, *, model: str = CONTRASTIVE
) -> list[Metric]:
    """Return a share with its 95% Wilson interval; no row where there is nothing to take a share of."""
    if n == 0:
        return []
    low, high = wilson(hits / n, n)
    return [Metric(suite, model, split, stratum, metric, round(hits / n, 4), round(low, 4), round(high, 4), n)]


def operating_point(
    limits: Thresholds,
    examples: Sequence[Example],
    scores: Sequence[StatementScore],
    split: Split,
    *,
    model: str = CONTRASTIVE,
) -> list[Metric]:
    """Return what the policy does at the package's thresholds, and how often the right recommendation is cited."""
    unsafe = is_unsafe(examples)
    p = np.array([s.p_unsafe for s in scores], dtype=np.float64)
    judged = np.array([s.p_in_scope >= limits.in_scope for s in scores], dtype=bool)
    flagged = judged & (p >= limits.unsafe)
    review = judged & (p >= limits.review) & (p < limits.unsafe)
    right = sum(s.recommendation == e.recommendation for s, e in zip(scores, examples, strict=True))

    def share(of: str, metric: str, hits: Bools, among: Bools) -> list[Metric]:
        return share_row("policy", split.value, of, metric, int((hits & among).sum()), int(among.sum()), model=model)

    return [
        *share("unsafe", "flagged", flagged, unsafe),
        *share("unsafe", "flagged or in review", flagged | review, unsafe),
        *share("safe", "flagged", flagged, ~unsafe),
        *share("safe", "in review", review, ~unsafe),
        *share("all", "out of scope", ~judged, np.ones_like(unsafe)),
        *share_row("alignment", split.value, "all", "right recommendation", right, len(unsafe), model=model),
    ]


def _settings() -> Settings:
    """Return settings that measure the package itself, whatever this machine's environment sets."""
    return Settings(scorer="onnx", verify=True, threshold_unsafe=None, threshold_review=None)


class _RememberingScorer:
    """A `Scorer` that asks another once for each text: suites and both paths meet many texts again."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[str, tuple[Floats, float]] = {}
        self.asked: list[str] = []

    async def score(self, texts: Sequence[str]) -> ModelScores:
        self.asked += texts
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new or not texts:
            found = await self._scorer.score(new)
            self._known.update(zip(new, zip(found.embeddings, found.p_unsafe.tolist(), strict=True), strict=True))
            if not texts:
                return found
        own = [self._known[text] for text in texts]
        return ModelScores(np.stack([e for e, _ in own]), np.array([p for _, p in own], dtype=np.float32))

    async def close(self) -> None:
        await self._scorer.close()


class _RememberingVerifier:
    """A `Verifier` that reads each pair once."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._known: dict[tuple[str, str], Floats] = {}

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            self._known.update(zip(new, await self._verifier.verify(new), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float32).reshape(len(pairs), 2)

    async def close(self) -> None:
        await self._verifier.close()


@dataclass(frozen=True)
class Speed:
    """Statements per second of one warm run in one process, and the threads that it had."""

    statements_per_second: float
    threads: int


class ServedModel:
    """The exported package as the monitor runs it: one session a graph, for statements and for whole answers.

    `paths` are the names of the ways in which it is served, the default last; `served` is the default's; `stream` are
    the texts that were scored for the whole answers judged last. Call it from one event loop, and `close` it.
    """

    def __init__(self, package: ModelPackage) -> None:
        settings = _settings()
        self._package = package
        self._raw: tuple[Scorer, Verifier | None] = (
            build_scorer(settings, package),
            build_verifier(settings, package),
        )
        scorer, verifier = self._raw
        self._scorer = _RememberingScorer(scorer)
        self._verifier = _RememberingVerifier(verifier) if verifier else None
        self._assessments = {CONTRASTIVE: Assessment(package.manifest, self._scorer, None)}
        if self._verifier:
            self._assessments[COMBINED] = Assessment(package.manifest, self._scorer, self._verifier)
        self.paths = list(self._assessments)
        self.served = self.paths[-1]
        self.stream: list[str] = []

    def thresholds(self, path: str) -> Thresholds:
        """Return the thresholds of a path."""
        return self._package.thresholds(verified=path == COMBINED)

    async def embed(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Floats:
        """Return the encoder's embeddings, fp32 [n, dim], in order."""
        parts = []
        for start in range(0, max(len(texts), 1), _SLICE):
            parts.append((await self._scorer.score(texts[start : start + _SLICE])).embeddings)
            advance(len(texts[start : start + _SLICE]))
        return np.concatenate(parts)

    async def score(
        self, texts: Sequence[str], path: str | None = None, advance: Callable[[int], None] = lambda _: None
    ) -> list[StatementScore]:
        """Return the monitor's scores of whole statements, in order, by a path; by default the served one."""
        assessment = self._assessments[path or self.served]
        scores: list[StatementScore] = []
        for start in range(0, len(texts), _SLICE):
            scores += await assessment.assess(texts[start : start + _SLICE])
            advance(len(texts[start : start + _SLICE]))
        return scores

    async def judge(self, rows: Sequence[Mapping[str, Any]], path: str | None = None) -> list[MessageOutcome]:
        """Screen whole answers (`id`, `text`, `label`, `spans`) and put the flags beside the marked spans."""
        path = path or self.served
        screening = Screening(
            self._package,
            assessment=self._assessments[path],
            store=MemoryStore(),
            thresholds=self.thresholds(path),
        )
        self._scorer.asked.clear()
        verdicts = await screening.screen([Message(id=row["id"], text=row["text"]) for row in rows])
        self.stream = list(dict.fromkeys(self._scorer.asked))
        return [
            MessageOutcome(
                row["label"],
                verdict.verdict,
                tuple((s["start"], s["end"]) for s in row["spans"]),
                tuple((f.statement.start, f.statement.end) for f in verdict.of(Verdict.UNSAFE)),
            )
            for row, verdict in zip(rows, verdicts, strict=True)
        ]

    async def ranked(self, texts: Sequence[str]) -> list[list[str]]:
        """Return all recommendations for each text by the encoder's alignment, the likeliest first."""
        alignment = self._assessments[CONTRASTIVE].alignment
        aligned = alignment.align(await self.embed(texts)).recommendations
        return [[alignment.ids[k] for k in row] for row in np.argsort(-aligned, axis=1, kind="stable")]

    async def share_read(self, texts: Sequence[str]) -> float | None:
        """Return the share of texts that the verifier reads; None without one, or without texts."""
        if self.served != COMBINED or not texts:
            return None
        _, spec = self._verified()
        aligned = self._assessments[COMBINED].alignment.align(await self.embed(texts))
        return float((aligned.in_scope >= spec.verify_from).mean())

    def _verified(self) -> tuple[Verifier, CombinationSpec]:
        spec = self._package.manifest.combination
        if self._verifier is None or spec is None:
            raise ValueError(f"{self._package.path}: this package has no verifier")
        return self._verifier, spec

    async def candidates(self, texts: Sequence[str]) -> Read:
        """Return what the verifier reads of each text beside its candidates.

        Raises:
            ValueError: the package has no verifier.
        """
        verifier, spec = self._verified()
        return await read_served(
            self._package, self._scorer, verifier, texts, most=spec.candidates, mass=spec.mass, weighing=spec.claims
        )

    async def contradiction(self, pairs: Sequence[tuple[str, str]]) -> Doubles:
        """Return P(contradicts | about it) of (recommendation id, text) pairs, fp64 [n].

        Raises:
            ValueError: the package has no verifier.
        """
        verifier, _ = self._verified()
        texts = {r.id: r.text for r in self._package.manifest.recommendations}
        found = (await verifier.verify([(texts[name], text) for name, text in pairs])).astype(np.float64)
        return np.asarray(np.clip(found[:, 0] / np.maximum(1 - found[:, 1], 1e-6), 0, 1))

    async def speed(self, texts: Sequence[str], path: str) -> Speed | None:
        """Time the scoring of distinct texts by a path, with nothing remembered; None where there are none."""
        texts = list(dict.fromkeys(texts))[:_TIMED]
        if not texts:
            return None
        scorer, verifier = self._raw
        assessment = Assessment(self._package.manifest, scorer, verifier if path == COMBINED else None)
        await assessment.assess(texts[:_WARM_UP])
        started = time.perf_counter()
        await assessment.assess(texts)
        return Speed(len(texts) / (time.perf_counter() - started), _settings().onnx_threads or os.cpu_count() or 1)

    async def close(self) -> None:
        """Release the sessions."""
        await self._assessments[self.served].close()


def conformal_rows(folder: RunFolder, embeddings: Floats, examples: Sequence[Example], split: Split) -> list[Metric]:
    """Return how often the conformal band of the run errs on a split, and what it promised; none where it has no band.

    The promise holds for families like those of validation; in voices never heard nothing is promised.
    """
    if not (folder.classifier / "conformal.json").exists():
        return []
    return [
        Metric("conformal", CONTRASTIVE, split.value, f"promised: at most {c.limit:.0%}", c.outcome,
               c.share, c.low, c.high, c.families)
        for c in measure_coverage(folder, embeddings, examples)
    ]  # fmt: skip


def message_rows(outcomes: Sequence[MessageOutcome], *, model: str = CONTRASTIVE) -> list[Metric]:
    """Return the figures of the message suite."""
    rows: list[Metric] = []

    def add(of: str, metric: str, hits: int, n: int) -> None:
        rows.extend(share_row("messages", "all", of, metric, hits, n, model=model))

    for label in ("unsafe", "safe", "out_of_scope"):
        own = [o for o in outcomes if o.label == label]
        add(label, "flagged", sum(o.verdict is Verdict.UNSAFE for o in own), len(own))
    add("spans", "found", sum(o.spans_hit for o in outcomes), sum(len(o.spans) for o in outcomes))
    add("flags", "on a span", sum(o.flags_on_spans for o in outcomes), sum(len(o.flags) for o in outcomes))
    return rows


def outside_rows(limits: Thresholds, scores: Sequence[StatementScore], *, model: str = CONTRASTIVE) -> list[Metric]:
    """Return how many out-of-scope statements are judged at all, and how many are flagged."""
    passed = [s for s in scores if s.p_in_scope >= limits.in_scope]
    flagged = sum(s.p_unsafe >= limits.unsafe for s in passed)
    split = Split.TEST_ID.value
    return [
        *share_row("out of scope", split, "all", "flagged", flagged, len(scores), model=model),
        *share_row("out of scope", split, "all", "judged", len(passed), len(scores), model=model),
    ]


def baselines(
    embeddings: dict[Split, Floats],
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    settings: ClassifierSettings,
) -> dict[str, Callable[[Floats], Doubles]]:
    """Return what gives the calibrated probability of an embedding, fp64 [n] of [n, dim], for both frozen baselines.

    The first gets what the served model gets: the best head by cross-validation, calibrated in the same way. The other
    is one logistic regression for all recommendations. `examples` are statements on the guideline, `embeddings` theirs
    by the encoder before fine-tuning.
    """
    train, validation = ((embeddings[part], examples[part]) for part in (Split.TRAIN, Split.VALIDATION))
    # Of the classifier only the score is used, which no policy of thresholds touches.
    best = fit(embeddings, examples, recommendations, replace(settings, policy="shares")).joint
    plain = LogisticRegression(C=settings.joint_c, max_iter=500).fit(train[0], is_unsafe(train[1]))
    slope, intercept = calibrate(plain.decision_function(validation[0]), is_unsafe(validation[1]))

    def plain_p(own: Floats) -> Doubles:
        if not len(own):  # scikit-learn refuses nothing
            return np.zeros(0)
        return np.asarray(expit(slope * plain.decision_function(own) + intercept))

    return {FROZEN_BINARY: plain_p, FROZEN: best.p_unsafe}


def learning_curve(
    embeddings: Mapping[str, Mapping[Split, Floats]],
    examples: Mapping[Split, Sequence[Example]],
    recommendations: Sequence[str],
    classifier: ClassifierSettings,
    settings: EvaluationSettings,
    sizes: Sequence[float] = SIZES,
) -> list[Metric]:
    """Return F1 and AUC on the test splits of joint heads fitted on growing parts of the training families.

    The encoder is *not* trained again: a contrastive encoder has seen all of the corpus, so its curve says what the
    heads need, not what the method needs. Parts are nested and drawn with the seed of `settings`; calibration uses the
    whole validation split.

    Args:
        embeddings: fp32 [n, dim] by model and split, of `examples`.
        examples: statements on the guideline, by split.
        recommendations: all ids, in the order of the heads.
        classifier: strength of the heads' regularisation.
        settings: seed and bootstrap samples.
        sizes: shares of the training families, in (0, 1].

    Returns:
        Rows of the suite `learning curve`; the stratum is the number of training statements, `n` that of test ones.
    """
    train = examples[Split.TRAIN]
    families = sorted({e.family for e in train})
    np.random.default_rng(settings.seed).shuffle(families)
    rows: dict[tuple[str, str, str, str], Metric] = {}
    for size in sorted(sizes):
        chosen = set(families[: max(round(size * len(families)), 1)])
        keep = [i for i, e in enumerate(train) if e.family in chosen]
        for model, own in embeddings.items():
            fitted = (own[Split.TRAIN][keep], [train[i] for i in keep])
            validation = (own[Split.VALIDATION], examples[Split.VALIDATION])
            joint = fit_joint(fitted, validation, recommendations, classifier.joint_c)
            for part in TESTS:
                p = joint.p_unsafe(own[part])
                found = score_rows(
                    examples[part], p, model=model, split=part, settings=settings, suite="learning curve", fine=False
                )
                for r in found:
                    if r.stratum == "all" and r.metric in ("F1", "AUC"):
                        row = Metric(r.suite, r.model, r.split, str(len(keep)), r.metric, r.value, r.low, r.high, r.n)
                        rows[row.model, row.split, row.stratum, row.metric] = row
    return list(rows.values())


def _summaries(rows: Sequence[Metric]) -> list[EvaluationSummary]:
    served = served_of(r.model for r in rows)
    found = {(r.split, r.metric): r for r in rows if (r.suite, r.model, r.stratum) == ("statements", served, "all")}
    return [
        EvaluationSummary(
            suite=f"statements/{split.value}",
            f1=found[split.value, "F1"].value,
            auc=found[split.value, "AUC"].value,
            average_precision=found[split.value, "AP"].value,
            balanced_accuracy=found[split.value, "balanced accuracy"].value,
            n=found[split.value, "AUC"].n,
        )
        for split in TESTS
        if (split.value, "AUC") in found
    ]


def statement_rows(judged: Sequence[Judged], models: Sequence[str], settings: EvaluationSettings) -> list[Metric]:
    """Return the suites statements, difference and twins of all models on both test splits."""
    rows: list[Metric] = []
    for split in TESTS:
        own = [j for j in judged if j.split is split]
        examples = [j.example for j in own]
        p = {model: np.array([j.p[model] for j in own], dtype=np.float64) for model in models}
        for model, values in p.items():
            rows += score_rows(examples, values, model=model, split=split, settings=settings)
            rows += twin_rows(examples, values, model=model, split=split, settings=settings)
        rows += difference_rows(examples, p, better=served_of(models), split=split, settings=settings)
    return rows


def _check_models(models: Mapping[str, Mapping[Split, Doubles]], examples: Mapping[Split, Sequence[Example]]) -> None:
    for model, by_split in models.items():
        if model in (COMBINED, CONTRASTIVE, FROZEN, FROZEN_BINARY):
            raise ValueError(f"{model!r} is measured anyway: give the further model another name")
        for part in TESTS:
            if (given := len(by_split[part])) != (expected := len(examples[part])):
                raise ValueError(f"{model!r}: {given} probabilities for {expected} statements of {part}")


def run(
    corpus: Path,
    recommendations: Sequence[str],
    folder: RunFolder,
    encoder: EncoderSettings,
    classifier: ClassifierSettings,
    settings: EvaluationSettings,
    progress: Progress,
    *,
    models: Mapping[str, Mapping[Split, Doubles]] | None = None,
    suites: Sequence[Suite] = (),
    sizes: Sequence[float] = SIZES,
) -> Measured:
    """Measure the package of a run; write `metrics.json`, `scores.jsonl`, `quality.json` and the manifest's summary.

    Args:
        corpus: folder of the whole answers.
        recommendations: all ids, in the order of the heads.
        folder: the run; its package, statements and splits are read. A file `reviews.csv` or `reviews.jsonl` in it is
            taken as reviewers' labels (`trainer.evaluation.reviews`).
        encoder: which encoder the frozen baselines use, and how it reads.
        classifier: how their heads are fitted.
        settings: bootstrap samples and seed.
        progress: where the bars go.
        models: further models to compare: calibrated probabilities of the in-scope statements of each test split, in
            the order of the split.
        suites: further suites to run.
        sizes: of the learning curve; none, no curve.

    Raises:
        ValueError: a further model has a name that is taken, or probabilities for other statements.
        CorpusError: the file of reviews is not usable.
    """
    package = ModelPackage.load(folder.package)
    everything = load_split(folder)
    examples = {part: [own[i] for i in in_scope(own)] for part, own in everything.items()}
    outside = [e.text for e in everything[Split.TEST_ID] if e.recommendation is None]
    models = models or {}
    _check_models(models, examples)

    frozen = Embedder(
        *load_pretrained(encoder.base, encoder.pooling), max_length=encoder.max_length, sub_batch=2 * encoder.sub_batch
    )
    before = embed_splits(frozen, examples, list(Split), progress, "evaluate: frozen")
    heads = baselines(before, examples, recommendations, classifier)
    # What only the learning curve reads is not embedded without one.
    texts = {part: [e.text for e in examples[part]] for part in (Split if sizes else TESTS)}
    asked = _Asked(
        texts=texts,
        about={part: [str(e.recommendation) for e in examples[part]] for part in TESTS},
        outside=outside,
        answers=load_answers(corpus),
        scorers={model: _scorer(frozen, head) for model, head in heads.items()},
        suites=suites,
    )
    task = progress.add_task("evaluate: served model", total=None)

    def total(n: int) -> None:
        progress.update(task, total=n)

    answered = _serve(package, asked, total, lambda n: progress.advance(task, n))
    served = list(answered.scores)[-1]
    limits = package.thresholds(verified=served == COMBINED)

    task = progress.add_task("evaluate: figures", total=3)
    p = {**models, **{m: {part: head(before[part]) for part in TESTS} for m, head in heads.items()}}
    p |= {model: {part: _p(own[part]) for part in TESTS} for model, own in answered.scores.items()}
    order = [FROZEN_BINARY, FROZEN, *models, *answered.scores]
    cited = {part: [s.recommendation for s in own] for part, own in answered.scores[served].items()}
    judged = [
        Judged(e, part, {model: float(p[model][part][i]) for model in order}, cited[part][i])
        for part in TESTS
        for i, e in enumerate(examples[part])
    ]
    rows = statement_rows(judged, order, settings) + answered.further
    progress.advance(task)
    for part in TESTS:
        rows += operating_point(limits, examples[part], answered.scores[served][part], part, model=served)
        rows += conformal_rows(folder, answered.embeddings[part], examples[part], part)
    rows += outside_rows(limits, answered.outside[served], model=served)
    rows += message_rows(answered.outcomes[served], model=served)
    embeddings = {FROZEN: before, CONTRASTIVE: answered.embeddings}
    if sizes:
        rows += learning_curve(embeddings, examples, recommendations, classifier, settings, sizes)
    progress.advance(task)
    if (file := reviews.file_of(folder)) is not None:
        given = reviews.load(file, [e for own in everything.values() for e in own])
        rows += reviews.rows(given, judged, settings)
    summaries = _write(folder, package, rows, judged)
    reported = quality.reported_answers(corpus, asked.answers)
    steps = _steps(p, package, answered, reported)
    quality.save(folder, quality.table(steps, {part: examples[part] for part in TESTS}, settings))
    progress.advance(task)
    return Measured(rows, summaries, judged, {model: own[Split.TEST_OOD] for model, own in embeddings.items()})


@dataclass(frozen=True)
class _Asked:
    """All that one session of the served model is asked: texts by split, the recommendations that those of the test
    splits are about, out-of-scope texts, whole answers, further suites with what scores texts by model.
    """

    texts: Mapping[Split, Sequence[str]]
    about: Mapping[Split, Sequence[str]]
    outside: Sequence[str]
    answers: Sequence[Mapping[str, Any]]
    scorers: Mapping[str, Score]
    suites: Sequence[Suite]


@dataclass(frozen=True)
class _Answered:
    """All that it gave: embeddings by split; by path scores of the test splits, of out-of-scope texts and outcomes of
    whole answers; rows of further suites; and what the table of quality needs besides.
    """

    embeddings: dict[Split, Floats]
    scores: dict[str, dict[Split, list[StatementScore]]]
    outside: dict[str, list[StatementScore]]
    outcomes: dict[str, list[MessageOutcome]]
    further: list[Metric]
    ranked: list[list[str]]  # of test_ood, by the encoder's alignment
    candidates: dict[Split, Read]  # empty without a verifier
    informed: dict[Split, Doubles]  # by the verifier with the right recommendation in hand; empty without one
    speeds: dict[str, Speed]
    read: float | None


def _serve(
    package: ModelPackage, asked: _Asked, total: Callable[[int], None], advance: Callable[[int], None]
) -> _Answered:
    """Ask the served model everything, in one session; every text is encoded once and every pair read once."""
    tests = {part: asked.texts[part] for part in TESTS}
    ood = tests[Split.TEST_OOD]
    with asyncio.Runner() as runner:  # one loop for one session
        served = ServedModel(package)
        scored_texts = sum(map(len, tests.values())) + len(asked.outside)
        total(sum(map(len, asked.texts.values())) + len(served.paths) * scored_texts)

        def scored(texts: Sequence[str], path: str) -> list[StatementScore]:
            return runner.run(served.score(texts, path, advance))

        def scorer(path: str) -> Score:
            return lambda texts: _p(runner.run(served.score(texts, path)))

        try:
            speeds = {path: own for path in served.paths if (own := runner.run(served.speed(ood, path)))}
            embeddings = {part: runner.run(served.embed(own, advance)) for part, own in asked.texts.items()}
            scores = {path: {part: scored(own, path) for part, own in tests.items()} for path in served.paths}
            outside = {path: scored(asked.outside, path) for path in served.paths}
            outcomes = {path: runner.run(served.judge(asked.answers, path)) for path in served.paths}
            read = runner.run(served.share_read(served.stream or [*ood, *asked.outside]))
            candidates, informed = {}, {}
            if served.served == COMBINED:
                for part, texts in tests.items():
                    candidates[part] = runner.run(served.candidates(texts))
                    informed[part] = runner.run(served.contradiction(list(zip(asked.about[part], texts, strict=True))))
            every = {**asked.scorers, **{path: scorer(path) for path in served.paths}}
            further = [row for suite in asked.suites for row in suite(every)]
            ranked = runner.run(served.ranked(ood))
        finally:
            runner.run(served.close())
    return _Answered(embeddings, scores, outside, outcomes, further, ranked, candidates, informed, speeds, read)


def _steps(
    p: Mapping[str, Mapping[Split, Doubles]],
    package: ModelPackage,
    answered: _Answered,
    reported: Sequence[int],
) -> list[quality.Model]:
    """Return the lines of the table of quality, from the frozen encoder to what is served."""
    ood = Split.TEST_OOD

    def path(name: str) -> quality.Model:
        limits = package.thresholds(verified=name == COMBINED)
        own = answered.scores[name][ood]
        speed = answered.speeds.get(name)
        return quality.Model(
            name,
            p[name],
            aligned=answered.ranked,
            evidence=[s.recommendation for s in own],
            verdicts=[judge(s, limits) for s in own],
            outside=[judge(s, limits) for s in answered.outside[name]],
            outcomes=[answered.outcomes[name][i] for i in reported],
            speed=speed.statements_per_second if speed else None,
            threads=speed.threads if speed else None,
            read=answered.read if name == COMBINED else None,
        )

    models = [quality.Model(name, p[name]) for name in (FROZEN_BINARY, FROZEN)]
    models.append(path(CONTRASTIVE))
    if COMBINED in answered.scores:
        mixture = {part: own.readings.mixture() for part, own in answered.candidates.items()}
        evidence = [own[0] for own in answered.candidates[ood].ranked()]
        models.append(quality.Model(quality.VERIFIER, mixture, evidence=evidence))
        models.append(quality.Model(quality.INFORMED, answered.informed))
        models.append(path(COMBINED))
    return models


def _write(
    folder: RunFolder, package: ModelPackage, rows: Sequence[Metric], judged: Sequence[Judged]
) -> list[EvaluationSummary]:
    """Write what was found, and the summary into the manifest; return the summary."""
    write_json(folder.evaluation / "metrics.json", [asdict(r) for r in rows])
    write_rows(
        folder.evaluation / "scores.jsonl",
        ({"id": j.example.id, "split": j.split, "p": j.p, "recommendation": j.recommendation} for j in judged),
    )
    manifest = package.manifest.model_copy(update={"evaluation": _summaries(rows)})
    write_text(folder.package / MANIFEST, manifest.model_dump_json(exclude_none=True) + "\n")
    return manifest.evaluation


def _scorer(embedder: Embedder, head: Callable[[Floats], Doubles]) -> Score:
    return lambda texts: head(embedder.embed(texts))


def _p(scores: Sequence[StatementScore]) -> Doubles:
    return np.array([s.p_unsafe for s in scores], dtype=np.float64)


def load_metrics(folder: RunFolder) -> list[Metric]:
    """Read the figures of a run.

    Raises:
        StageMissing: it has not been evaluated.
    """
    file = folder.evaluation / "metrics.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: no evaluation there: run `guardline train --run {folder.root}`")
    return [Metric(**row) for row in json.loads(file.read_text())]


def load_judged(folder: RunFolder) -> list[Judged]:
    """Read what every model made of every held-out statement of a run.

    Raises:
        StageMissing: it has not been evaluated, or by a version that did not keep the scores.
    """
    file = folder.evaluation / "scores.jsonl"
    if not file.exists():
        raise StageMissing(f"{folder.root}: no scores there: run `guardline evaluate --run {folder.root} --again`")
    by_id = {e.id: e for own in load_split(folder).values() for e in own}
    return [
        Judged(by_id[row["id"]], Split(row["split"]), row["p"], row["recommendation"]) for row in read_json_lines(file)
    ]
