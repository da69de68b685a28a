"""Stage `passages`: guideline documents -> passages, and the hybrid index that finds them again.

A passage is up to three sentences of one section, at its offsets in the document; neighbours share a sentence, so that
any two sentences that stand together are found together. Two rankings see every query: BM25 (Lucene's variant, by
bm25s) knows drug names, numbers and units to the letter; embeddings know paraphrases. Reciprocal rank fusion joins
them without scales to tune (Cormack, Clarke and Buettcher, SIGIR 2009). `measure_recall` says how often the right
recommendation of a statement comes first, or among the first ten. The index is built from `passages.jsonl` when it is
needed: a guideline has hundreds of passages, and embedding them takes about a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from monitor.segmentation import segment
from monitor.text import normalise
from trainer.artifacts import RunFolder, read_rows, write_rows
from trainer.errors import CorpusError, PackError, StageMissing
from trainer.evaluation.measures import draws, estimate, share
from trainer.guideline.documents import blocks, sections
from trainer.guideline.guidelines import SourceSpec
from trainer.settings import EvaluationSettings
from trainer.types import Example, Label, Metric, Passage, Recommendation

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Embeds texts: fp32 [n, dim], in their order. `trainer.model.encoder.Embedder.embed` is one.
Embed = Callable[[Sequence[str]], Floats]
#: (ordinal of the document from 0, offset in it) -> page from 1, None where the document has no pages.
PageOf = Callable[[int, int], int | None]

#: The constant of reciprocal rank fusion. The paper has 60, for rankings of a thousand documents; among the dozens of a
#: guideline first ranks have to count for more. Chosen on the validation split: recall@5 0.88, with 60 it is 0.85.
RRF_K = 5
_SENTENCES = 3  # of a passage, at most
_CHARS = 600  # of a passage of several sentences: what an encoder of 256 tokens reads without cutting
_QUERIES = 256  # ranked together
_DEPTHS = (1, 3, 5, 10)

#: Numbers apart from the units that follow them ("200mg" as "200 mg"), everything else that a word character joins
#: ("q24h", "egfr", "cyp3a4") in one piece, and units of two parts ("mg/kg") too.
_TOKEN = r"\d+(?:\.\d+)?|(?:mg|mcg|g|ml|l|iu|units?|mmol)/(?:kg|min|ml|l|dl|day|h|hour)\b|%|[^\W\d_]\w*"  # noqa: S105


def s_stem(word: str) -> str:
    """Return an English word without the ending of its plural (the S stemmer of Harman, JASIS 42, 1991)."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 2:
        return word[:-1]
    return word


def tokenize(texts: Sequence[str]) -> list[list[str]]:
    """Return the tokens by which BM25 compares texts: lower case, English stop words out, plurals as singulars."""
    return [
        [s_stem(token) for token in tokens]
        for tokens in bm25s.tokenize(
            [normalise(text) for text in texts],
            token_pattern=_TOKEN,
            stopwords="en",
            return_ids=False,
            show_progress=False,
        )
    ]


#: One line for the segmentation, at the same offsets.
_UNFOLDED = str.maketrans("\n\r", "  ")


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Return the spans of a text's sentences, list items and table rows; one may run over lines that were wrapped."""
    return [
        (block_start + statement.start, block_start + statement.end)
        for block_start, block_end in blocks(text)
        for statement in segment(text[block_start:block_end].translate(_UNFOLDED))
    ]


