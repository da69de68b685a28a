"""Stage `summaries`: passages -> treatment summaries per clinical question, each sentence with what it rests on.

For each question the index finds passages, and either a language model writes up to six sentences from them or, without
one, the extractive twin picks the guideline's own sentences by maximal marginal relevance (Carbonell and Goldstein,
SIGIR 1998). A sentence is kept only when rules find it in the passages that it cites: every quantity, nearly all of its
words, every word that limits or compares, and the same polarity clause by clause. The rules are made to drop too much
rather than too little: a sentence that is missing costs a little context, a wrong one teaches wrong statements. What
was dropped is kept in `summaries_rejected.jsonl` with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from monitor.text import normalise
from trainer.artifacts import RunFolder, read_json_lines, write_rows
from trainer.errors import StageMissing
from trainer.guideline.polarity import (
    BOUNDS,
    binds,
    clauses_below,
    closest,
    content,
    denies,
    is_fragment,
    is_opposed,
    read,
    stem,
)
from trainer.guideline.retrieval import Embed, Floats, HybridIndex, embed_unit, overlaps, sentences_of, tokenize
from trainer.llm.port import Completer, Completion, Request, Status
from trainer.llm.prompts import render
from trainer.statements.claims import read_claim
from trainer.types import Passage, Recommendation

#: Who wrote a summary that no language model wrote.
EXTRACTIVE = "extractive"
PROMPT = "summarise"

_PASSAGES = 6  # retrieved for a question
_SENTENCES = 6  # of a summary, at most
_EXTRACTED = 4  # sentences that the twin takes
_RELEVANCE = 0.7  # lambda of maximal marginal relevance: weight of relevance against novelty
_LEAST_RELEVANCE = 0.6  # of the most relevant sentence's; a section of one sentence needs no company
_CONTEXT_PASSAGES = 4
_CONTEXT_SENTENCES = 6

#: Share of a sentence's content words that its passages must have.
LEAST_COVERAGE = 0.7

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
#: Words that change who or how much is meant. A sentence may only use those that its passages use.
_LIMITING = frozenset(
    [*BOUNDS, *read("always never must increase reduce mild moderate severe non-hospitalized").tokens]
)
#: Words that questions are made of; they say nothing of what is asked.
_QUESTION_WORDS = re.compile(
    r"\b(?:what|which|when|where|who|whom|how|why)\b(?:\s+(?:do|does|did|is|are|can|could|should|must)\b)?(?:\s+the\b)?"
    r"|\bguidelines?\b|\bsays?\b(?:\s+(?:on|about)\b)?|\?",
    re.IGNORECASE,
)
#: A sentence that begins so is not understood without the one before it.
_ANAPHOR = re.compile(r"(?:it|its|they|their|this|these|those|such|he|she|if so|in that case)\b", re.IGNORECASE)


class CitedSentence(BaseModel):
    """A sentence of an answer, and the ids of the passages that it rests on."""

    model_config = ConfigDict(extra="forbid")

    text: str
    passages: list[str]


class SummaryAnswer(BaseModel):
    """What a language model answers to the prompt `summarise`; no sentence where the passages have no answer."""

    model_config = ConfigDict(extra="forbid")

    sentences: list[CitedSentence]


@dataclass(frozen=True, slots=True)
class SummarySentence:
    """A verified sentence and the ids of the passages it rests on, at least one."""

    text: str
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What the guideline says on one question.

    `text` is its sentences in one. `writer` is the language model, or `extractive`; where the twin took a model's
    place, `fallback` says why.
    """

    question: str
    sentences: tuple[SummarySentence, ...]
    text: str
    writer: str
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class RejectedSentence:
    """A sentence that is in no summary, and why."""

    question: str
    text: str
    passages: tuple[str, ...]
    writer: str
    reason: str


def _denial(passage: Passage) -> str:
    """Return the heading of a passage where it denies, else nothing."""
    return passage.heading if denies(passage.heading) else ""


