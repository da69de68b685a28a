"""Heads: embeddings -> one margin a statement, positive where it looks unsafe; and which head is the best.

Five candidates, all from scikit-learn. `joint` is a logistic regression over (recommendation, label), whose unsafe
share is the score: one hyperplane for all recommendations (`plain`, `svm`) would have to separate "200 mg" from
"400 mg" and "may" from "must not" at once. `mlp` puts a hidden layer under the same classes. All four are one formula,
`JointHead`, and go into the ONNX graph by `HeadModule`; `knn` would need the training embeddings there, so it is
compared only.

They are compared on the training split, whole families held out. The encoder was trained on those families, so the
level of the figures is far too high, for all candidates alike; only their order is used.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from trainer.model.calibration import Calibration, Knots
from trainer.model.encoder import Floats, joint_classes
from trainer.settings import ClassifierSettings
from trainer.statements.corpus import groups
from trainer.types import Example, Label

Doubles = NDArray[np.float64]

#: Bias of a class that no training statement has: it never wins.
NEVER = -1e4
#: The hidden layer of the MLP, its epochs and its L2 penalty: seconds for 6,000 statements on one core.
_HIDDEN, _EPOCHS, _PENALTY = 128, 40, 1e-3
_SVM_C = 1.0  # inverse L2 strength
_NEIGHBOURS = 15


def is_unsafe(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Return which examples are unsafe, bool [n]."""
    return np.array([e.label is Label.UNSAFE for e in examples], dtype=bool)


def in_scope(examples: Sequence[Example]) -> list[int]:
    """Return the indices of the examples that a recommendation is about."""
    return [i for i, e in enumerate(examples) if e.label is not Label.OUT_OF_SCOPE]


def family_groups(examples: Sequence[Example]) -> list[str]:
    """Return the group that each example is held out with: its family and those that share a text with it."""
    of = groups(examples)
    return [of[e.family] for e in examples]


class Head(Protocol):
    """What scores statements."""

    def margin(self, embeddings: Floats) -> Doubles:
        """Return the uncalibrated margin of unsafe over safe, fp64 [n], for embeddings fp32 [n, dim]."""


@dataclass(frozen=True)
class Hidden:
    """A layer of rectified units under the classes: `weights` [units, dim], `bias` [units]."""

    weights: Doubles
    bias: Doubles


@dataclass(frozen=True)
class JointHead:
    """Softmax over C pairs of (safe, unsafe) classes, with calibration: `weights` [2C, dim], `bias` [2C], safe first.

    A pair is a recommendation, or there is one pair for all. `dim` is that of the embedding, or of `hidden`. `slope`,
    `intercept` and `knots` are its `Calibration`.
    """

    weights: Doubles
    bias: Doubles
    slope: float = 1.0
    intercept: float = 0.0
    knots: Knots = ()
    hidden: Hidden | None = None

    @property
    def calibration(self) -> Calibration:
        """From margin to probability."""
        return Calibration(self.slope, self.intercept, self.knots)

    def margin(self, embeddings: Floats) -> Doubles:
        """Return the uncalibrated log-odds of unsafe, fp64 [n]: log sum exp over unsafe minus over safe classes."""
        features = embeddings.astype(np.float64)
        if self.hidden is not None:
            features = np.maximum(features @ self.hidden.weights.T + self.hidden.bias, 0)
        logits = features @ self.weights.T + self.bias
        return np.asarray(np.logaddexp.reduce(logits[:, 1::2], axis=1) - np.logaddexp.reduce(logits[:, 0::2], axis=1))

    def p_unsafe(self, embeddings: Floats) -> Doubles:
        """Return calibrated probabilities, fp64 [n]."""
        return self.calibration.probabilities(self.margin(embeddings))


@dataclass(frozen=True)
class NeighbourHead:
    """The share of unsafe ones among the nearest training statements by cosine, nearer ones weighing more."""

    model: KNeighborsClassifier

    def margin(self, embeddings: Floats) -> Doubles:
        """Return the log-odds of the weighted share, fp64 [n]."""
        share = self.model.predict_proba(embeddings)[:, 1]
        return np.asarray(logit(np.clip(share, 1e-6, 1 - 1e-6)))


