"""Near-duplicates: statements that teach nothing beside one that is already there.

Two statements are near-duplicates when they have the same recommendation, the same label, the same quantities and the
same number of negations, and their words nearly coincide: by MinHash (Broder 1997) over shingles of three words, or
by the cosine of their embeddings. Twins of the other label are the point of the corpus and are never compared; nor does
"200 mg" repeat "400 mg", "disproves" repeat "proves", or "A, then B" repeat "B, then A", however alike the words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from trainer.statements.claims import Claim, difference, opposed, read_claim
from trainer.types import Example

#: Texts -> embeddings, float [texts, dimensions]; need not have unit length.
Embed = Callable[[Sequence[str]], NDArray[np.floating]]

_SHINGLE = 3  # words
_PERMUTATIONS = 128  # of a MinHash; the error of its Jaccard estimate is about 1 / sqrt(128) = 0.09
#: LSH looks below the threshold by this much, since it estimates; what it finds is compared exactly.
_SLACK = 0.15


@dataclass(frozen=True)
class DuplicateSettings:
    """From which similarity on two statements are the same."""

    jaccard: float = 0.6  # of their sets of three-word shingles
    cosine: float = 0.97  # of their embeddings


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Statement `id` repeats statement `of`, which comes before it."""

    id: str
    of: str
    method: str  # "minhash" or "embedding"
    similarity: float

    @property
    def reason(self) -> str:
        """Say it to people."""
        return f"near-duplicate of {self.of} ({self.method} {self.similarity:.2f})"


@dataclass(frozen=True)
class Sketch:
    """A statement as MinHash sees it: its runs of three canonical words, and their signature."""

    shingles: frozenset[str]
    signature: MinHash

    def jaccard(self, other: Sketch) -> float:
        """Return the share of all shingles that both have, from 0 to 1."""
        return len(self.shingles & other.shingles) / max(len(self.shingles | other.shingles), 1)


@cache
def _empty() -> MinHash:
    return MinHash(num_perm=_PERMUTATIONS)


def sketch(claim: Claim) -> Sketch:
    """Return the sketch of a claim; one of fewer than three words is a shingle of its own."""
    words = claim.tokens
    runs = frozenset(" ".join(words[i : i + _SHINGLE]) for i in range(max(len(words) - _SHINGLE + 1, 1)))
    signature = _empty().copy()
    signature.update_batch([run.encode() for run in sorted(runs)])
    return Sketch(runs, signature)


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """Return bands and rows for a threshold; finding the best is slow, so it is done once."""
    lsh = MinHashLSH(threshold=max(threshold - _SLACK, 0.05), num_perm=_PERMUTATIONS)
    return lsh.b, lsh.r


class SketchIndex:
    """Finds which of the texts added so far are like a new one (MinHash LSH, then exact Jaccard similarity)."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
        self._sketches: dict[str, Sketch] = {}

    def add(self, key: str, text: Sketch) -> None:
        """Add a text under a key that was not used yet."""
        self._lsh.insert(key, text.signature)
        self._sketches[key] = text

    def alike(self, text: Sketch) -> list[tuple[float, str]]:
        """Return (similarity, key) of every text at or above the threshold, the most similar first."""
        found = ((text.jaccard(self._sketches[key]), key) for key in self._lsh.query(text.signature))
        return sorted(((s, key) for s, key in found if s >= self._threshold), key=lambda f: (-f[0], f[1]))


def _by_minhash(group: Sequence[Example], claims: Mapping[str, Claim], threshold: float) -> Iterator[Duplicate]:
    index = SketchIndex(threshold)
    for example in group:
        claim = claims[example.id]
        own = sketch(claim)
        found = next(((s, key) for s, key in index.alike(own) if _say_the_same(claims[key], claim)), None)
        if found:
            yield Duplicate(example.id, found[1], "minhash", found[0])
        else:
            index.add(example.id, own)


def _by_embedding(
    group: Sequence[Example], claims: Mapping[str, Claim], vectors: NDArray[np.floating], threshold: float
) -> Iterator[Duplicate]:
    kept: list[Example] = []
    kept_vectors = np.empty_like(vectors)
    for example, vector in zip(group, vectors, strict=True):
        similarity = kept_vectors[: len(kept)] @ vector
        near = sorted(np.flatnonzero(similarity >= threshold), key=lambda i: -similarity[i])
        same = next((i for i in near if _say_the_same(claims[kept[i].id], claims[example.id])), None)
        if same is not None:
            yield Duplicate(example.id, kept[same].id, "embedding", float(similarity[same]))
        else:
            kept_vectors[len(kept)] = vector
            kept.append(example)


def _say_the_same(one: Claim, other: Claim) -> bool:
    if one.numbers != other.numbers or one.negations != other.negations:
        return False
    gone, come = difference(one, other)
    reordered = not gone and not come and one.tokens != other.tokens  # "A, then B" and "B, then A"
    return not reordered and not opposed(gone, come)


def near_duplicates(
    examples: Sequence[Example],
    embed: Embed | None = None,
    settings: DuplicateSettings = DuplicateSettings(),
    claims: Mapping[str, Claim] | None = None,
) -> list[Duplicate]:
    """Return the statements that repeat an earlier one of the same recommendation and label, in corpus order.

    Without `embed` only MinHash is used. `claims` (by id) spares reading the statements again.
    """
    claims = claims or {e.id: read_claim(e.text) for e in examples}
    groups: dict[tuple[str | None, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.recommendation, example.label].append(example)
    found = {d.id: d for group in groups.values() for d in _by_minhash(group, claims, settings.jaccard)}
    if embed is not None:
        vectors = _unit_vectors(embed, [e.text for e in examples])
        position = {e.id: i for i, e in enumerate(examples)}
        for group in groups.values():
            rest = [e for e in group if e.id not in found]
            own = vectors[[position[e.id] for e in rest]]
            found |= {d.id: d for d in _by_embedding(rest, claims, own, settings.cosine)}
    return [found[e.id] for e in examples if e.id in found]


def _unit_vectors(embed: Embed, texts: Sequence[str]) -> NDArray[np.floating]:
    vectors = embed(texts)
    unit: NDArray[np.floating] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
