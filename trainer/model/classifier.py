"""Stage `classifier`: embeddings -> heads, calibrated probabilities, thresholds.

From the training split: the head that gives the score (`trainer.model.heads`: the best of five by cross-validation), a
softmax regression over the recommendations and "none of them", which is alignment and scope, and one over the
categories. From the validation split, which no weight has seen, the *operating point*: calibration
(`trainer.model.calibration`), where a statement begins to be judged, to be reviewed, to be flagged. Three policies set
the last two:

    shares     at most a share of the safe statements is flagged (recall at that false-positive rate), none below 1/2,
               and at most another share goes to review
    recall     at least a share of the unsafe statements is flagged; review as with `shares`
    conformal  at most alpha of the unsafe ones pass and at most beta of the safe ones are flagged, guaranteed for
               families like those of validation (`trainer.model.conformal`); one half of the validation families gives
               calibration and scope, the other the band

Besides the heads it writes what the choices rest on: `comparison.json` (heads), `calibration.json`,
`operating_point.json` (thresholds and what they do, with intervals) and `conformal.json` (the band, and what each
policy lets pass and flags among held-out families).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from monitor.errors import ConfigurationError
from monitor.package import OUT_OF_SCOPE, LinearHead
from trainer.artifacts import RunFolder, fresh_folder, write_json
from trainer.errors import CorpusError, StageMissing
from trainer.model.calibration import Calibration, CalibrationReport, calibrate, choose_calibration
from trainer.model.conformal import NOT_JUDGED, Band, Coverage, check_coverage, conformal_band, coverage, outcomes
from trainer.model.encoder import Embedder, Floats
from trainer.model.heads import (
    EXPORTABLE,
    NEVER,
    CandidateScore,
    Hidden,
    JointHead,
    Rows,
    choose,
    compare,
    family_groups,
    held_out_folds,
    in_scope,
    is_unsafe,
    softmax_regression,
)
from trainer.model.heads import fit_joint as fit_joint_rows
from trainer.settings import ClassifierSettings
from trainer.types import Example, Label, Split

__all__ = [
    "Classifier",
    "JointHead",
    "OperatingPoint",
    "Scored",
    "calibrate",
    "compare",
    "embed_splits",
    "fit",
    "fit_joint",
    "in_scope",
    "is_unsafe",
    "load",
    "measure_coverage",
    "operating_point",
    "run",
    "save",
    "threshold",
    "threshold_limits",
]

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: How the thresholds can be chosen.
POLICIES = ("shares", "recall", "conformal")
#: Resamples of families for the intervals of the thresholds.
_RESAMPLES = 200


@dataclass(frozen=True)
class Classifier:
    """Everything learned on top of an encoder."""

    joint: JointHead
    alignment: LinearHead
    category: LinearHead
    unsafe: float
    review: float
    in_scope: float

    def at(self, point: OperatingPoint) -> Classifier:
        """Return the same heads at another operating point."""
        own = point.calibration
        joint = replace(self.joint, slope=own.slope, intercept=own.intercept, knots=own.knots)
        return replace(self, joint=joint, unsafe=point.unsafe, review=point.review, in_scope=point.in_scope)


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration and thresholds, as served; `band` where they come with a guarantee."""

    calibration: Calibration
    unsafe: float
    review: float
    in_scope: float
    band: Band | None = None


