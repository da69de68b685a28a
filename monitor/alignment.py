"""Which recommendation does a statement speak about, if any, and in what respect?

In: embeddings of the encoder. Out: per statement the most likely recommendation, the probability that there is one at
all, and the category of the claim. Two small linear heads of the model package, a few microseconds a statement.
"""

from __future__ import annotations

from monitor.package import OUT_OF_SCOPE, Manifest, softmax
from monitor.types import Evidence, ModelScores, StatementScore

#: Sums of floats depend on who else is in the batch, in the seventh digit or so. A redelivered message should get the
#: same verdict, so what is judged and published is rounded.
_DIGITS = 4


class Alignment:
    """Reads recommendation, scope and category off an embedding."""

    def __init__(self, manifest: Manifest) -> None:
        self._recommendations = manifest.alignment.classes
        self._categories = manifest.category.classes
        self._align, self._category = manifest.alignment.arrays(), manifest.category.arrays()
        self._none = self._recommendations.index(OUT_OF_SCOPE)
        guideline = manifest.guideline
        self._evidence = {
            r.id: Evidence(guideline.id, guideline.version, r.id, r.section, r.text) for r in manifest.recommendations
        }

    def evidence(self, recommendation: str) -> Evidence:
        """Return the recommendation as evidence."""
        return self._evidence[recommendation]

    def read(self, scores: ModelScores) -> list[StatementScore]:
        """Return one score per row of `scores`."""
        if not len(scores.p_unsafe):
            return []
        aligned = softmax(scores.embeddings, *self._align)
        p_none = aligned[:, self._none].copy()
        aligned[:, self._none] = -1  # never the best, even when the others underflow to 0
        best = aligned.argmax(axis=1)
        categories = softmax(scores.embeddings, *self._category).argmax(axis=1)
        return [
            StatementScore(
                # The encoder's probability takes for granted that a recommendation is spoken about: it was calibrated
                # on such statements only.
                p_unsafe=round(float(p * (1 - none)), _DIGITS),
                p_in_scope=round(float(1 - none), _DIGITS),
                recommendation=self._recommendations[int(b)],
                p_recommendation=float(row[b]),
                category=self._categories[int(c)],
            )
            for p, none, b, row, c in zip(scores.p_unsafe, p_none, best, aligned, categories, strict=True)
        ]
