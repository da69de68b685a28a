"""Stage `evaluate`: the served model against the frozen encoder, side by side, with intervals.

What is measured is the exported package through the monitor's own path (tokenizers, ONNX Runtime, alignment, policy),
so the figures are those of serving. Baselines get the same training data, and a head chosen and calibrated in the same
way, on embeddings of the encoder before fine-tuning. Suites (`Metric.suite`):

    statements      every metric by stratum, in voices that training heard (`test_id`) and in held-out ones (`test_ood`)
    difference      contrastive minus each other model, paired
    twins           a safe statement and the unsafe one made from it: both right?
    policy          what the package's thresholds do; `alignment`: is the right recommendation cited?
    conformal       how often the guaranteed band errs, one statement a family (stratum: what was promised)
    learning curve  heads refitted on part of the training families (stratum: how many statements), same embeddings
    out of scope    statements about nothing that the guideline says
    messages        whole answers with marked unsafe spans
    reviews         reviewers' agreement; `reviewed`: metrics on what they confirmed, where a file of reviews is there

`trainer.evaluation.measures` says how metrics and intervals are computed. Shares of the suites policy, alignment, out
of scope and messages have Wilson intervals (Wilson 1927).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from monitor.alignment import Alignment
from monitor.factory import build_scorer, build_thresholds
from monitor.memory import MemoryStore
from monitor.package import MANIFEST, EvaluationSummary, ModelPackage
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.types import Message, ModelScores, StatementScore, Verdict
from trainer.artifacts import RunFolder, read_json_lines, write_json, write_rows, write_text
from trainer.errors import StageMissing
from trainer.evaluation import reviews
from trainer.evaluation.measures import Bools, Doubles, Judged, difference_rows, score_rows, twin_rows
from trainer.model.classifier import calibrate, embed_splits, fit, fit_joint, in_scope, is_unsafe, measure_coverage
from trainer.model.conformal import wilson
from trainer.model.encoder import Embedder, Floats, load_pretrained
from trainer.settings import ClassifierSettings, EncoderSettings, EvaluationSettings
from trainer.statements.corpus import load_answers, load_split, span_agreement
from trainer.types import Example, Metric, Split

CONTRASTIVE = "contrastive"
FROZEN = "frozen"
FROZEN_BINARY = "frozen, one hyperplane"
TESTS = (Split.TEST_ID, Split.TEST_OOD)
#: What the splits are called for people.
VOICES = {Split.TEST_ID: "voices heard in training", Split.TEST_OOD: "voices never heard"}
#: Shares of the training families that the learning curve is drawn over.
SIZES = (0.1, 0.2, 0.4, 0.7, 1.0)
#: Statements scored between two steps of the progress bar.
_SLICE = 1024

#: Texts in, calibrated probabilities of unsafe out, fp64 [n].
Score = Callable[[Sequence[str]], Doubles]
#: A further suite of the evaluation: is handed what scores texts, by model (the baselines and the served one), and
#: returns rows.
Suite = Callable[[Mapping[str, Score]], list[Metric]]


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
    """What an evaluation found: all rows, the summary, every held-out statement, and embeddings of the OOD ones.

    `embeddings` is by model (frozen, contrastive), fp32 [n, dim], in the order of `judged` of the split `test_ood`.
    """

    rows: list[Metric]
    summary: list[EvaluationSummary]
    judged: list[Judged]
    embeddings: dict[str, Floats]

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

    def share(of: str, metric: str, hits: Bools, among: Bools) -> list[Metric]:
        return share_row("policy", split.value, of, metric, int((hits & among).sum()), int(among.sum()))

    return [
        *share("unsafe", "flagged", flagged, unsafe),
        *share("unsafe", "flagged or in review", flagged | review, unsafe),
        *share("safe", "flagged", flagged, ~unsafe),
        *share("safe", "in review", review, ~unsafe),
        *share("all", "out of scope", ~judged, np.ones_like(unsafe)),
        *share_row("alignment", split.value, "all", "right recommendation", right, len(unsafe)),
    ]


def _settings() -> Settings:
    """Return settings that measure the package itself, whatever thresholds this machine's environment sets."""
    return Settings(scorer="onnx", threshold_unsafe=None, threshold_review=None)


class ServedModel:
    """The exported package as the monitor runs it: one session, for statements and for whole answers.

    Call it from one event loop, and `close` it.
    """

    def __init__(self, package: ModelPackage) -> None:
        settings = _settings()
        self._scorer = build_scorer(settings, package)
        self._alignment = Alignment(package.manifest)
        self._screening = Screening(
            package, scorer=self._scorer, store=MemoryStore(), thresholds=build_thresholds(settings, package)
        )

    async def score(
        self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None
    ) -> tuple[Floats, list[StatementScore]]:
        """Return embeddings, fp32 [n, dim], and the monitor's scores of whole statements, in order."""
        parts: list[ModelScores] = []
        for start in range(0, max(len(texts), 1), _SLICE):
            parts.append(await self._scorer.score(texts[start : start + _SLICE]))
            advance(len(texts[start : start + _SLICE]))
        return np.concatenate([p.embeddings for p in parts]), [s for p in parts for s in self._alignment.read(p)]

    async def judge(self, rows: Sequence[Mapping[str, Any]]) -> list[MessageOutcome]:
        """Screen whole answers (`id`, `text`, `label`, `spans`) and hold the flags against the marked spans."""
        verdicts = await self._screening.screen([Message(id=row["id"], text=row["text"]) for row in rows])
        outcomes = []
        for row, verdict in zip(rows, verdicts, strict=True):
            flags = [(f.statement.start, f.statement.end) for f in verdict.of(Verdict.UNSAFE)]
            spans = [(s["start"], s["end"]) for s in row["spans"]]
            hit, on_spans = span_agreement(flags, spans)
            outcomes.append(MessageOutcome(row["label"], verdict.verdict, len(spans), hit, len(flags), on_spans))
        return outcomes

    async def close(self) -> None:
        """Release the session."""
        await self._scorer.close()


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