def _sentences(passage: Passage) -> list[tuple[int, int]]:
    """Return the spans of a passage's sentences in its text.

    A passage may begin in the middle of a line, and then it cannot be seen that this line was full and goes on in the
    next. It was one sentence when the passage was cut, so what has no end is joined to what follows.
    """
    spans: list[tuple[int, int]] = []
    for start, end in sentences_of(passage.text):
        if spans:
            gap = passage.text[spans[-1][1] : start]
            if gap.isspace() and gap.count("\n") == 1 and passage.text[start - len(gap) - 1] not in ".!?:;":
                spans[-1] = spans[-1][0], end
                continue
        spans.append((start, end))
    return spans


def _clause_problem(text: str, cited: Sequence[Passage]) -> str | None:
    """Return what is wrong with a clause of a sentence; None where each agrees with one that its passages have.

    A clause is held against those of the passages that share most words with it: one of them must have all its
    quantities (but those of the headings, which hold for all below), and one must be affirmed or denied as it is.
    """
    general = read_claim(" ".join(p.heading for p in cited)).numbers
    theirs = [
        clause for p in cited for start, end in _sentences(p) for clause in clauses_below(_denial(p), p.text[start:end])
    ]
    below = next((d for p in cited if (d := _denial(p)) and text.startswith(f"{d}: ")), "")
    for own in clauses_below(below, text.removeprefix(f"{below}: ")):
        near = closest(own, theirs)
        if not near:
            if own.negated:
                return "denies what its passages do not speak of"
            continue
        if not binds(near, own.quantities - set(general)):
            return "has the quantities of another clause of its passages"
        if is_opposed(own, near):
            return "denies what its passages affirm" if own.negated else "affirms what its passages deny"
    return None


def unsupported(text: str, cited: Sequence[Passage], *, treatment: str, condition: str) -> str | None:
    """Return why a sentence does not follow from the passages it cites, or None where nothing speaks against it.

    Rules, not understanding. Every quantity with its unit must stand in the passages (canonical units and number
    words, see `trainer.statements.claims`), and every word that limits or compares; of the other content words at least
    `LEAST_COVERAGE`; and no clause may deny what they affirm. Treatment and condition are known from the question.
    """
    if not cited:
        return "cites no passage"
    source = " ".join(f"{p.heading}. {p.text}" for p in cited)
    claim, support = read_claim(text), read_claim(source)
    if _ANAPHOR.match(text):
        return "cannot be read without the sentence before it"
    if missing := [q.text for q in claim.quantities if (q.value, q.unit) not in support.numbers]:
        return f"its passages do not say {', '.join(missing)}"
    known = {*read(source).tokens, *read(f"{treatment} {condition}").tokens}
    tokens = read(text).tokens
    if limiting := _LIMITING.intersection(tokens) - known:
        named = [word for word in _WORD.findall(text) if limiting.intersection(read(word).tokens)]
        return f"its passages do not say {', '.join(map(repr, named or sorted(limiting)))}"
    words = set(map(stem, content(tokens)))
    if not words:
        return "says nothing"
    coverage = len(words & set(map(stem, known))) / len(words)
    if coverage < LEAST_COVERAGE:
        return f"its passages have {coverage:.0%} of its words"
    return _clause_problem(text, cited)


@dataclass(frozen=True, slots=True)
class _Unit:
    """One of the guideline's own sentences, with the one before it where it needs that; where it stands."""

    text: str
    heading: str
    source: str
    start: int
    end: int
    passages: tuple[str, ...]

    def meets(self, other: _Unit) -> bool:
        """Tell whether two units have words of the document in common."""
        return self.source == other.source and self.start < other.end and other.start < self.end


