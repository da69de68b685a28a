"""Recommendations out of a document by a language model, each verified; where it gives no answer, by rules.

One request a section. A model's answer is a claim about the document: the quote has to stand in the section (white
space, dashes and quotation marks may differ), every quantity of the text in the quote or a heading over it, strength,
grade, population and action have to be in the document's words, the text affirms and denies what its quote does
(clause by clause, see `trainer.guideline.polarity`), and a rule that is given twice counts once. What fails is kept
with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress

from monitor.text import normalise
from trainer.guideline.documents import Document, Section, blocks
from trainer.guideline.extraction import context, describe, extract_section, is_back_matter, slug
from trainer.guideline.polarity import clauses, clauses_below, contradiction, denies, refuses
from trainer.guideline.wording import content_words, numbers
from trainer.llm import prompts
from trainer.llm.port import Completer, Request, Status
from trainer.statements.claims import read_claim
from trainer.types import Recommendation

#: A longer section is asked about in parts, so that neither prompt nor answer is cut off.
SECTION_CHARS = 8_000
_MAX_TOKENS = 4_096
#: Two texts of one quote that share this share of their words are one recommendation.
_SAME = 0.9


class ModelQuantity(BaseModel):
    """A number as the model reports it."""

    model_config = ConfigDict(extra="forbid")

    value: float
    unit: str = Field(max_length=40)
    text: str = Field(max_length=80)


class ModelRecommendation(BaseModel):
    """A recommendation as the model reports it, before any of it is verified."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=1_000)
    quote: str = Field(min_length=1, max_length=2_000)
    population: str | None
    action: str | None
    strength: str | None
    grade: str | None
    numbers: list[ModelQuantity]


class Extraction(BaseModel):
    """The answer for one section."""

    model_config = ConfigDict(extra="forbid")

    recommendations: list[ModelRecommendation]


@dataclass(frozen=True, slots=True)
class RejectedRecommendation:
    """A recommendation of the model that was not taken, or a section for which it gave none, and why."""

    source: str
    section: str
    reason: str
    text: str
    quote: str


@dataclass(frozen=True, slots=True)
class ModelExtraction:
    """What came of all sections; `fallbacks` names those (source and number) that were left to the rules."""

    recommendations: list[Recommendation]
    rejected: list[RejectedRecommendation]
    fallbacks: list[str]
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """A section, or a part of it, that the model is asked about: `document.text[start:end]`."""

    document: Document
    section: Section
    start: int
    end: int


def _parts(document: Document) -> Iterator[_Asked]:
    """Yield what is asked about: sections with words, but back matter; long ones in parts that end with a paragraph."""
    for section in document.sections:
        if is_back_matter(section):
            continue
        begin = end = -1
        for start, stop in blocks(section.body):
            if begin >= 0 and stop - begin > SECTION_CHARS:
                yield _Asked(document, section, section.start + begin, section.start + end)
                begin = -1
            begin, end = (start if begin < 0 else begin), stop
        if begin >= 0 and any(map(str.isalpha, section.body[begin:end])):
            yield _Asked(document, section, section.start + begin, section.start + end)


def find_quote(text: str, quote: str, start: int = 0, end: int | None = None) -> tuple[int, int] | None:
    """Return where a quote stands in `text[start:end]`, whole words and numbers of it, or None.

    White space, kinds of dashes and quotation marks, and emphasis may differ; the offsets are those of the text itself.
    """
    wanted = _normalised(quote, 0, len(quote))[0].strip()
    if not wanted:
        return None
    plain, offsets = _normalised(text, start, len(text) if end is None else end)
    at = plain.find(wanted)
    while at >= 0:
        stop = at + len(wanted)
        if not (_is_cut(plain, at) or _is_cut(plain, stop)):
            return offsets[at], offsets[stop - 1] + 1
        at = plain.find(wanted, at + 1)
    return None


#: Inside of a word or number: "un|acceptable", "non-|hospitalized", "20|0 mg", "2|.5", "5 mg|/kg".
_INSIDE = re.compile(r"[^\W\d_]{2}|\d\d|\d[.,]\d|[^\W_][-/][^\W_]")


def _is_cut(text: str, at: int) -> bool:
    """Tell whether a position lies within a word or a number."""
    around = ((at - 1, at + 1), (at - 2, at + 1), (at - 1, at + 2))
    return any(start >= 0 and end <= len(text) and _INSIDE.fullmatch(text, start, end) for start, end in around)


def _normalised(text: str, start: int, end: int) -> tuple[str, list[int]]:
    """Return a part of a text with single spaces, plain dashes and quotes and no emphasis, and its offsets."""
    characters: list[str] = []
    offsets: list[int] = []
    for i in range(start, end):
        char = text[i]
        if char.isspace():
            plain = "" if characters and characters[-1] == " " else " "
        elif char in "*_`":
            plain = ""
        else:
            plain = char if char.isascii() else normalise(char)
        characters.extend(plain)
        offsets.extend([i] * len(plain))
    return "".join(characters), offsets


