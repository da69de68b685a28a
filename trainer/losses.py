"""The training objective: supervised contrastive loss, joined by cross-entropy.

SupCon: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv:2004.11362), equation 2 (L_out), with
positives defined as *same recommendation and same label*. With positives by label alone the space collapses: statements
on the dose and on breastfeeding have nothing in common but being right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor


def supervised_contrastive(embeddings: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return the mean loss over anchors that have a positive; 0 when none has.

    Args:
        embeddings: z, fp32 [n, dim], L2-normalised.
        classes: int64 [n]; rows of the same class are positives of each other.
        temperature: tau > 0.

    L = mean over i of  -1/|P(i)| * sum over p in P(i) of  log( exp(z_i.z_p/tau) / sum over a != i of exp(z_i.z_a/tau) )
    """
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    similarity = (embeddings @ embeddings.T / temperature).masked_fill(itself, float("-inf"))
    log_p = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positives = (classes[:, None] == classes[None, :]) & ~itself
    counts = positives.sum(dim=1)
    anchors = counts > 0
    if not anchors.any():
        return embeddings.sum() * 0  # keeps the graph, so that backward() works on such a batch too
    per_anchor = -log_p.masked_fill(~positives, 0).sum(dim=1)[anchors] / counts[anchors]
    return per_anchor.mean()


def joint_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return cross-entropy over the joint classes (recommendation, label); logits fp32 [n, classes]."""
    return F.cross_entropy(logits, classes)