class HeadModule(nn.Module):
    """`JointHead.margin` in torch, for the graph: fp32 [batch, dim] -> fp32 [batch]."""

    def __init__(self, head: JointHead) -> None:
        super().__init__()
        self.hidden = linear(head.hidden.weights, head.hidden.bias) if head.hidden is not None else None
        self.safe = linear(head.weights[0::2], head.bias[0::2])
        self.unsafe = linear(head.weights[1::2], head.bias[1::2])

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return uncalibrated margins."""
        features = embeddings if self.hidden is None else self.hidden(embeddings).relu()
        unsafe: Tensor = self.unsafe(features).logsumexp(dim=1)
        safe: Tensor = self.safe(features).logsumexp(dim=1)
        return unsafe - safe


def linear(weights: Doubles, bias: Doubles) -> nn.Linear:
    """Return a layer with these weights [out, in] and bias [out]."""
    layer = nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def softmax_regression(embeddings: Floats, classes: Sequence[Any], c: float) -> tuple[list[Any], Doubles, Doubles]:
    """Return the classes that occur, weights [classes, dim] and bias [classes] of a softmax regression."""
    found = sorted(set(classes))
    if len(found) == 1:
        return found, np.zeros((1, embeddings.shape[1])), np.zeros(1)
    with warnings.catch_warnings():
        # Two classes a recommendation are many where a corpus is small; scikit-learn then takes them for numbers.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model = LogisticRegression(C=c, max_iter=500).fit(embeddings, classes)
    return list(model.classes_), *_both(model.coef_, model.intercept_)


def _both(weights: Doubles, bias: Doubles) -> tuple[Doubles, Doubles]:
    """Return one row a class: of two classes scikit-learn gives the log-odds of the second only."""
    rows, biases = weights.astype(np.float64), bias.astype(np.float64)
    if len(rows) > 1:
        return rows, biases
    return np.vstack([np.zeros_like(rows), rows]), np.concatenate([[0.0], biases])


def _spread(known: Any, weights: Doubles, bias: Doubles, recommendations: int) -> tuple[Doubles, Doubles]:
    """Return weights and bias of all (recommendation, label) classes; those that never occurred never win."""
    every = np.zeros((2 * recommendations, weights.shape[1]))
    biases = np.full(2 * recommendations, NEVER)
    every[known], biases[known] = weights, bias
    return every, biases


@dataclass(frozen=True)
class Rows:
    """Statements to learn from: `embeddings` [n, dim] and `classes` [n], 2 x recommendation + (1 where unsafe)."""

    embeddings: Floats
    classes: NDArray[np.int64]
    recommendations: int

    @classmethod
    def of(cls, embeddings: Floats, examples: Sequence[Example], recommendations: Sequence[str]) -> Rows:
        """Return the rows of examples in scope."""
        return cls(embeddings, joint_classes(examples, recommendations), len(recommendations))

    @property
    def unsafe(self) -> NDArray[np.bool_]:
        """Which are unsafe, bool [n]."""
        return np.asarray(self.classes % 2 == 1)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return some of them."""
        return Rows(self.embeddings[rows], self.classes[rows], self.recommendations)


def fit_joint(rows: Rows, settings: ClassifierSettings) -> JointHead:
    """Fit a logistic regression over (recommendation, label)."""
    known, weights, bias = softmax_regression(rows.embeddings, rows.classes.tolist(), settings.joint_c)
    return JointHead(*_spread(known, weights, bias, rows.recommendations))


def fit_plain(rows: Rows, settings: ClassifierSettings) -> JointHead:
    """Fit one hyperplane for all recommendations, by logistic regression."""
    model = LogisticRegression(C=settings.joint_c, max_iter=500).fit(rows.embeddings, rows.unsafe)
    return JointHead(*_both(model.coef_, model.intercept_))


def fit_svm(rows: Rows, settings: ClassifierSettings) -> JointHead:
    """Fit one hyperplane for all recommendations, as a linear support vector machine; calibration scales its margin."""
    with _fixed_budget():
        model = LinearSVC(C=_SVM_C, max_iter=2000, random_state=settings.seed).fit(rows.embeddings, rows.unsafe)
    return JointHead(*_both(model.coef_, model.intercept_))