def _units(passages: Sequence[Passage]) -> list[_Unit]:
    """Return the sentences of passages, each once, with the ids of all passages that have it whole."""
    found: dict[tuple[str, int, int], _Unit] = {}
    for passage in passages:
        denial = _denial(passage)
        sentences = _sentences(passage)
        for i, (_, end) in enumerate(sentences):
            first = i
            while first > 0 and _ANAPHOR.match(passage.text, sentences[first][0]):
                first -= 1
            begin = sentences[first][0]
            if _ANAPHOR.match(passage.text, begin):
                continue  # what it speaks of is not in this passage
            text = normalise(passage.text[begin:end])
            key = (passage.source, passage.start + begin, passage.start + end)
            earlier = found[key].passages if key in found else ()
            if denial and is_fragment(text):
                text = f"{denial}: {text}"
            found[key] = _Unit(text, passage.heading, *key, passages=(*earlier, passage.id))
    return list(found.values())


def _marginal_relevance(question: Floats, vectors: Floats, units: Sequence[_Unit]) -> list[int]:
    """Return the rows of the units to take, best first, by maximal marginal relevance.

    Args:
        question: unit vector, [dim].
        vectors: unit vectors of `units`, [n, dim].
        units: no two are taken that overlap in the document.
    """
    relevance = vectors @ question
    similarity = vectors @ vectors.T
    taken: list[int] = []
    most = relevance.max()
    left = {i for i, value in enumerate(relevance) if value >= min(_LEAST_RELEVANCE * most, most)}
    while left and len(taken) < _EXTRACTED:
        novelty = similarity[:, taken].max(axis=1) if taken else np.zeros(len(units))
        value = _RELEVANCE * relevance - (1 - _RELEVANCE) * novelty
        best = min(left, key=lambda i: (-value[i], i))
        taken.append(best)
        left = {i for i in left if not units[i].meets(units[best])}
    return taken


class ExtractiveTwin:
    """Answers questions with sentences of the passages themselves; embeds each sentence once."""

    def __init__(self, passages: Sequence[Passage], embed: Embed) -> None:
        self._units = _units(passages)
        texts = [f"{unit.heading}. {unit.text}" if unit.heading else unit.text for unit in self._units]
        self._vectors = embed_unit(texts, embed) if texts else None

    def answer(self, question: Floats, retrieved: Sequence[Passage]) -> list[CitedSentence]:
        """Return at most four sentences of the retrieved passages, in the order of the document.

        `question` is its unit vector, [dim].
        """
        names = {passage.id for passage in retrieved}
        rows = [i for i, unit in enumerate(self._units) if names & set(unit.passages)]
        if not rows or self._vectors is None:
            return []
        units = [self._units[i] for i in rows]
        return [
            CitedSentence(text=units[i].text, passages=[name for name in units[i].passages if name in names])
            for i in sorted(_marginal_relevance(question, self._vectors[rows], units))
        ]


def derived_questions(passages: Sequence[Passage], treatment: str, condition: str) -> list[str]:
    """Return one question for each heading of the guideline, in its order, for packs that ask none.

    A heading that names treatment and condition is the document's title, and asks for nothing in particular.
    """
    subject = f"{treatment} for {condition}"
    headings = dict.fromkeys(p.heading for p in passages if p.heading)
    asking = [h for h in headings if not all(name.lower() in h.lower() for name in (treatment, condition))]
    return [f"What does the guideline say on {heading} of {subject}?" for heading in asking] or [
        f"What does the guideline say on {subject}?"
    ]


def search_query(question: str, treatment: str, condition: str) -> str:
    """Return what is searched for a question: its words without those that select nothing.

    All of a guideline is about its treatment and condition. Left in, their names find its front matter, which names
    them most often.
    """
    names = "|".join(re.escape(word) for name in (treatment, condition) for word in [name, *name.split()])
    named = re.sub(rf"(?<!\w)(?:(?:of|for|with|in|by|on)\s+)?(?:{names})(?!\w)", " ", question, flags=re.IGNORECASE)
    left = " ".join(_QUESTION_WORDS.sub(" ", named).split()).strip(" ,:;.-")
    return left if any(tokenize([left])) else question


