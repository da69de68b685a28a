"""From normalised statements to scores: encode, align, verify what is worth it, combine.

The fast path is the encoder alone. A package with a verifier reads the likeliest recommendations beside each statement
that the alignment takes to be about one, and stacks what it finds (`monitor.combination`). The two ports that it needs
are declared here; `encoding` satisfies them over ONNX Runtime or Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monitor import claims, metrics
from monitor.alignment import Aligned, Alignment
from monitor.combination import apply, choose_candidates, evidence_index, gather
from monitor.package import CombinationSpec, Manifest
from monitor.tracing import stage
from monitor.types import Evidence, ModelScores, StatementScore

#: Sums of floats depend on who else is in the batch, in the seventh digit or so. A redelivered message should get the
#: same verdict, so what is judged and published is rounded.
_DIGITS = 4
#: From here on the evidence is the recommendation that is broken, below it the one that the statement is about.
_EVEN = 0.5


class Scorer(Protocol):
    """The encoder. Fails closed: `ScorerUnavailable` means no verdict, not a safe one."""

    async def score(self, texts: Sequence[str]) -> ModelScores:
        """Return embeddings and calibrated probabilities of `texts`, in order."""
        ...

    async def close(self) -> None:
        """Release what the scorer holds."""
        ...


class Verifier(Protocol):
    """The cross-encoder. Fails closed, as `Scorer` does."""

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return P(contradicts) and P(neutral) of (recommendation, statement) pairs, fp32 [n, 2], in order."""
        ...

    async def close(self) -> None:
        """Release what the verifier holds."""
        ...


class Assessment:
    """Scores statements with one model package."""

    def __init__(self, manifest: Manifest, scorer: Scorer, verifier: Verifier | None) -> None:
        """Use the verifier where there is one and the manifest says how to combine it; else the encoder alone."""
        self.alignment = Alignment(manifest)
        self._scorer = scorer
        self._verifier = verifier if manifest.combination else None
        self._spec = manifest.combination
        texts = {r.id: r.text for r in manifest.recommendations}
        self._texts = [texts[name] for name in self.alignment.ids]
        self._claims = [claims.read(text) for text in self._texts]

    @property
    def path(self) -> str:
        """How scores come about; scores of one path say nothing of the other's."""
        return "verified" if self._verifier is not None else "fast"

    def evidence(self, recommendation: str) -> Evidence:
        """Return a recommendation as evidence."""
        return self.alignment.evidence(recommendation)

    def reason(self, recommendation: str, text: str) -> str | None:
        """Return what of a text differs from a recommendation; none on the fast path, which reads neither."""
        if self._verifier is None:
            return None
        own = self._claims[self.alignment.ids.index(recommendation)]
        return _reason(claims.compare(own, claims.read(text)))

    async def assess(self, texts: Sequence[str]) -> list[StatementScore]:
        """Return one score a text, in order.

        Raises:
            ScorerUnavailable: encoder or verifier does not answer now.
            ScorerFailed: one of them answered with an error or nonsense.
            ModelMismatch: one of them is another model than the package's.
        """
        with stage("encode", len(texts)):
            scores = await self._scorer.score(texts)
        aligned = self.alignment.align(scores.embeddings)
        fast = self._fast(aligned, scores)
        if self._verifier is None or self._spec is None:
            return fast
        # What the alignment is sure to be about nothing stays unread: reading it could not change the verdict.
        worth = np.flatnonzero(aligned.in_scope >= self._spec.verify_from).tolist()
        metrics.VERIFIED.labels("read").inc(len(worth))
        metrics.VERIFIED.labels("skipped").inc(len(texts) - len(worth))
        result = [_outside(score) for score in fast]
        own = [texts[i] for i in worth]
        verified = await self._verified(self._spec, self._verifier, own, _take(aligned, worth), scores.p_unsafe[worth])
        for i, score in zip(worth, verified, strict=True):
            result[i] = score
        return result

    def _fast(self, aligned: Aligned, scores: ModelScores) -> list[StatementScore]:
        best = aligned.recommendations.argmax(axis=1) if len(scores.p_unsafe) else []
        return [
            StatementScore(
                # The encoder's probability takes for granted that a recommendation is spoken about: it was calibrated
                # on such statements only.
                p_unsafe=round(float(p * inside), _DIGITS),
                p_in_scope=round(float(inside), _DIGITS),
                recommendation=self.alignment.ids[int(b)],
                p_recommendation=float(row[b]),
                category=category,
            )
            for p, inside, b, row, category in zip(
                scores.p_unsafe, aligned.in_scope, best, aligned.recommendations, aligned.categories, strict=True
            )
        ]

    async def _verified(
        self,
        spec: CombinationSpec,
        verifier: Verifier,
        texts: Sequence[str],
        aligned: Aligned,
        p_unsafe: NDArray[np.float32],
    ) -> list[StatementScore]:
        """Read each text beside its candidates, and combine what was found."""
        candidates = choose_candidates(aligned.recommendations, spec.candidates, spec.mass)
        pairs = [(self._texts[k], text) for text, own in zip(texts, candidates, strict=True) for k in own]
        with stage("verify", len(pairs)):
            found = await verifier.verify(pairs) if pairs else np.zeros((0, 2), dtype=np.float32)
        stated = [claims.read(text) for text in texts]
        readings = gather(
            aligned.recommendations,
            aligned.in_scope,
            p_unsafe.astype(np.float64),
            candidates,
            found.astype(np.float64),
            self._claims,
            stated,
            spec.claims,
        )
        features = readings.features()
        unsafe, inside = apply(spec.unsafe, features), apply(spec.scope, features)
        weights, conditional = readings.weights(), readings.conditional()
        scores = []
        for i, own in enumerate(candidates):
            best = evidence_index(weights[i, : len(own)], conditional[i, : len(own)], unsafe=unsafe[i] >= _EVEN)
            compared = claims.compare(self._claims[own[best]], stated[i])
            scores.append(
                StatementScore(
                    p_unsafe=round(float(unsafe[i]), _DIGITS),
                    p_in_scope=round(float(inside[i]), _DIGITS),
                    recommendation=self.alignment.ids[own[best]],
                    p_recommendation=float(weights[i, best]),
                    category=compared.category or aligned.categories[i],
                    reason=_reason(compared),
                )
            )
        return scores

    async def close(self) -> None:
        """Release scorer and verifier."""
        await self._scorer.close()
        if self._verifier is not None:
            await self._verifier.close()


def _reason(compared: claims.Comparison) -> str | None:
    return compared.mismatches[0].reason() if compared.mismatches else None


def _take(aligned: Aligned, rows: list[int]) -> Aligned:
    return Aligned(aligned.recommendations[rows], aligned.in_scope[rows], [aligned.categories[i] for i in rows])


def _outside(score: StatementScore) -> StatementScore:
    """Return the score of a statement that was not read: out of scope, whatever the threshold."""
    return StatementScore(0.0, 0.0, score.recommendation, score.p_recommendation, score.category)
