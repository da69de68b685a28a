"""A step of linear heads from the champion's weights: towards the decisions, and no further than they ask for.

A softmax regression is fitted on decisions and replayed statements with a Gaussian prior around the champion's weights
instead of around zero: the MAP estimate of Bayesian updating with an isotropic prior, the linear case of elastic weight
consolidation (Kirkpatrick et al., PNAS 2017, arXiv:1612.00796). The encoder stays as it is, so what the decisions do
not touch keeps its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from monitor.package import OUT_OF_SCOPE, LinearHead
from trainer.model.classifier import Classifier
from trainer.model.encoder import Floats, joint_classes
from trainer.model.heads import in_scope
from trainer.types import Example

Doubles = NDArray[np.float64]


def step(
    weights: Doubles, bias: Doubles, embeddings: Floats, classes: NDArray[np.int64], attraction: float
) -> tuple[Doubles, Doubles]:
    """Return weights [classes, dim] and bias [classes] that minimise cross-entropy + attraction / 2 |change|^2.

    Args:
        weights: of the champion, [classes, dim].
        bias: of the champion, [classes].
        embeddings: of what is learnt from, fp32 [n, dim]; rows that count more stand there more often.
        classes: of each, int64 [n].
        attraction: strength of the pull back to the champion.
    """
    if not len(classes):
        return weights, bias
    features = np.hstack([embeddings.astype(np.float64), np.ones((len(embeddings), 1))])
    start = np.hstack([weights, bias[:, None]])
    target = np.zeros((len(classes), len(start)))
    target[np.arange(len(classes)), classes] = 1.0

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        own = flat.reshape(start.shape)
        logits = features @ own.T
        moved = own - start
        value = -float(log_softmax(logits, axis=1)[np.arange(len(classes)), classes].sum())
        gradient = (softmax(logits, axis=1) - target).T @ features + attraction * moved
        return value + attraction / 2 * float((moved**2).sum()), gradient.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    result: Doubles = found.x.reshape(start.shape)
    return result[:, :-1], result[:, -1]


def update(
    champion: Classifier,
    embeddings: Floats,
    examples: Sequence[Example],
    recommendations: Sequence[str],
    attraction: float,
) -> Classifier | None:
    """Return the champion's heads after a step towards the examples; thresholds and calibration stay as they were.

    Both the head that scores and the alignment take it, since a wrong recommendation is a decision, too. None where the
    head has a hidden layer or one pair of classes for all: such a head is fitted anew.
    """
    joint = champion.joint
    if joint.hidden is not None or len(joint.weights) != 2 * len(recommendations):
        return None
    keep = in_scope(examples)
    classes = joint_classes([examples[i] for i in keep], recommendations)
    scored = step(joint.weights, joint.bias, embeddings[keep], classes, attraction)
    names = list(champion.alignment.classes)
    about = np.array([names.index(e.recommendation or OUT_OF_SCOPE) for e in examples], dtype=np.int64)
    aligned = step(*champion.alignment.arrays(), embeddings, about, attraction)
    alignment = LinearHead(
        classes=names, weights=np.round(aligned[0], 6).tolist(), bias=np.round(aligned[1], 6).tolist()
    )
    return replace(champion, joint=replace(joint, weights=scored[0], bias=scored[1]), alignment=alignment)
