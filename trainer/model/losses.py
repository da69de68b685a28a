"""The training objectives, each with its paper. Embeddings are L2-normalised, fp32 [n, dim]; losses are scalars.

What counts as a positive is the caller's choice of `classes`. With positives by label alone the space collapses:
statements on the dose and on breastfeeding have nothing in common but being right. *Recommendation-aware* SupCon takes
`classes` = (recommendation, label), so that an anchor's hardest negatives are the wrong statements on its own
recommendation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

#: Similarity of what must not be chosen: beyond any cosine, but finite, so that its gradient is 0 and not NaN.
_FAR = 1e4


def _pairs(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are one row with itself, and which are positives of each other, bool [n, n]."""
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    return itself, (classes[:, None] == classes[None, :]) & ~itself


def _log_probabilities(
    embeddings: Tensor, itself: Tensor, temperature: float, hard: Tensor | None, hard_weight: float
) -> Tensor:
    """Return log( exp(z_i.z_a/tau) / sum over b != i of w_ib exp(z_i.z_b/tau) ), fp32 [n, n]; w is 1 but for `hard`."""
    similarity = (embeddings @ embeddings.T / temperature).masked_fill(itself, float("-inf"))
    weighted = similarity if hard is None else similarity + hard.to(similarity.dtype) * math.log(hard_weight)
    return similarity - weighted.logsumexp(dim=1, keepdim=True)


def supervised_contrastive(
    embeddings: Tensor,
    classes: Tensor,
    temperature: float,
    *,
    hard: Tensor | None = None,
    hard_weight: float = 1.0,
) -> Tensor:
    """SupCon with the sum over positives outside the logarithm: mean over the anchors that have a positive.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv:2004.11362), equation 2 (L_out):
    -1/|P(i)| * sum over p in P(i) of log( exp(z_i.z_p/tau) / sum over a != i of exp(z_i.z_a/tau) ).
    An anchor without positives is skipped, where a plain division would give NaN; 0 when no anchor has any.

    Args:
        embeddings: z, fp32 [n, dim], L2-normalised.
        classes: int64 [n]; rows of the same class are positives of each other.
        temperature: tau > 0.
        hard: bool [n, n], pairs whose part of the denominator is multiplied by `hard_weight`; after Robinson et al.,
            "Contrastive Learning with Hard Negative Samples", ICLR 2021 (arXiv:2010.04592), with hardness known from
            how a statement was made instead of guessed from similarity.
        hard_weight: > 0; 1 weighs all negatives alike.
    """
    itself, positives = _pairs(classes)
    counts = positives.sum(dim=1)
    anchors = counts > 0
    if not anchors.any():
        return embeddings.sum() * 0  # keeps the graph, so that backward() works on such a batch too
    log_p = _log_probabilities(embeddings, itself, temperature, hard, hard_weight)
    per_anchor = -log_p.masked_fill(~positives, 0).sum(dim=1)[anchors] / counts[anchors]
    return per_anchor.mean()


def supervised_contrastive_in(
    embeddings: Tensor,
    classes: Tensor,
    temperature: float,
    *,
    hard: Tensor | None = None,
    hard_weight: float = 1.0,
) -> Tensor:
    """SupCon with the sum over positives inside the logarithm; arguments as `supervised_contrastive`.

    Khosla et al. 2020, equation 3 (L_in): -log( 1/|P(i)| * sum over p in P(i) of exp(z_i.z_p/tau) / sum over a ... ).
    It is satisfied by one near positive, L_out by all of them; the paper finds L_out better.
    """
    itself, positives = _pairs(classes)
    counts = positives.sum(dim=1)
    anchors = counts > 0
    if not anchors.any():
        return embeddings.sum() * 0
    log_p = _log_probabilities(embeddings, itself, temperature, hard, hard_weight)[anchors]
    inside = log_p.masked_fill(~positives[anchors], float("-inf")).logsumexp(dim=1)
    return (counts[anchors].log() - inside).mean()


def batch_hard_triplet(embeddings: Tensor, classes: Tensor, margin: float) -> Tensor:
    """Triplet loss on each anchor's farthest positive and nearest negative; mean over anchors that have both.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017 (arXiv:1703.07737),
    with cosine distance in [0, 2] and a hinge at `margin` > 0.
    """
    itself, positives = _pairs(classes)
    negatives = ~positives & ~itself
    anchors = positives.any(dim=1) & negatives.any(dim=1)
    if not anchors.any():
        return embeddings.sum() * 0
    distance = 1 - embeddings @ embeddings.T
    farthest = distance.masked_fill(~positives, -_FAR).amax(dim=1)
    nearest = distance.masked_fill(~negatives, _FAR).amin(dim=1)
    return F.relu(farthest - nearest + margin)[anchors].mean()


def joint_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return cross-entropy over the joint classes (recommendation, label); logits fp32 [n, classes]."""
    return F.cross_entropy(logits, classes)
