"""Stage `classifier`: embeddings -> heads, calibrated probabilities, thresholds.

Three logistic regressions on the embeddings of the training split: over (recommendation, label), whose unsafe share is
the score; over the recommendations and "none of them", which is alignment and scope; over the categories. One
hyperplane for all recommendations would have to separate "200 mg" from "400 mg" and "may" from "must not" at once; one
per recommendation, weighted by how likely it is meant, does better (`frozen` against `frozen, one hyperplane` in the
report). Calibration (Platt 1999) and thresholds come from the validation split, which no weight has seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.special import expit
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
        return np.asarray(expit(self.slope * self.margin(embeddings) + self.intercept))


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


def _regression(embeddings: Floats, classes: Sequence[Any], c: float) -> tuple[list[Any], Doubles, Doubles]:
    """Return the classes that occur, weights [classes, dim] and bias [classes] of a softmax regression."""
    found = sorted(set(classes))
    if len(found) == 1:
        return found, np.zeros((1, embeddings.shape[1])), np.zeros(1)
    model = LogisticRegression(C=c, max_iter=500).fit(embeddings, classes)
    weights, bias = model.coef_, model.intercept_
    if len(found) == 2:  # scikit-learn gives the log-odds of the second only
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.concatenate([[0.0], bias])
    return list(model.classes_), weights, bias


#: Bias of a class that no training statement has: it never wins.
_NEVER = -1e4


def _head(regression: tuple[list[Any], Doubles, Doubles], classes: Sequence[str]) -> LinearHead:
    """Return the head over `classes`, in their order."""
    known, weights, bias = regression
    rows = {str(c): (w, b) for c, w, b in zip(known, weights, bias, strict=True)}
    absent = (np.zeros(weights.shape[1]), _NEVER)
    return LinearHead(
        classes=list(classes),
        weights=[np.round(rows.get(c, absent)[0], 6).tolist() for c in classes],
        bias=[round(float(rows.get(c, absent)[1]), 6) for c in classes],
    )


def calibrate(margins: Doubles, unsafe: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of Platt scaling: p = sigmoid(slope * margin + intercept)."""
    n_unsafe, n_safe = int(unsafe.sum()), int((~unsafe).sum())
    # Platt's targets: short of 0 and 1, so that the slope stays finite where the classes are apart. A row counts for
    # both labels, with the share of each.
    target = np.where(unsafe, (n_unsafe + 1) / (n_unsafe + 2), 1 / (n_safe + 2))
    model = LogisticRegression(C=1e6).fit(
        np.concatenate([margins, margins])[:, None],
        np.repeat([True, False], len(margins)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def fit_joint(
    train: tuple[Floats, Sequence[Example]],
    validation: tuple[Floats, Sequence[Example]],
    recommendations: Sequence[str],
    c: float,
) -> JointHead:
    """Fit the (recommendation, label) regression on training data, its calibration on validation data (in scope)."""
    known, own_weights, own_bias = _regression(train[0], joint_classes(train[1], recommendations).tolist(), c)
    weights = np.zeros((2 * len(recommendations), train[0].shape[1]))
    bias = np.full(2 * len(recommendations), _NEVER)
    weights[known], bias[known] = own_weights, own_bias
    raw = JointHead(weights, bias, 1.0, 0.0)
    slope, intercept = calibrate(raw.margin(validation[0]), is_unsafe(validation[1]))
    return JointHead(weights, bias, slope, intercept)


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
    aligned = _head(alignment, [*recommendations, OUT_OF_SCOPE])
    logits = validation[0] @ np.array(aligned.weights).T + np.array(aligned.bias)
    p_none = np.exp(logits[:, -1] - np.logaddexp.reduce(logits, axis=1))
    p_safe = joint.p_unsafe(validation[0])[~is_unsafe(validation[1])]
    unsafe = threshold(p_safe, settings.flagged_safe, 0.5)
    flagged = np.count_nonzero(p_safe >= unsafe) / max(len(p_safe), 1)
    return Classifier(
        joint=joint,
        alignment=aligned,
        category=_head(category, [str(c) for c in category[0]]),
        unsafe=unsafe,
        review=min(threshold(p_safe, flagged + settings.reviewed_safe, 0.05), unsafe),
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
