"""Which recommendation does a statement speak about, if any, and in what respect?

In: embeddings of the encoder. Out: per statement the probability of each recommendation and of none, and the category
of the claim. Two small linear heads of the model package, a few microseconds a statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.package import OUT_OF_SCOPE, Doubles, Manifest, softmax
from monitor.types import Evidence


@dataclass(frozen=True, slots=True)
class Aligned:
    """Probabilities of n statements: `recommendations` fp64 [n, recommendations], `in_scope` fp64 [n] their sum;
    `categories` [n] the likeliest.
    """

    recommendations: Doubles
    in_scope: Doubles
    categories: list[str]


class Alignment:
    """Reads recommendation, scope and category off an embedding."""

    def __init__(self, manifest: Manifest) -> None:
        classes = manifest.alignment.classes
        self._categories = manifest.category.classes
        self._align, self._category = manifest.alignment.arrays(), manifest.category.arrays()
        self._none = classes.index(OUT_OF_SCOPE)
        #: Ids, in the order of the columns of `Aligned.recommendations`.
        self.ids = [name for name in classes if name != OUT_OF_SCOPE]
        guideline = manifest.guideline
        self._evidence = {
            r.id: Evidence(guideline.id, guideline.version, r.id, r.section, r.text) for r in manifest.recommendations
        }

    def evidence(self, recommendation: str) -> Evidence:
        """Return the recommendation as evidence."""
        return self._evidence[recommendation]

    def align(self, embeddings: NDArray[np.floating[Any]]) -> Aligned:
        """Return the probabilities of embeddings, [n, dim]."""
        if not len(embeddings):
            return Aligned(np.zeros((0, len(self.ids))), np.zeros(0), [])
        p = softmax(embeddings, *self._align)
        categories = softmax(embeddings, *self._category).argmax(axis=1)
        return Aligned(
            np.delete(p, self._none, axis=1), 1 - p[:, self._none], [self._categories[int(c)] for c in categories]
        )