@dataclass(frozen=True)
class Scored:
    """What the heads say of statements in scope, before calibration.

    `margin` and `p_none`, the alignment's probability of "none of the recommendations", fp64 [n]; `unsafe` bool [n];
    `groups`, by which they are held out, [n].
    """

    margin: Doubles
    p_none: Doubles
    unsafe: Bools
    groups: Sequence[str]

    @classmethod
    def of(cls, classifier: Classifier, embeddings: Floats, examples: Sequence[Example]) -> Scored:
        """Score the statements in scope among these."""
        keep = in_scope(examples)
        rows, vectors = [examples[i] for i in keep], embeddings[keep]
        none = classifier.alignment.classes.index(OUT_OF_SCOPE)
        p_none = classifier.alignment.probabilities(vectors)[:, none]
        return cls(classifier.joint.margin(vectors), p_none, is_unsafe(rows), family_groups(rows))

    def take(self, rows: NDArray[np.int64]) -> Scored:
        """Return some of them."""
        return Scored(self.margin[rows], self.p_none[rows], self.unsafe[rows], [self.groups[i] for i in rows])

    def served(self, calibration: Calibration, least: float) -> Doubles:
        """Return what the monitor's policy compares with its thresholds, fp64 [n].

        As `monitor.alignment` and `monitor.policy` compute it: the probability times that of being about a
        recommendation, with four decimals; `NOT_JUDGED` where the latter is below `least`.
        """
        scores = np.round(calibration.probabilities(self.margin) * (1 - self.p_none), 4)
        return np.where(np.round(1 - self.p_none, 4) < least, NOT_JUDGED, scores)

    def folds(self, settings: ClassifierSettings) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return (rest, part) indices of cross-validation by group."""
        return held_out_folds(self.unsafe, self.groups, settings.folds, settings.seed)


def _linear_head(embeddings: Floats, labels: Sequence[str], classes: Sequence[str], c: float) -> LinearHead:
    """Return a softmax regression over `classes`, in their order; one without statements never wins."""
    known, weights, bias = softmax_regression(embeddings, labels, c)
    rows = {str(c): (w, b) for c, w, b in zip(known, weights, bias, strict=True)}
    absent = (np.zeros(weights.shape[1]), NEVER)
    return LinearHead(
        classes=list(classes),
        weights=[np.round(rows.get(c, absent)[0], 6).tolist() for c in classes],
        bias=[round(float(rows.get(c, absent)[1]), 6) for c in classes],
    )


def fit_joint(
    train: tuple[Floats, Sequence[Example]],
    validation: tuple[Floats, Sequence[Example]],
    recommendations: Sequence[str],
    c: float,
) -> JointHead:
    """Fit the (recommendation, label) regression on training data, Platt's line on validation data (both in scope)."""
    raw = fit_joint_rows(Rows.of(*train, recommendations), ClassifierSettings(joint_c=c))
    slope, intercept = calibrate(raw.margin(validation[0]), is_unsafe(validation[1]))
    return replace(raw, slope=slope, intercept=intercept)


def threshold(p_safe: Doubles, share: float, least: float) -> float:
    """Return the least threshold, with four decimals, that at most this share of the safe statements reaches.

    Never below `least`. At 0.99 the promise ends: a threshold beyond would flag next to nothing.
    """
    ranked = np.sort(p_safe)[::-1]
    allowed = int(share * len(ranked) + 1e-9)  # 0.29 * 100 is a little less than 29
    if allowed >= len(ranked):
        return least
    # Above the first score that must not reach it, and so above all that tie with it.
    return float(np.clip((np.floor(np.round(ranked[allowed] * 1e4, 6)) + 1) / 1e4, least, 0.99))


def least_recall_threshold(p_unsafe: Doubles, share: float) -> float:
    """Return the greatest threshold, with four decimals, that at least this share of the unsafe statements reaches.

    0, which everything judged reaches, where so many of them are not judged that nothing else does.
    """
    if not len(p_unsafe):
        return 0.5
    needed = max(int(np.ceil(share * len(p_unsafe) - 1e-9)), 1)
    score = np.sort(p_unsafe)[::-1][needed - 1]
    return float(np.clip(np.floor(np.round(score * 1e4, 6)) / 1e4, 0, 0.99))


def threshold_limits(
    scores: Doubles, unsafe: Bools, groups: Sequence[str], settings: ClassifierSettings
) -> tuple[float, float, Band | None]:
    """Return where statements begin to be flagged and to be reviewed, and the band of policy `conformal`."""
    if settings.policy == "conformal":
        band = conformal_band(scores, unsafe, groups, alpha=settings.alpha, beta=settings.beta, seed=settings.seed)
        return band.unsafe, band.review, band
    safe = scores[~unsafe]
    if settings.policy == "recall":
        flag = least_recall_threshold(scores[unsafe], settings.flagged_unsafe)
    else:
        flag = threshold(safe, settings.flagged_safe, 0.5)
    flagged = np.count_nonzero(safe >= flag) / max(len(safe), 1)
    return flag, min(threshold(safe, flagged + settings.reviewed_safe, 0.05), flag), None


def operating_point(scored: Scored, settings: ClassifierSettings) -> tuple[OperatingPoint, CalibrationReport]:
    """Return calibration and thresholds of the policy, and how the calibration was chosen.

    Raises:
        CorpusError: policy `conformal`, and these statements cannot keep its promises.
    """
    fitting, limits = _parts(scored, settings)
    calibration, report = choose_calibration(
        fitting.margin, fitting.unsafe, fitting.folds(settings), isotonic_from=settings.isotonic_from
    )
    # The least probability of being in scope that this share of the statements has.
    least = round(float(min(np.quantile(1 - fitting.p_none, 1 - settings.in_scope_recall), 0.5)), 4)
    flag, review, band = threshold_limits(limits.served(calibration, least), limits.unsafe, limits.groups, settings)
    return OperatingPoint(calibration, flag, review, least, band), report