def _request(question: str, retrieved: Sequence[Passage], treatment: str, condition: str) -> Request:
    system, user = render(
        PROMPT,
        question=question,
        treatment=treatment,
        condition=condition,
        passages=retrieved,
        sentences=_SENTENCES,
    )
    return Request(PROMPT, system, user, SummaryAnswer)


@dataclass(frozen=True)
class _Writer:
    """Makes summaries of answers: a language model's where it stands, else the twin's."""

    treatment: str
    condition: str
    twin: ExtractiveTwin

    def write(
        self, question: str, vector: Floats, retrieved: Sequence[Passage], completion: Completion | None
    ) -> tuple[Summary, list[RejectedSentence]]:
        """Return the summary of one question, and the sentences that are not in it."""
        rejected: list[RejectedSentence] = []
        fallback = None
        if completion is not None:
            if completion.status is Status.OK and isinstance(completion.value, SummaryAnswer):
                answer = completion.value.sentences
                kept, rejected = self._divide(question, answer, retrieved, completion.model)
                if kept or not answer:
                    return Summary(question, tuple(kept), _as_text(kept), completion.model), rejected
                fallback = "no sentence passed the checks"
            else:
                fallback = f"{completion.status}: {completion.reason}"
        kept, own = self._divide(question, self.twin.answer(vector, retrieved), retrieved, EXTRACTIVE)
        return Summary(question, tuple(kept), _as_text(kept), EXTRACTIVE, fallback), [*rejected, *own]

    def _divide(
        self, question: str, answer: Sequence[CitedSentence], retrieved: Sequence[Passage], writer: str
    ) -> tuple[list[SummarySentence], list[RejectedSentence]]:
        """Return verified sentences, in their order, and rejected ones."""
        by_id = {passage.id: passage for passage in retrieved}
        kept: list[SummarySentence] = []
        rejected: list[RejectedSentence] = []
        for sentence in answer:
            text = normalise(sentence.text)
            names = tuple(dict.fromkeys(name.strip(" []") for name in sentence.passages))
            reason = self._problem(text, names, by_id, kept)
            if reason is None:
                kept.append(SummarySentence(text, names))
            else:
                rejected.append(RejectedSentence(question, text, names, writer, reason))
        return kept, rejected

    def _problem(
        self, text: str, names: Sequence[str], by_id: dict[str, Passage], kept: Sequence[SummarySentence]
    ) -> str | None:
        if unknown := [name for name in names if name not in by_id]:
            return f"cites {', '.join(map(repr, unknown))}, which it was not given"
        if len(kept) == _SENTENCES:
            return f"comes after {_SENTENCES} sentences"
        if any(text == other.text for other in kept):
            return "is said twice"
        return unsupported(text, [by_id[name] for name in names], treatment=self.treatment, condition=self.condition)


def _as_text(sentences: Sequence[SummarySentence]) -> str:
    """Join sentences; a list item gets the full stop that it lacks."""
    return " ".join(s.text if s.text.endswith((".", "!", "?")) else f"{s.text}." for s in sentences)