def message_rows(outcomes: Sequence[MessageOutcome]) -> list[Metric]:
    """Return the figures of the message suite."""
    rows: list[Metric] = []
    for label in ("unsafe", "safe", "out_of_scope"):
        own = [o for o in outcomes if o.label == label]
        rows += share_row("messages", "all", label, "flagged", sum(o.verdict is Verdict.UNSAFE for o in own), len(own))
    spans, flags = sum(o.spans for o in outcomes), sum(o.flags for o in outcomes)
    rows += share_row("messages", "all", "spans", "found", sum(o.spans_hit for o in outcomes), spans)
    rows += share_row("messages", "all", "flags", "on a span", sum(o.flags_on_spans for o in outcomes), flags)
    return rows


def outside_rows(package: ModelPackage, scores: Sequence[StatementScore]) -> list[Metric]:
    """Return how many out-of-scope statements are judged at all, and how many are flagged."""
    limits = package.manifest.thresholds
    passed = [s for s in scores if s.p_in_scope >= limits.in_scope]
    flagged = sum(s.p_unsafe >= limits.unsafe for s in passed)
    split = Split.TEST_ID.value
    return [
        *share_row("out of scope", split, "all", "flagged", flagged, len(scores)),
        *share_row("out of scope", split, "all", "judged", len(passed), len(scores)),
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
    found = {
        (r.split, r.metric): r for r in rows if (r.suite, r.model, r.stratum) == ("statements", CONTRASTIVE, "all")
    }
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
        rows += difference_rows(examples, p, better=CONTRASTIVE, split=split, settings=settings)
    return rows


def _check_models(models: Mapping[str, Mapping[Split, Doubles]], examples: Mapping[Split, Sequence[Example]]) -> None:
    for model, by_split in models.items():
        if model in (CONTRASTIVE, FROZEN, FROZEN_BINARY):
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
    """Measure the package of a run; write `metrics.json`, `scores.jsonl` and the summary in the manifest.

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
    task = progress.add_task("evaluate: served model", total=None)
    # What only the learning curve reads is not embedded without one.
    texts = {part: [e.text for e in examples[part]] for part in (Split if sizes else TESTS)}
    progress.update(task, total=sum(map(len, texts.values())) + len(outside))
    scorers = {model: _scorer(frozen, head) for model, head in heads.items()}
    answered = _serve(
        package, texts, outside, load_answers(corpus), scorers, suites, lambda n: progress.advance(task, n)
    )

    task = progress.add_task("evaluate: figures", total=3)
    p = {**models, **{m: {part: head(before[part]) for part in TESTS} for m, head in heads.items()}}
    p[CONTRASTIVE] = {part: _p(answered.scores[part]) for part in TESTS}
    order = [FROZEN_BINARY, FROZEN, *models, CONTRASTIVE]
    judged = [
        Judged(e, part, {model: float(p[model][part][i]) for model in order}, answered.scores[part][i].recommendation)
        for part in TESTS
        for i, e in enumerate(examples[part])
    ]
    rows = statement_rows(judged, order, settings) + answered.further
    progress.advance(task)
    for part in TESTS:
        rows += operating_point(package, examples[part], answered.scores[part], part)
        rows += conformal_rows(folder, answered.embeddings[part], examples[part], part)
    rows += outside_rows(package, answered.outside) + message_rows(answered.outcomes)
    embeddings = {FROZEN: before, CONTRASTIVE: answered.embeddings}
    if sizes:
        rows += learning_curve(embeddings, examples, recommendations, classifier, settings, sizes)
    progress.advance(task)
    if (file := reviews.file_of(folder)) is not None:
        given = reviews.load(file, [e for own in everything.values() for e in own])
        rows += reviews.rows(given, judged, settings)
    summaries = _write(folder, package, rows, judged)
    progress.advance(task)
    return Measured(rows, summaries, judged, {model: own[Split.TEST_OOD] for model, own in embeddings.items()})


@dataclass(frozen=True)
class _Answered:
    """All that one session of the served model gave: by split, of out-of-scope texts, whole answers, further suites."""

    embeddings: dict[Split, Floats]
    scores: dict[Split, list[StatementScore]]
    outside: list[StatementScore]
    outcomes: list[MessageOutcome]
    further: list[Metric]


def _serve(
    package: ModelPackage,
    texts: Mapping[Split, Sequence[str]],
    outside: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    scorers: Mapping[str, Score],
    suites: Sequence[Suite],
    advance: Callable[[int], None],
) -> _Answered:
    """Ask the served model everything, in one session."""
    with asyncio.Runner() as runner:  # one loop for one session
        served = ServedModel(package)
        try:
            found = {part: runner.run(served.score(own, advance)) for part, own in texts.items()}
            _, outside_scores = runner.run(served.score(outside, advance))
            outcomes = runner.run(served.judge(answers)) if answers else []
            every = {**scorers, CONTRASTIVE: lambda texts: _p(runner.run(served.score(texts))[1])}
            further = [row for suite in suites for row in suite(every)]
        finally:
            runner.run(served.close())
    embeddings = {part: own for part, (own, _) in found.items()}
    return _Answered(embeddings, {part: own for part, (_, own) in found.items()}, outside_scores, outcomes, further)


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
    write_text(folder.package / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
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