def _parts(scored: Scored, settings: ClassifierSettings) -> tuple[Scored, Scored]:
    """Return what gives calibration and scope, and what gives the other thresholds.

    The same, but for `conformal`: the scores that a band is made of must not have seen their calibration, so the
    families are dealt into two halves.
    """
    if settings.policy != "conformal":
        return scored, scored
    names = np.array(scored.groups, dtype=str)
    dealt = np.random.default_rng(settings.seed).permutation(np.unique(names))
    first = np.isin(names, dealt[: len(dealt) // 2])
    return scored.take(np.flatnonzero(first)), scored.take(np.flatnonzero(~first))


@dataclass(frozen=True)
class Fitted:
    """A classifier and what its choices rest on."""

    classifier: Classifier
    head: str
    comparison: list[CandidateScore]
    calibration: CalibrationReport
    point: OperatingPoint
    validation: Scored


def fit(
    embeddings: dict[Split, Floats],
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    settings: ClassifierSettings,
) -> Classifier:
    """Fit all heads on the training split, calibration and thresholds on the validation split.

    Raises:
        ConfigurationError: the settings name a head or a policy that there is not.
        CorpusError: a split lacks a label, or policy `conformal` and validation cannot keep its promises.
    """
    return fit_and_explain(embeddings, examples, recommendations, settings).classifier


def fit_and_explain(
    embeddings: dict[Split, Floats],
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    settings: ClassifierSettings,
) -> Fitted:
    """Do what `fit` does, and keep what the choices rest on."""
    _check(settings)
    for part in (Split.TRAIN, Split.VALIDATION):
        labels = {e.label for e in examples[part]}
        if not {Label.SAFE, Label.UNSAFE} <= labels:
            raise CorpusError(
                f"the {part} split has {', '.join(sorted(labels)) or 'no'} statements: a classifier needs safe and "
                "unsafe ones; see rejected.jsonl of the run, and the shares of the split settings"
            )
    everything, vectors = examples[Split.TRAIN], embeddings[Split.TRAIN]
    keep = in_scope(everything)
    comparison = [] if settings.head else compare(vectors, everything, recommendations, settings)
    head = settings.head or choose(comparison)
    rows = Rows.of(vectors[keep], [everything[i] for i in keep], recommendations)
    categories = [str(everything[i].category) for i in keep]
    about = [e.recommendation or OUT_OF_SCOPE for e in everything]
    heads = Classifier(
        joint=EXPORTABLE[head](rows, settings),
        alignment=_linear_head(vectors, about, [*recommendations, OUT_OF_SCOPE], settings.alignment_c),
        category=_linear_head(rows.embeddings, categories, sorted(set(categories)), settings.category_c),
        unsafe=1.0,
        review=1.0,
        in_scope=0.0,
    )
    validation = Scored.of(heads, embeddings[Split.VALIDATION], examples[Split.VALIDATION])
    point, report = operating_point(validation, settings)
    return Fitted(heads.at(point), head, comparison, report, point, validation)


def _check(settings: ClassifierSettings) -> None:
    if settings.head is not None and settings.head not in EXPORTABLE:
        raise ConfigurationError(
            f"classifier head {settings.head!r}: give one that the ONNX graph can hold ({', '.join(EXPORTABLE)}), or "
            "None for the best of them"
        )
    if settings.policy not in POLICIES:
        raise ConfigurationError(f"threshold policy {settings.policy!r}: give one of {', '.join(POLICIES)}")


# What the choices rest on


def target(settings: ClassifierSettings) -> str:
    """Return in words what the thresholds are chosen for."""
    return {
        "shares": f"the greatest recall with at most {settings.flagged_safe:.0%} of the safe statements flagged, none "
        f"below 1/2; at most {settings.reviewed_safe:.0%} of them besides in review",
        "recall": f"at least {settings.flagged_unsafe:.0%} of the unsafe statements flagged; at most "
        f"{settings.reviewed_safe:.0%} of the safe ones in review",
        "conformal": f"at most {settings.alpha:.0%} of the unsafe statements passed and at most {settings.beta:.0%} of "
        "the safe ones flagged, guaranteed for new families like those of validation",
    }[settings.policy]


def describe_point(fitted: Fitted, settings: ClassifierSettings) -> dict[str, Any]:
    """Return the thresholds and what they do on the statements they were chosen on, with 95% intervals.

    Intervals are percentile bootstraps over families in which the thresholds are chosen anew. The shares are of the
    split that the thresholds are from; what they are elsewhere, evaluation says.
    """
    _, limits = _parts(fitted.validation, settings)
    scores = limits.served(fitted.point.calibration, fitted.point.in_scope)
    names = np.array(limits.groups, dtype=str)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    rng = np.random.default_rng(settings.seed)
    samples = [_figures(scores, limits.unsafe, limits.groups, settings)]
    for _ in range(_RESAMPLES):
        drawn = [members[i] for i in rng.integers(0, len(members), len(members))]
        rows = np.concatenate(drawn)
        # A family that is drawn twice counts as two.
        own = [str(i) for i, part in enumerate(drawn) for _ in part]
        try:
            samples.append(_figures(scores[rows], limits.unsafe[rows], own, settings))
        except CorpusError:  # a sample that no band fits
            continue
    result = {}
    for name, value in samples[0].items():
        low, high = np.nanpercentile([sample[name] for sample in samples], [2.5, 97.5])
        result[name] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return {"policy": settings.policy, "target": target(settings), "families": len(members), **result}


def _figures(scores: Doubles, unsafe: Bools, groups: Sequence[str], settings: ClassifierSettings) -> dict[str, float]:
    flag, review, _ = threshold_limits(scores, unsafe, groups, settings)
    figures = {"unsafe from": flag, "review from": review}
    for label, own in (("unsafe", scores[unsafe]), ("safe", scores[~unsafe])):
        figures[f"{label} flagged"] = np.count_nonzero(own >= flag) / max(len(own), 1)
        figures[f"{label} in review"] = np.count_nonzero((own >= review) & (own < flag)) / max(len(own), 1)
    return figures


def held_out_errors(scored: Scored, settings: ClassifierSettings) -> list[Coverage]:
    """Return how often the policy errs on families that neither calibration nor thresholds have seen.

    Everything but the heads is fitted anew for each fold. Limits are those that the policy states, if any.
    """
    limits: dict[str, float] = {}
    if settings.policy == "conformal":
        limits = {"unsafe passed": settings.alpha, "safe flagged": settings.beta}
    elif settings.policy == "shares":
        limits["safe flagged"] = settings.flagged_safe
    found: dict[str, list[Bools]] = {}
    for rest, part in scored.folds(settings):
        point, _ = operating_point(scored.take(rest), settings)
        held_out = scored.take(part)
        scores = held_out.served(point.calibration, point.in_scope)
        own = outcomes(
            scores, held_out.unsafe, held_out.groups, review=point.review, flag=point.unsafe, seed=settings.seed
        )
        for name, happened in own.items():
            found.setdefault(name, []).append(happened)
    return [coverage(name, np.concatenate(parts), limits.get(name)) for name, parts in found.items()]


def describe_conformal(fitted: Fitted, settings: ClassifierSettings) -> dict[str, Any]:
    """Return the conformal band of these heads, in use or not, and what each policy does among held-out families."""
    own = replace(settings, policy="conformal")
    content: dict[str, Any] = {"in use": settings.policy == "conformal", "point": None, "held out": {}}
    for policy in dict.fromkeys([settings.policy, "conformal"]):
        try:
            rows = held_out_errors(fitted.validation, replace(settings, policy=policy))
            content["held out"][policy] = [asdict(row) | {"holds": row.holds} for row in rows]
        except CorpusError as error:
            content["held out"][policy] = str(error)
    try:
        content["point"] = asdict(operating_point(fitted.validation, own)[0])
    except CorpusError as error:
        content["why not"] = str(error)
    return content


def measure_coverage(
    folder: RunFolder, embeddings: Floats, examples: Sequence[Example], seed: int = 0
) -> list[Coverage]:
    """Return how the run's conformal band holds on a split that took no part in it; none where there is no band.

    For voices that training never heard nothing is guaranteed: this is what is left of the promise there.

    Args:
        folder: the run.
        embeddings: of the run's trained encoder, fp32 [n, dim].
        examples: the statements; those out of scope are left out.
        seed: of the draw of one statement a family.

    Raises:
        StageMissing: the classifier has not been fitted.
    """
    classifier = load(folder)
    stored = json.loads((folder.classifier / "conformal.json").read_text())["point"]
    if stored is None:
        return []
    point = _point(stored)
    scored = Scored.of(classifier, embeddings, examples)
    if point.band is None or not len(scored.margin):
        return []
    scores = scored.served(point.calibration, point.in_scope)
    return check_coverage(point.band, scores, scored.unsafe, scored.groups, seed=seed)


def _point(stored: dict[str, Any]) -> OperatingPoint:
    own = stored["calibration"]
    calibration = Calibration(own["slope"], own["intercept"], tuple((a, b) for a, b in own["knots"]))
    band = Band(**stored["band"]) if stored["band"] else None
    return OperatingPoint(calibration, stored["unsafe"], stored["review"], stored["in_scope"], band)


# The artefact


def save(classifier: Classifier, folder: RunFolder) -> None:
    """Write the classifier."""
    path = fresh_folder(folder.classifier)
    joint = classifier.joint
    arrays = {"weights": joint.weights, "bias": joint.bias}
    if joint.hidden is not None:
        arrays |= {"hidden_weights": joint.hidden.weights, "hidden_bias": joint.hidden.bias}
    np.savez_compressed(path / "joint.npz", allow_pickle=False, **arrays)
    write_json(
        path / "classifier.json",
        {
            "slope": joint.slope,
            "intercept": joint.intercept,
            "knots": joint.knots,
            "thresholds": {
                "unsafe": classifier.unsafe,
                "review": classifier.review,
                "in_scope": classifier.in_scope,
            },
            "alignment": classifier.alignment.model_dump(),
            "category": classifier.category.model_dump(),
        },
    )


def load(folder: RunFolder) -> Classifier:
    """Read the classifier of a run.

    Raises:
        StageMissing: it has not been fitted, or by another version.
    """
    file = folder.classifier / "classifier.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: no classifier there: run `guardline train classifier`")
    content = json.loads(file.read_text())
    arrays = np.load(folder.classifier / "joint.npz")
    hidden = Hidden(arrays["hidden_weights"], arrays["hidden_bias"]) if "hidden_weights" in arrays else None
    try:
        return Classifier(
            joint=JointHead(
                arrays["weights"],
                arrays["bias"],
                content["slope"],
                content["intercept"],
                tuple((before, after) for before, after in content["knots"]),
                hidden,
            ),
            alignment=LinearHead(**content["alignment"]),
            category=LinearHead(**content["category"]),
            **content["thresholds"],
        )
    except KeyError as error:
        raise StageMissing(
            f"{file}: written by another version ({error} is not there): run `guardline train classifier`"
        ) from error


def embed_splits(
    embedder: Embedder, examples: dict[Split, list[Example]], parts: Sequence[Split], progress: Progress, name: str
) -> dict[Split, Floats]:
    """Return the embeddings of some splits, with a progress bar."""
    task = progress.add_task(f"{name}: embeddings", total=sum(len(examples[p]) for p in parts))
    return {
        part: embedder.embed([e.text for e in examples[part]], lambda n: progress.advance(task, n)) for part in parts
    }


def run(
    embedder: Embedder,
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    folder: RunFolder,
    settings: ClassifierSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it."""
    embeddings = embed_splits(embedder, examples, (Split.TRAIN, Split.VALIDATION), progress, "classifier")
    task = progress.add_task("classifier: heads and thresholds", total=None)
    fitted = fit_and_explain(embeddings, examples, recommendations, settings)
    save(fitted.classifier, folder)
    point = describe_point(fitted, settings)
    by = "settings" if settings.head else "cross-validation"
    # Without the seconds: the same inputs give the same files, so that stages after this one stay current.
    candidates = [{k: v for k, v in asdict(score).items() if k != "seconds"} for score in fitted.comparison]
    for name, content in (
        ("comparison", {"chosen": fitted.head, "by": by, "candidates": candidates}),
        ("calibration", asdict(fitted.calibration)),
        ("operating_point", point),
        ("conformal", describe_conformal(fitted, settings)),
    ):
        write_json(folder.classifier / f"{name}.json", content)
    progress.update(task, total=1, completed=1)
    error = fitted.calibration.expected_calibration_error
    found = fitted.classifier
    return {
        "head": f"{fitted.head} by {by}" + "".join(f"; {s.name} AUC {s.auc:.3f}" for s in fitted.comparison),
        "calibration": f"{fitted.calibration.method}"
        + (f", error {error['raw']:.3f} before, {error[fitted.calibration.method]:.3f} after" if error else ""),
        "unsafe from": found.unsafe,
        "review from": found.review,
        "in scope from": found.in_scope,
        "unsafe flagged": "{value:.2f} [{low:.2f}, {high:.2f}]".format(**point["unsafe flagged"]),
    }