def run_summaries(
    questions: Sequence[str],
    treatment: str,
    condition: str,
    folder: RunFolder,
    embed: Embed,
    progress: Progress,
    completer: Completer | None = None,
) -> dict[str, Any]:
    """Run the stage: write `summaries.jsonl` and `summaries_rejected.jsonl`; return what to say of it.

    Without questions each heading of the guideline asks one; without a completer the extractive twin answers. Where a
    completer's answer is refused or malformed, or none of its sentences passes, the twin answers that question and
    the summary says why. An answer without sentences stands: the passages do not answer the question.

    Raises:
        StageMissing: the run has no passages.
        ProviderError, CostLimitReached: from the completer; what it answered is in its cache.
    """
    index = HybridIndex.of_folder(folder, embed)
    asked = list(dict.fromkeys(questions)) or derived_questions(index.passages, treatment, condition)
    queries = [search_query(question, treatment, condition) for question in asked]
    retrieved = [[hit.passage for hit in hits] for hits in index.search_batch(queries, _PASSAGES)]
    vectors = embed_unit(queries, embed)
    writer = _Writer(treatment, condition, ExtractiveTwin(index.passages, embed))
    task = progress.add_task("summaries", total=len(asked))

    completions: list[Completion | None] = [None] * len(asked)
    if completer is not None:
        requests = [_request(q, own, treatment, condition) for q, own in zip(asked, retrieved, strict=True)]
        completions = [*completer.complete(requests, lambda n: progress.advance(task, n))]

    summaries: list[Summary] = []
    rejected: list[RejectedSentence] = []
    for question, vector, own, completion in zip(asked, vectors, retrieved, completions, strict=True):
        summary, dropped = writer.write(question, vector, own, completion)
        summaries.append(summary)
        rejected += dropped
    progress.update(task, completed=len(asked))
    write_rows(folder.summaries, summaries)
    write_rows(rejected_file(folder), rejected)
    return _outcome(summaries, rejected, completions)


def _outcome(
    summaries: Sequence[Summary], rejected: Sequence[RejectedSentence], completions: Sequence[Completion | None]
) -> dict[str, Any]:
    """Return the counts of a run; of answers that could not be used only where there are some."""
    failed = Counter(c.status.value for c in completions if c is not None and c.status is not Status.OK)
    return {
        "summaries": len(summaries),
        "sentences": sum(len(s.sentences) for s in summaries),
        "rejected": len(rejected),
        "unanswered": sum(not s.sentences for s in summaries),
        "extractive": sum(s.writer == EXTRACTIVE for s in summaries),
        **dict(sorted(failed.items())),
    }


def rejected_file(folder: RunFolder) -> Path:
    """Return where the sentences lie that did not pass, `RejectedSentence` rows."""
    return folder.summaries.with_name("summaries_rejected.jsonl")


def read_summaries(folder: RunFolder) -> list[Summary]:
    """Read the summaries of a run.

    Raises:
        StageMissing: it has none.
    """
    if not folder.summaries.exists():
        raise StageMissing(f"{folder.root}: no summaries there: run `guardline train summaries`")
    return [
        Summary(
            question=row["question"],
            sentences=tuple(SummarySentence(s["text"], tuple(s["passages"])) for s in row["sentences"]),
            text=row["text"],
            writer=row["writer"],
            fallback=row["fallback"],
        )
        for row in read_json_lines(folder.summaries)
    ]


def context_for(recommendation: Recommendation, index: HybridIndex, summaries: Sequence[Summary]) -> str:
    """Return what a writer of statements reads beside a recommendation: passages, and summary sentences on them.

    The passages that the recommendation was taken from come first, then those found by its text, four in all unless
    it spans more; then up to six summary sentences that rest on any of them. Ids in square brackets tie the two.
    """
    own = [passage for passage in index.passages if overlaps(passage, recommendation)]
    near = [hit.passage for hit in index.search(recommendation.text, _CONTEXT_PASSAGES) if hit.passage not in own]
    shown = [*own, *near[: max(_CONTEXT_PASSAGES - len(own), 0)]]
    lines = ["Passages of the guideline:", *(f"[{p.id}] {_titled(p)}" for p in shown)]
    names = [passage.id for passage in shown]
    resting: dict[str, tuple[int, list[str]]] = {}
    for sentence in (s for summary in summaries for s in summary.sentences):
        if cited := [name for name in names if name in sentence.passages]:
            resting.setdefault(sentence.text, (names.index(cited[0]), cited))
    closest = sorted(resting.items(), key=lambda item: item[1][0])[:_CONTEXT_SENTENCES]
    if closest:
        lines += ["", "Summary:", *(f"- {text} [{', '.join(cited)}]" for text, (_, cited) in closest)]
    return "\n".join(lines)


def _titled(passage: Passage) -> str:
    text = normalise(passage.text)
    return f"{passage.heading}: {text}" if passage.heading else text