def _windows(sentences: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield first and last sentence of each passage; a passage begins with the last sentence of the one before."""
    first = 0
    while first < len(sentences):
        last = first
        while (
            last + 1 < len(sentences)
            and last - first + 1 < _SENTENCES
            and sentences[last + 1][1] - sentences[first][0] <= _CHARS
        ):
            last += 1
        yield first, last
        if last + 1 == len(sentences):
            return
        first = max(last, first + 1)


def passages(
    documents: Sequence[tuple[SourceSpec, str]], page_of: PageOf = lambda _document, _offset: None
) -> list[Passage]:
    """Cut documents into passages, in document order; `text == document[start:end]` for each.

    An id names section and ordinal ("2.1-p1"), with several documents the document's ordinal before them
    ("d2:2.1-p1"). Every sentence lies in at least one passage.
    """
    result = []
    for ordinal, (source, document) in enumerate(documents):
        prefix = f"d{ordinal + 1}:" if len(documents) > 1 else ""
        seen: Counter[str] = Counter()  # two sections of one number share a sequence of ordinals
        for section in sections(document):
            sentences = sentences_of(section.body)
            for first, last in _windows(sentences):
                seen[section.number] += 1
                start, end = section.start + sentences[first][0], section.start + sentences[last][1]
                result.append(
                    Passage(
                        id=f"{prefix}{section.number}-p{seen[section.number]}",
                        source=source.name,
                        version=source.version,
                        section=section.number,
                        heading=section.title,
                        text=document[start:end],
                        start=start,
                        end=end,
                        page=page_of(ordinal, start),
                    )
                )
    return result


def overlaps(passage: Passage, recommendation: Recommendation) -> bool:
    """Tell whether a passage has at least one character of a recommendation's quote."""
    return (
        passage.source == recommendation.source
        and passage.start < recommendation.end
        and recommendation.start < passage.end
    )


class LexicalIndex:
    """BM25 over texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        tokens = tokenize(texts)
        self._size = len(texts)
        self._bm25 = bm25s.BM25(method="lucene", backend="numpy") if any(tokens) else None
        if self._bm25 is not None:
            self._bm25.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Floats:
        """Return BM25 scores, fp32 [queries, texts]; 0 where a text shares no token with the query."""
        result = np.zeros((len(queries), self._size), dtype=np.float32)
        if self._bm25 is not None:
            for row, tokens in zip(result, tokenize(queries), strict=True):
                if known := self._bm25.get_tokens_ids(tokens):
                    row[:] = self._bm25.get_scores_from_ids(known)
        return result


class DenseIndex:
    """Cosine similarity of embeddings."""

    def __init__(self, texts: Sequence[str], embed: Embed) -> None:
        self._vectors = embed_unit(texts, embed) if texts else None

    def scores(self, queries: Floats) -> Floats:
        """Return cosines, fp32 [queries, texts], of unit vectors [queries, dim]."""
        if self._vectors is None:
            return np.zeros((len(queries), 0), dtype=np.float32)
        return queries @ self._vectors.T


def embed_unit(texts: Sequence[str], embed: Embed) -> Floats:
    """Return embeddings of length one, fp32 [n, dim]; an embedding of zeros stays one."""
    vectors = np.asarray(embed(texts), dtype=np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def ranks(scores: Floats | Doubles, above: float = -np.inf) -> Doubles:
    """Return the rank, from 1, of each column in its row, [queries, texts]; equal scores rank in their order.

    A score that is not greater than `above` is not ranked: infinity.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    result = np.empty(scores.shape, dtype=np.float64)
    np.put_along_axis(result, order, np.arange(1.0, scores.shape[1] + 1)[None, :], axis=1)
    result[scores <= above] = np.inf
    return result


def reciprocal_rank_fusion(rankings: Iterable[Doubles], k: float = RRF_K) -> Doubles:
    """Return the sum of `1 / (k + rank)` over rankings of one shape (Cormack, Clarke and Buettcher, SIGIR 2009).

    An infinite rank adds nothing.
    """
    return np.asarray(np.sum([1.0 / (k + ranking) for ranking in rankings], axis=0), dtype=np.float64)


class _Hybrid:
    """Both rankings of texts and their fusion."""

    def __init__(self, texts: Sequence[str], embed: Embed) -> None:
        self._lexical = LexicalIndex(texts)
        self._dense = DenseIndex(texts, embed)

    def rankings(self, queries: Sequence[str], vectors: Floats) -> dict[str, Doubles]:
        """Return ranks [queries, texts] by BM25, by embedding and by both."""
        lexical = ranks(self._lexical.scores(queries), above=0.0)
        dense = ranks(self._dense.scores(vectors))
        fused = reciprocal_rank_fusion([lexical, dense])
        return {"bm25": lexical, "dense": dense, "hybrid": ranks(fused)}


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found; `score` is that of the fusion, a rank is from 1, None where no token was shared."""

    passage: Passage
    score: float
    lexical_rank: int | None
    dense_rank: int


class HybridIndex:
    """Passages, found by BM25 and embedding together. A passage is indexed with the heading of its section."""

    def __init__(self, passages: Sequence[Passage], embed: Embed) -> None:
        self.passages = list(passages)
        self._embed = embed
        self._index = _Hybrid(searchable(self.passages), embed)

    @classmethod
    def of_folder(cls, folder: RunFolder, embed: Embed) -> HybridIndex:
        """Index the passages of a run.

        Raises:
            StageMissing: it has none.
        """
        return cls(read_passages(folder), embed)

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """Return the best `k` passages for a query, best first; fewer where there are fewer."""
        return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """Return the best `k` passages for each query."""
        if not self.passages:
            return [[] for _ in queries]
        result = []
        for start in range(0, len(queries), _QUERIES):
            chunk = queries[start : start + _QUERIES]
            by_model = self._index.rankings(chunk, embed_unit(chunk, self._embed))
            for lexical, dense, hybrid in zip(by_model["bm25"], by_model["dense"], by_model["hybrid"], strict=True):
                scores = reciprocal_rank_fusion([lexical, dense])
                result.append(
                    [
                        Hit(
                            self.passages[i],
                            float(scores[i]),
                            int(lexical[i]) if np.isfinite(lexical[i]) else None,
                            int(dense[i]),
                        )
                        for i in np.argsort(hybrid)[: max(k, 0)]
                    ]
                )
        return result


def searchable(passages: Sequence[Passage]) -> list[str]:
    """Return what is indexed of passages: "A single dose of 200 mg" is found by whom it is for, its heading says it."""
    return [f"{passage.heading}. {passage.text}" if passage.heading else passage.text for passage in passages]


def read_passages(folder: RunFolder) -> list[Passage]:
    """Read the passages of a run.

    Raises:
        StageMissing: it has none.
    """
    if not folder.passages.exists():
        raise StageMissing(f"{folder.root}: no passages there: run `guardline train passages`")
    return read_rows(folder.passages, Passage)


def _first_right(ranking: Doubles, right: NDArray[np.bool_]) -> Doubles:
    """Return the best rank of a right text for each query, [queries], from ranks and truth, both [queries, texts]."""
    return np.asarray(np.where(right, ranking, np.inf).min(axis=1, initial=np.inf), dtype=np.float64)


def measure_recall(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    passages: Sequence[Passage],
    embed: Embed,
    *,
    split: str,
    settings: EvaluationSettings,
) -> list[Metric]:
    """Return recall@1, 3, 5 and 10 of BM25, embedding and both for finding what a statement is about.

    One recommendation is sought for each statement, so recall@k is the share of statements that have it among their
    first k. Two things are searched, and name the stratum together with the label: the recommendations themselves, and
    the passages, of which each that overlaps the recommendation's quote is right. Statements out of scope are left
    out. Intervals are bootstraps over families.

    Raises:
        CorpusError: a statement is about a recommendation that is not given.
    """
    about = [(e, str(e.recommendation)) for e in examples if e.recommendation is not None]
    column = {r.id: i for i, r in enumerate(recommendations)}
    for example, name in about:
        if name not in column:
            raise CorpusError(
                f"{example.id}: about {name!r}, which the guideline does not have: run `guardline train corpus`"
            )
    if not about:
        return []
    sought = np.array([column[name] for _, name in about])
    vectors = embed_unit([e.text for e, _ in about], embed)
    overlapping = np.array([[overlaps(p, r) for p in passages] for r in recommendations], dtype=bool)
    searched = {
        "recommendations": (_Hybrid([r.text for r in recommendations], embed), np.eye(len(column), dtype=bool)),
        "passages": (_Hybrid(searchable(passages), embed), overlapping.reshape(len(column), len(passages))),
    }
    labels = np.array([e.label.value for e, _ in about])
    strata = {"all": np.ones(len(about), dtype=bool)} | {x.value: labels == x for x in (Label.SAFE, Label.UNSAFE)}
    samples = {
        stratum: draws([e.family for (e, _), kept in zip(about, keep, strict=True) if kept], settings)
        for stratum, keep in strata.items()
    }
    rows: list[Metric] = []
    for target, (index, truth) in searched.items():
        first: dict[str, list[Doubles]] = {}
        for start in range(0, len(about), _QUERIES):
            part = slice(start, start + _QUERIES)
            for model, ranking in index.rankings([e.text for e, _ in about[part]], vectors[part]).items():
                first.setdefault(model, []).append(_first_right(ranking, truth[sought[part]]))
        for model, parts in first.items():
            rank = np.concatenate(parts)
            for stratum, counts in samples.items():
                estimates = {depth: estimate(share(rank[strata[stratum]] <= depth, counts)) for depth in _DEPTHS}
                rows += [
                    Metric("retrieval", model, split, f"{target}, {stratum}", f"recall@{depth}",
                           found.value, found.low, found.high, counts.shape[1])
                    for depth, found in estimates.items() if found is not None
                ]  # fmt: skip
    return rows


def run_passages(
    documents: Sequence[tuple[SourceSpec, str]],
    embed: Embed,
    folder: RunFolder,
    progress: Progress,
    page_of: PageOf = lambda _document, _offset: None,
) -> dict[str, str | int]:
    """Run the stage: write the passages, and say for how many recommendations the index finds their own passage.

    That needs no corpus: the recommendations of the stage before are the queries. It tells a pack whose documents are
    cut badly, or an encoder that does not know the language, before anything is generated.

    Raises:
        PackError: the documents have no sentence.
        StageMissing: the run has no recommendations.
    """
    if not folder.recommendations.exists():
        raise StageMissing(f"{folder.root}: no recommendations there: run `guardline train extract`")
    task = progress.add_task("passages", total=2)
    found = passages(documents, page_of)
    if not found:
        raise PackError(f"{', '.join(s.name for s, _ in documents)}: no sentence in it: is the document's text there?")
    write_rows(folder.passages, found)
    progress.advance(task)
    recommendations = read_rows(folder.recommendations, Recommendation)
    hits = HybridIndex(found, embed).search_batch([r.text for r in recommendations], k=5)
    right = sum(any(overlaps(h.passage, r) for h in own) for r, own in zip(recommendations, hits, strict=True))
    progress.advance(task)
    return {"passages": len(found), "recommendations found at 5": f"{right} of {len(recommendations)}"}