def fit_mlp(rows: Rows, settings: ClassifierSettings) -> JointHead:
    """Fit one hidden layer under the (recommendation, label) classes."""
    model = MLPClassifier(
        (_HIDDEN,),
        alpha=_PENALTY,
        batch_size=min(128, len(rows.classes)),
        learning_rate_init=2e-3,
        max_iter=_EPOCHS,
        random_state=settings.seed,
    )
    with _fixed_budget():
        model.fit(rows.embeddings.astype(np.float64), rows.classes)
    (first, last), (first_bias, last_bias) = model.coefs_, model.intercepts_
    head = _spread(model.classes_, *_both(last.T, last_bias), rows.recommendations)
    return JointHead(*head, hidden=Hidden(first.T, first_bias))


def fit_neighbours(rows: Rows, settings: ClassifierSettings) -> NeighbourHead:  # noqa: ARG001
    """Keep the training statements as they are."""
    neighbours = min(_NEIGHBOURS, len(rows.classes))
    model = KNeighborsClassifier(neighbours, weights="distance", metric="cosine", algorithm="brute")
    return NeighbourHead(model.fit(rows.embeddings, rows.unsafe))


@contextmanager
def _fixed_budget() -> Iterator[None]:
    """The iterations are what is spent, converged or not: the comparison judges what came of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


#: Those that the graph can hold, in the order of preference where none is better than another.
EXPORTABLE: dict[str, Callable[[Rows, ClassifierSettings], JointHead]] = {
    "joint": fit_joint,
    "plain": fit_plain,
    "svm": fit_svm,
    "mlp": fit_mlp,
}
CANDIDATES: dict[str, Callable[[Rows, ClassifierSettings], Head]] = {**EXPORTABLE, "knn": fit_neighbours}


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """Cross-validated figures of one candidate: mean and standard deviation over folds, F1 at margin 0."""

    name: str
    auc: float
    auc_std: float
    f1: float
    folds: int
    seconds: float
    exportable: bool


def compare(
    embeddings: Floats, examples: Sequence[Example], recommendations: Sequence[str], settings: ClassifierSettings
) -> list[CandidateScore]:
    """Return the cross-validated scores of all candidates on the training split, the best first.

    Out-of-scope statements are left out. Empty where two folds with both labels cannot be made.
    """
    keep = in_scope(examples)
    scoped = [examples[i] for i in keep]
    rows = Rows.of(embeddings[keep], scoped, recommendations)
    folds = held_out_folds(rows.unsafe, family_groups(scoped), settings.folds, settings.seed)
    if len(folds) < 2:
        return []
    return sorted((_score(name, rows, folds, settings) for name in CANDIDATES), key=lambda score: -score.auc)


Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def held_out_folds(unsafe: NDArray[np.bool_], held_with: Sequence[str], folds: int, seed: int) -> Folds:
    """Return (rest, part) indices of cross-validation with whole groups held out and both labels on either side.

    Fewer than `folds` where there are fewer groups of a label; none where there are less than two.
    """
    names = np.array(held_with)
    folds = min(folds, *(len(set(names[unsafe == label])) for label in (False, True)))
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [
        (rest, part)
        for rest, part in splitter.split(names, unsafe, names)
        if all(0 < unsafe[side].sum() < len(side) for side in (rest, part))
    ]


def _score(name: str, rows: Rows, folds: Folds, settings: ClassifierSettings) -> CandidateScore:
    started = time.perf_counter()
    aucs, f1s = [], []
    for rest, part in folds:
        margins = CANDIDATES[name](rows.take(rest), settings).margin(rows.embeddings[part])
        aucs.append(roc_auc_score(rows.unsafe[part], margins))
        f1s.append(f1_score(rows.unsafe[part], margins >= 0))
    return CandidateScore(
        name=name,
        auc=round(float(np.mean(aucs)), 4),
        auc_std=round(float(np.std(aucs, ddof=1)), 4),
        f1=round(float(np.mean(f1s)), 4),
        folds=len(folds),
        seconds=round(time.perf_counter() - started, 2),
        exportable=name in EXPORTABLE,
    )


def choose(scores: Sequence[CandidateScore]) -> str:
    """Return the head to serve: the first of `EXPORTABLE` within one standard error of the best of them.

    The one-standard-error rule (Breiman et al. 1984): what chance could have put ahead does not replace `joint`.
    """
    by_name = {s.name: s for s in scores if s.exportable}
    if not by_name:
        return next(iter(EXPORTABLE))
    best = max(by_name.values(), key=lambda s: s.auc)
    least = best.auc - best.auc_std / best.folds**0.5
    return next(name for name in EXPORTABLE if name in by_name and by_name[name].auc >= least)
