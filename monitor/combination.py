"""From what alignment, verifier, encoder and structured claims say to one probability. Pure.

A statement may be about several recommendations. With P(k) the alignment's probability of recommendation k, and the
verifier's P(neutral | k), P(contradicts | k) when it reads k beside the statement:

    weight(k)  = P(k) (1 - P(neutral | k)), normalised over the candidates
    mixture    = sum over k of weight(k) P(contradicts | k) / (1 - P(neutral | k))

never the maximum: a statement "contradicts" rules that it is not about (F1 0.84 fell to 0.70 with it). The log-odds of
the mixture are stacked with the encoder's own and with what the structured readings of claim and recommendation agree
and conflict in (a margin of its own, fitted on the training split) by a logistic regression that is fitted on held-out
families. Whether the statement is about the guideline at all is a second regression, on how sure alignment and verifier
are of that; it decides what is judged, and does not lower the score of what is: the product of both ranked statements
in scope worse (AUC 0.876 against 0.883) and kept no more of the others out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitor import claims
from monitor.claims import Claim, Comparison
from monitor.package import LogisticSpec

Doubles = NDArray[np.float64]

#: Probabilities are kept this far from 0 and 1 before their log-odds are taken.
_EDGE = 0.003
MODEL_FEATURES = ("verifier", "encoder", "scope", "relevance", "certainty")
FEATURES = (*MODEL_FEATURES, "claims")
#: Whether a statement is about the guideline at all.
SCOPE_FEATURES = ("scope", "relevance", "certainty")


def log_odds(p: Doubles) -> Doubles:
    """Return log p / (1 - p), p kept away from 0 and 1."""
    inside = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


@dataclass(frozen=True)
class Readings:
    """What was read of n statements beside their candidates; candidates beyond a statement's own have alignment 0.

    `alignment`, `contradicts`, `neutral` fp64 [n, k]; `encoder`, the encoder's P(unsafe), and `in_scope`, the
    alignment's P(about a recommendation), fp64 [n]; `claims`, the margin of the structured readings, fp64 [n, k].
    """

    alignment: Doubles
    contradicts: Doubles
    neutral: Doubles
    encoder: Doubles
    in_scope: Doubles
    claims: Doubles

    def relevance(self) -> Doubles:
        """Return P(k) (1 - P(neutral | k)), fp64 [n, k]."""
        return self.alignment * (1 - self.neutral)

    def weights(self) -> Doubles:
        """Return the share of each candidate in the mixture, fp64 [n, k]; rows sum to 1."""
        relevance = self.relevance() + 1e-9 * (self.alignment > 0)
        return np.asarray(relevance / np.maximum(relevance.sum(axis=1, keepdims=True), 1e-12))

    def conditional(self) -> Doubles:
        """Return P(contradicts | k, about k), fp64 [n, k]."""
        return np.clip(self.contradicts / np.maximum(1 - self.neutral, 1e-6), 0, 1)

    def mixture(self) -> Doubles:
        """Return the mixture, fp64 [n]."""
        return np.asarray((self.weights() * self.conditional()).sum(axis=1))

    def features(self) -> Doubles:
        """Return what the regressions read, fp64 [n, len(FEATURES)]."""
        weights = self.weights()
        return np.stack(
            [
                log_odds(self.mixture()),
                log_odds(self.encoder),
                log_odds(self.in_scope),
                log_odds(self.relevance().sum(axis=1)),
                log_odds(weights.max(axis=1, initial=0)),
                (weights * self.claims).sum(axis=1),
            ],
            axis=1,
        )


def claim_margin(spec: LogisticSpec, comparison: Comparison) -> float:
    """Return what the structured reading says for itself: log-odds of a contradiction; 0 where nothing was read."""
    values = comparison.features
    if not any(values):
        return 0.0
    columns = [claims.FEATURES.index(name) for name in spec.features]
    return float(sum(w * values[c] for w, c in zip(spec.weights, columns, strict=True)) + spec.intercept)


def apply(spec: LogisticSpec, features: Doubles) -> Doubles:
    """Return probabilities, fp64 [n], of features, fp64 [n, len(FEATURES)]."""
    columns = [FEATURES.index(name) for name in spec.features]
    margin = features[:, columns] @ np.asarray(spec.weights, dtype=np.float64) + spec.intercept
    return np.asarray(1 / (1 + np.exp(-np.clip(margin, -60, 60))))


def choose_candidates(aligned: Doubles, most: int, mass: float) -> list[list[int]]:
    """Return the recommendations to try for each row of P(recommendation), fp64 [n, recommendations], best first.

    As many as it takes to cover `mass` of what the alignment gives to recommendations, at most `most`.
    """
    order = np.argsort(-aligned, axis=1, kind="stable")[:, :most]
    ranked = np.take_along_axis(aligned, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    total = np.maximum(aligned.sum(axis=1, keepdims=True), 1e-12)
    return [row[keep].tolist() for row, keep in zip(order, before < mass * total, strict=True)]


def evidence_index(weights: Doubles, conditional: Doubles, *, unsafe: bool) -> int:
    """Return which candidate carries the verdict of one statement, [k] twice: of an unsafe one that which it breaks."""
    return int(np.argmax(weights * conditional if unsafe else weights))


def gather(
    aligned: Doubles,
    in_scope: Doubles,
    encoder: Doubles,
    candidates: Sequence[Sequence[int]],
    found: Doubles,
    rules: Sequence[Claim],
    statements: Sequence[Claim],
    weighing: LogisticSpec,
) -> Readings:
    """Put together what was read of n statements.

    Args:
        aligned: P(recommendation), fp64 [n, recommendations].
        in_scope: P(about a recommendation), fp64 [n].
        encoder: the encoder's P(unsafe), fp64 [n].
        candidates: indices of the recommendations that each statement was read beside.
        found: P(contradicts) and P(neutral) of those pairs, in their order, fp64 [pairs, 2].
        rules: structured readings of the recommendations.
        statements: structured readings of the statements, n.
        weighing: what the comparison of two structured readings is worth.
    """
    n, width = len(candidates), max(map(len, candidates), default=0)
    alignment, contradicts, neutral = (np.zeros((n, width)) for _ in range(3))
    compared = np.zeros((n, width))
    row = 0
    for i, own in enumerate(candidates):
        k = len(own)
        alignment[i, :k] = aligned[i, list(own)]
        contradicts[i, :k], neutral[i, :k] = found[row : row + k, 0], found[row : row + k, 1]
        for j, rule in enumerate(own):
            compared[i, j] = claim_margin(weighing, claims.compare(rules[rule], statements[i]))
        row += k
    return Readings(alignment, contradicts, neutral, encoder, in_scope, compared)
