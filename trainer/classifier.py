"""Stage `classifier`: embeddings -> heads, calibrated probabilities, thresholds.

Three logistic regressions on the embeddings of the training split: over (recommendation, label), whose unsafe share is
the score; over the recommendations and "none of them", which is alignment and scope; over the categories. One
hyperplane for all recommendations would have to separate "200 mg" from "400 mg" and "may" from "must not" at once; one
per recommendation, weighted by how likely it is meant, raised the AUC by 0.08 (probe on validation families).
Calibration (Platt 1999) and thresholds come from the validation split, which no weight has seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression

from monitor.package import OUT_OF_SCOPE, LinearHead
from trainer.artifacts import RunFolder, fresh_folder, write_json
from trainer.encoder import Embedder, Floats, joint_classes
from trainer.errors import StageMissing
from trainer.settings import ClassifierSettings
from trainer.types import Example, Label, Split

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class JointHead:
    """(recommendation, label) regression with calibration: `weights` [2R, dim], `bias` [2R], safe first."""

    weights: Doubles
    bias: Doubles
    slope: float
    intercept: float

    def margin(self, embeddings: Floats) -> Doubles:
        """Return the uncalibrated log-odds of unsafe, fp64 [n]: log sum exp over unsafe minus over safe classes."""
        logits = embeddings.astype(np.float64) @ self.weights.T + self.bias
        return np.asarray(np.logaddexp.reduce(logits[:, 1::2], axis=1) - np.logaddexp.reduce(logits[:, 0::2], axis=1))

    def p_unsafe(self, embeddings: Floats) -> Doubles:
        """Return calibrated probabilities, fp64 [n]."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * self.margin(embeddings) + self.intercept))))


@dataclass(frozen=True)
class Classifier:
    """Everything learned on top of an encoder."""

    joint: JointHead
    alignment: LinearHead
    category: LinearHead
    unsafe: float
    review: float
    in_scope: float


def is_unsafe(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Return which examples are unsafe, bool [n]."""
    return np.array([e.label is Label.UNSAFE for e in examples], dtype=bool)


def in_scope(examples: Sequence[Example]) -> list[int]:
    """Return the indices of the examples that a recommendation is about."""
    return [i for i, e in enumerate(examples) if e.label is not Label.OUT_OF_SCOPE]


def _regression(embeddings: Floats, classes: Sequence[Any], c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=500).fit(embeddings, classes)


def _head(model: LogisticRegression) -> LinearHead:
    return LinearHead(
        classes=[str(c) for c in model.classes_],
        weights=np.round(model.coef_, 6).tolist(),
        bias=np.round(model.intercept_, 6).tolist(),
    )


def calibrate(margins: Doubles, unsafe: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of Platt scaling: p = sigmoid(slope * margin + intercept)."""
    model = LogisticRegression(C=1e6).fit(margins[:, None], unsafe)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def fit_joint(
    train: tuple[Floats, Sequence[Example]],
    validation: tuple[Floats, Sequence[Example]],
    recommendations: Sequence[str],
    c: float,
) -> JointHead:
    """Fit the (recommendation, label) regression on training data, its calibration on validation data (in scope)."""
    model = _regression(train[0], joint_classes(train[1], recommendations).tolist(), c)
    # A class without a training statement must never win.
    weights = np.zeros((2 * len(recommendations), train[0].shape[1]))
    bias = np.full(2 * len(recommendations), -1e4)
    weights[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    raw = JointHead(weights, bias, 1.0, 0.0)
    slope, intercept = calibrate(raw.margin(validation[0]), is_unsafe(validation[1]))
    return JointHead(weights, bias, slope, intercept)


def unsafe_threshold(p: Doubles, unsafe: NDArray[np.bool_], false_positive_rate: float) -> float:
    """Return the least threshold that flags at most this share of the safe validation statements, at least 0.5."""
    return float(min(max(np.quantile(p[~unsafe], 1 - false_positive_rate), 0.5), 0.99))


def review_threshold(p: Doubles, unsafe: NDArray[np.bool_], safe_precision: float, ceiling: float) -> float:
    """Return the greatest threshold below which at least this share of validation statements is safe."""
    order = np.argsort(p)
    share_safe = np.cumsum(~unsafe[order]) / np.arange(1, len(p) + 1)
    good = np.flatnonzero(share_safe >= safe_precision)
    return float(np.clip(p[order][good[-1]] if len(good) else 0.05, 0.05, ceiling))


def fit(
    embeddings: dict[Split, Floats],
    examples: dict[Split, list[Example]],
    recommendations: Sequence[str],
    settings: ClassifierSettings,
) -> Classifier:
    """Fit all heads on the training split, calibration and thresholds on the validation split."""

    def scoped(part: Split) -> tuple[Floats, list[Example]]:
        keep = in_scope(examples[part])
        return embeddings[part][keep], [examples[part][i] for i in keep]

    train, validation = scoped(Split.TRAIN), scoped(Split.VALIDATION)
    joint = fit_joint(train, validation, recommendations, settings.joint_c)
    everything = [e.recommendation or OUT_OF_SCOPE for e in examples[Split.TRAIN]]
    alignment = _regression(embeddings[Split.TRAIN], everything, settings.alignment_c)
    category = _regression(train[0], [str(e.category) for e in train[1]], settings.category_c)
    p_none = alignment.predict_proba(validation[0])[:, list(alignment.classes_).index(OUT_OF_SCOPE)]
    p = joint.p_unsafe(validation[0])
    unsafe = unsafe_threshold(p, is_unsafe(validation[1]), settings.false_positive_rate)
    return Classifier(
        joint=joint,
        alignment=_head(alignment),
        category=_head(category),
        unsafe=round(unsafe, 4),
        review=round(review_threshold(p, is_unsafe(validation[1]), settings.safe_precision, unsafe), 4),
        in_scope=round(float(min(np.quantile(1 - p_none, 1 - settings.in_scope_recall), 0.5)), 4),
    )


def save(classifier: Classifier, folder: RunFolder) -> None:
    """Write the classifier."""
    path = fresh_folder(folder.classifier)
    joint = classifier.joint
    np.savez_compressed(path / "joint.npz", weights=joint.weights, bias=joint.bias)
    write_json(
        path / "classifier.json",
        {
            "slope": joint.slope,
            "intercept": joint.intercept,
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
        StageMissing: it has not been fitted.
    """
    file = folder.classifier / "classifier.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: no classifier there: run `guardline train classifier`")
    content = json.loads(file.read_text())
    arrays = np.load(folder.classifier / "joint.npz")
    return Classifier(
        joint=JointHead(arrays["weights"], arrays["bias"], content["slope"], content["intercept"]),
        alignment=LinearHead(**content["alignment"]),
        category=LinearHead(**content["category"]),
        **content["thresholds"],
    )


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
    classifier = fit(embeddings, examples, recommendations, settings)
    save(classifier, folder)
    return {"unsafe from": classifier.unsafe, "review from": classifier.review, "in scope from": classifier.in_scope}