def _verified(
    answer: ModelRecommendation, asked: _Asked, version: str, names: Sequence[str]
) -> tuple[Recommendation | None, str]:
    """Return the recommendation with the document's own quote and offsets, or None and why not."""
    document, section = asked.document, asked.section
    span = find_quote(document.text, answer.quote, asked.start, asked.end)
    if span is None:
        return None, "the quote does not stand in the section"
    quote = document.text[slice(*span)]
    headings = context(section)
    stated = numbers(" ".join([quote, *headings]))
    if invented := (numbers(answer.text) | {n for q in answer.numbers for n in numbers(q.text)}) - stated:
        return None, f"the quote does not say {', '.join(sorted(invented))}"
    known = read_claim(" ".join([quote, *headings])).numbers
    if other := [q.text for q in read_claim(answer.text).quantities if q.unit and (q.value, q.unit) not in known]:
        return None, f"the quote does not say {', '.join(other)}"
    if not content_words(answer.text) & content_words(quote):
        return None, "text and quote share no word"
    if reason := _turned_round(answer.text, quote, headings):
        return None, reason
    text = normalise(answer.text)
    found = Recommendation(
        slug(section.number, text, names), section.number, section.title, text, document.name, version,
        quote, *span, document.page_of(span[0]),
    )  # fmt: skip
    described = describe(found, headings)
    stated_words = content_words(" ".join([quote, *headings]))

    def said(value: str | None, otherwise: str | None) -> str | None:
        """Return the model's value where its words are the document's."""
        return normalise(value) if value and content_words(value) <= stated_words else otherwise

    return replace(
        described,
        strength=said(answer.strength, described.strength),
        grade=said(answer.grade, described.grade),
        population=said(answer.population, described.population),
        action=said(answer.action, described.action),
    ), ""


def _turned_round(text: str, quote: str, headings: Sequence[str]) -> str | None:
    """Return what a text has the other way round than its quote, as the reason to reject it, or None.

    An item of a list below "Not recommended" is denied by it; below another heading that denies, such as "No oxygen",
    the text may take it either way.
    """
    own = clauses(text)
    above = [clause for heading in headings for clause in clauses(heading)]
    refusal = next(filter(refuses, headings), "")
    readings = {refusal} if refusal else {"", next(filter(denies, headings), "")}
    found = [contradiction(own, [*clauses_below(denial, quote), *above]) for denial in readings]
    if found[0] is None or None in found:
        return None
    return f"the text {'denies what the quote affirms' if found[0].negated else 'affirms what the quote denies'}"


def _is_same(one: Recommendation, other: Recommendation) -> bool:
    """Tell whether two recommendations of one section say the same."""
    a, b = content_words(one.text), content_words(other.text)
    alike = len(a & b) >= _SAME * max(len(a), len(b), 1)
    overlap = one.start < other.end and other.start < one.end
    return alike and overlap and numbers(one.text) == numbers(other.text)


def extraction_requests(documents: Sequence[Document], condition: str, treatment: str) -> list[Request]:
    """Return what `extract_with` asks, so that its price can be estimated before."""
    return [_request(part, condition, treatment) for document in documents for part in _parts(document)]


def extract_with(
    completer: Completer,
    documents: Sequence[tuple[Document, str]],
    condition: str,
    treatment: str,
    names: Sequence[str],
    progress: Progress | None = None,
) -> ModelExtraction:
    """Extract the recommendations of documents (each with its version) with a language model.

    A section whose completion is refused, malformed or failed is extracted by rules, and said to be. Ids may repeat,
    see `trainer.guideline.extraction.identified`.

    Raises:
        ProviderError, CostLimitReached: as `Completer.complete`.
    """
    asked = [(part, version) for document, version in documents for part in _parts(document)]
    requests = extraction_requests([document for document, _ in documents], condition, treatment)
    if progress:
        task = progress.add_task("asking the model", total=len(requests))
        completions = completer.complete(requests, lambda answered: progress.advance(task, answered))
    else:
        completions = completer.complete(requests)
    found: list[Recommendation] = []
    rejected: list[RejectedRecommendation] = []
    fallbacks: list[str] = []
    for (part, version), completion in zip(asked, completions, strict=True):
        name, number = part.document.name, part.section.number
        if completion.status is not Status.OK or not isinstance(completion.value, Extraction):
            reason = f"{completion.status}: {completion.reason or 'no answer'}"
            rejected.append(RejectedRecommendation(name, number, reason, "", completion.raw[:500]))
            fallbacks.append(f"{name} {number}")
            by_rules = extract_section(part.document, part.section, version, names)
            found += [r for r in by_rules if part.start <= r.start < part.end]
            continue
        own: list[Recommendation] = []
        for answer in completion.value.recommendations:
            recommendation, reason = _verified(answer, part, version, names)
            if recommendation and any(_is_same(recommendation, other) for other in own):
                recommendation, reason = None, "it says the same as another one"
            if recommendation is None:
                rejected.append(RejectedRecommendation(name, number, reason, answer.text, answer.quote))
            else:
                own.append(recommendation)
        found += sorted(own, key=lambda r: r.start)
    return ModelExtraction(
        found,
        rejected,
        fallbacks,
        sum(c.input_tokens for c in completions),
        sum(c.output_tokens for c in completions),
    )


def _request(part: _Asked, condition: str, treatment: str) -> Request:
    system, user = prompts.render(
        "extract",
        condition=condition,
        treatment=treatment,
        section=part.section.number,
        headings=[title for title in [*part.section.parents, part.section.title] if title],
        text=part.document.text[part.start : part.end],
    )
    return Request("extract", system, user, Extraction, _MAX_TOKENS)
