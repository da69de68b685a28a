"""Recommendations out of a document by rules: no model, no network, the same result every time.

A sentence is taken where it directs (modal verbs, imperatives, "is recommended"), gives a dose or duration, or reports
what the treatment does. Two rules in one sentence are cut apart, a sentence that only makes sense with the one before
is joined to it, and each becomes a text that stands alone: pronouns, shared conditions and the population that the
heading names are written out. The quote stays what the document says, to the character.

The rules know English and how guidelines are written, no guideline's wording. `measure` compares what they find with a
list curated by hand.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from monitor.segmentation import MAX_STATEMENT_CHARS, segment
from monitor.text import normalise
from trainer.guideline.documents import Document, Section, blocks
from trainer.guideline.quantities import quantities
from trainer.guideline.wording import (
    LED,
    MODAL,
    PARTICIPLES,
    STATES,
    STOP,
    VERBS,
    WORD,
    Rating,
    content_words,
    directs,
    find_action,
    find_population,
    find_rating,
    is_recommendation,
    numbers,
)
from trainer.types import Recommendation


def context(section: Section) -> tuple[str, ...]:
    """Return the headings that a recommendation of a section stands under, innermost first, without the title."""
    return (section.title, *reversed(section.parents[1:]))


def describe(recommendation: Recommendation, headings: Sequence[str]) -> Recommendation:
    """Return a recommendation with what its text states: strength, grade, population, action, numbers."""
    rating = find_rating(recommendation.quote) or find_rating(recommendation.text)
    own = recommendation.text
    for heading in headings:
        own = own.removeprefix(f"{normalise(heading)}: ")
    population = find_population(own, headings)
    return replace(
        recommendation,
        strength=rating.strength if rating else None,
        grade=rating.grade if rating else None,
        population=population,
        action=find_action(own, population),
        numbers=quantities(recommendation.text),
    )


# Sentences

_PRONOUN = re.compile(
    r"^(?P<it>it|they)\b(?=\s(?:is|are|may|must|can|should|does|do|has|have|was|were|\w+(?:s|ed)\b))",
    re.IGNORECASE,
)
_DEPENDS = re.compile(
    rf"^(?:otherwise|if not|if so|in that case|in this case|then|alternatively|except|the same (?:applies|holds)|"
    rf"(?:{VERBS})\s(?:it|them|this|these)\b)",
    re.IGNORECASE,
)
_CUT = re.compile(r";\s+|,\s+(?:and|but|whereas|while)\s+")
#: A clause of its own has a subject; without one, or with a pronoun, it goes on about the same thing.
_GOES_ON = re.compile(
    r"(?:it|its|they|their|this|these|that|those|not|then|and|or|but|otherwise|if not)\b", re.IGNORECASE
)
_OWN_SUBJECT = re.compile(
    r"^(?!(?:it|they|there|this|these|that|not|then|for|in|with)\b)"
    rf"(?:[\w-]+\s){{1,6}}?(?:{MODAL}|is|are)\b|^(?:{VERBS})\b",
    re.IGNORECASE,
)
_ELLIPSIS = re.compile(r"\b(?P<verb>is|are|may|should|must|can)\snot$", re.IGNORECASE)
_PREDICATE = re.compile(
    rf"\b(?:is|are|may|should|must|can)\s(?P<rest>(?:be\s)?(?:\w+ly\s)?(?:{PARTICIPLES})\b)", re.IGNORECASE
)


#: The row below the column headings of a table.
_DASHES = re.compile(r"\s*\|[\s|:]*-[\s|:-]*")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule of a section: the span in the document, and its text, not yet with the heading's words."""

    text: str
    start: int
    end: int
    rating: Rating | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, list item or table row: `document.text[start:end]`; `text` is it normalised, cells with headings."""

    text: str
    start: int
    end: int
    block: int  # ordinal of its block in the section


def sentences(section: Section) -> list[Sentence]:
    """Return the sentences of a section in order; wrapped lines are joined, table cells named by their columns."""
    found: list[Sentence] = []
    columns: list[str] = []
    last_row = -1
    spans = list(blocks(section.body))
    for ordinal, (start, end) in enumerate(spans):
        block = section.body[start:end]
        offset = section.start + start
        if block.lstrip().startswith("|") and len(block) <= MAX_STATEMENT_CHARS:
            inner = block.strip().strip("|").strip()
            cells = [normalise(cell.replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", inner)]
            first = ordinal != last_row + 1 or not columns
            below = section.body[slice(*spans[ordinal + 1])] if ordinal + 1 < len(spans) else ""
            if _DASHES.fullmatch(below) or (first and not any(map(str.isdigit, inner))):
                columns = cells
            elif any(map(str.isalnum, inner)):
                columns = [""] * len(cells) if first else columns  # a table without headings
                begin = offset + block.index(inner)
                found.append(Sentence(_row(columns, cells), begin, begin + len(inner), ordinal))
            last_row = ordinal
            continue
        found += [
            Sentence(s.normalised, offset + s.start, offset + s.end, ordinal) for s in segment(block.replace("\n", " "))
        ]
    return found


def _row(columns: Sequence[str], cells: Sequence[str]) -> str:
    """Return a table row as a sentence: "Population: adults; Dose: 200 mg"."""
    if len(columns) != len(cells):
        return "; ".join(filter(None, cells))
    return "; ".join(
        f"{column}: {cell}" if column else cell for column, cell in zip(columns, cells, strict=True) if cell
    )


def _cuts(text: str) -> list[tuple[int, int]]:
    """Return where a sentence is cut into rules: end of one clause, begin of the next.

    What comes before a cut directs. After "and" the next clause has to direct too, after a semicolon it may be
    background; a clause about "it" or "they" stays.
    """
    found: list[tuple[int, int]] = []
    begin = 0
    for match in _CUT.finditer(text):
        left, right = text[begin : match.start()], text[match.end() :]
        if text.count("(", 0, match.start()) != text.count(")", 0, match.start()) or not directs(left):
            continue
        following = _CUT.split(right, maxsplit=1)[0].rstrip(" .")
        if match.group()[0] == ";":
            apart = not _GOES_ON.match(right) and len(following.split()) > 2
        else:
            apart = bool(_OWN_SUBJECT.match(right) and (directs(following) or _ELLIPSIS.search(following)))
        if apart:
            found.append(match.span())
            begin = match.end()
    return found


def _completed(clause: str, first: str) -> str:
    """Return a clause that leaves out what the first one said: the condition before it, the verb after "is not"."""
    bare = clause.rstrip(" .")
    if _ELLIPSIS.search(bare) and (predicate := _PREDICATE.search(first)):
        bare = f"{bare} {predicate['rest']}"
    lead = LED.match(first)
    if lead and not LED.match(bare):
        bare = f"{lead.group()}{bare}"
    return bare


def _sentence_case(text: str) -> str:
    text = text.strip().rstrip(" ;,.")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _without_rating(text: str, rating: Rating | None) -> str:
    if rating is None:
        return text
    rest = f"{text[: rating.start].rstrip()} {text[rating.end :].lstrip()}".strip()
    return re.sub(r"\s+(?=[.;,])", "", rest)


def _rules(section: Section, document: str, names: Sequence[str]) -> Iterator[_Rule]:
    """Yield the rules of a section, in order."""
    pending: _Rule | None = None  # that of the sentence before, which this one may add to
    subject: str | None = None  # the treatment, where the sentence before begins with it
    block = -1
    for sentence in sentences(section):
        if sentence.block != block:
            subject, block = None, sentence.block
        rating = find_rating(sentence.text)
        text = _without_rating(sentence.text, rating)
        if pending and rating and not any(map(str.isalnum, text)):  # the rating of the sentence before
            pending = replace(pending, end=sentence.end, rating=rating)
            continue
        pronoun = _PRONOUN.match(text)
        if pronoun and subject:
            text = subject + text[pronoun.end() :]
        elif not pronoun:
            subject = next((text[: len(name)] for name in names if text.lower().startswith(name.lower())), None)
        if pending and _DEPENDS.match(text) and len(pending.text) < MAX_STATEMENT_CHARS:
            joined = f"{pending.text} {_sentence_case(text)}"
            pending = _Rule(joined, pending.start, sentence.end, rating or pending.rating)
            continue
        if pending:
            yield pending
            pending = None
        if is_recommendation(text, names):
            rules = [r for r in _split(text, sentence, document, rating) if is_recommendation(r.text, names)]
            yield from rules[:-1]
            pending = rules[-1] if rules else _Rule(_sentence_case(text), sentence.start, sentence.end, rating)
    if pending:
        yield pending


def _split(text: str, sentence: Sentence, document: str, rating: Rating | None) -> list[_Rule]:
    """Return the rules of one sentence, each with its own span of the document."""
    cuts = _cuts(text)
    raw = document[sentence.start : sentence.end]
    raw_cuts = _cuts(re.sub(r"\s", " ", raw))
    if not cuts or len(cuts) != len(raw_cuts):
        return [_Rule(_sentence_case(text), sentence.start, sentence.end, rating)]
    bounds = [0, *(i for cut in cuts for i in cut), len(text)]
    raw_bounds = [0, *(i for cut in raw_cuts for i in cut), len(raw)]
    first = text[: bounds[1]]
    rules = []
    for i in range(0, len(bounds), 2):
        clause = text[bounds[i] : bounds[i + 1]]
        clause = _completed(clause, first) if i else clause
        rules.append(
            _Rule(_sentence_case(clause), sentence.start + raw_bounds[i], sentence.start + raw_bounds[i + 1], rating)
        )
    return rules


# Identity

_COMMON = frozenset([
    "patients", "patient", "people", "adults", "should", "recommended", "treatment", "given", "used", "receive",
])  # fmt: skip


def slug(section: str, text: str, names: Sequence[str] = ()) -> str:
    """Return an id of a recommendation: its section and its first four telling words.

    No numbers and no negations are in it, so that a revision that changes them keeps the id.
    """
    named = {word for name in names for word in content_words(name)}
    left_out = named | _COMMON | {"not", "no", "without", "only", "never"}
    words: list[str] = []
    for word in WORD.findall(normalise(text).lower()):
        if word not in STOP | left_out | set(words) and len(word) > 2:
            words.append(word)
    return "-".join([section, *words[:4]])


def identified(recommendations: Iterable[Recommendation], prefixes: Mapping[str, str]) -> list[Recommendation]:
    """Return recommendations with the prefix of their source before their id, and an ordinal after one that repeats."""
    taken: Counter[str] = Counter()
    result = []
    for recommendation in recommendations:
        identifier = candidate = f"{prefixes.get(recommendation.source, '')}{recommendation.id}"
        while candidate in taken:
            taken[identifier] += 1
            candidate = f"{identifier}-{taken[identifier]}"
        taken[candidate] = 1
        result.append(replace(recommendation, id=candidate))
    return result


def with_context(text: str, headings: Sequence[str]) -> str:
    """Return a text that stands alone: after the heading that says for whom it is, where its own words do not."""
    for heading in headings:
        if STATES.search(heading):
            said = content_words(heading)
            known = len(said & content_words(text)) >= 0.5 * len(said)
            return text if known else f"{normalise(heading)}: {text}"
    return text


#: What such a section says is other people's, or about the document.
_BACK_MATTER = re.compile(
    r"(?:references|bibliography|literature cited|acknowledge?ments|abbreviations|disclosures|"
    r"(?:conflicts?|declarations?) of interests?|funding|(?:table of )?contents)",
    re.IGNORECASE,
)


def is_back_matter(section: Section) -> bool:
    """Tell whether a section, or one around it, lists references, abbreviations, interests and the like."""
    return any(_BACK_MATTER.fullmatch(title.strip(" :.")) for title in (section.title, *section.parents))


def extract_section(
    document: Document, section: Section, version: str, names: Sequence[str]
) -> Iterator[Recommendation]:
    """Yield the recommendations of one section; `names` are those of the treatment."""
    headings = context(section)
    for rule in _rules(section, document.text, names):
        quote = document.text[rule.start : rule.end]
        found = Recommendation(
            slug(section.number, rule.text, names), section.number, section.title, with_context(rule.text, headings),
            document.name, version, quote, rule.start, rule.end, document.page_of(rule.start),
        )  # fmt: skip
        found = describe(found, headings)
        yield replace(found, strength=rule.rating.strength, grade=rule.rating.grade) if rule.rating else found


def extract_by_rules(document: Document, version: str, names: Sequence[str]) -> list[Recommendation]:
    """Return the recommendations of a document in its order, but for back matter; `identified` makes ids differ."""
    own = [section for section in document.sections if not is_back_matter(section)]
    return [r for section in own for r in extract_section(document, section, version, names)]


# Measurement

#: A recommendation holds another when it has all of its numbers, this share of its content words ...
HELD_WORDS = 0.7
#: ... and this share of the words it quotes is the other's: a whole section does not hold every rule in it.
OWN_WORDS = 0.5


@dataclass(frozen=True, slots=True)
class ExtractionScore:
    """How an extraction compares with a curated list.

    `missed` and `in_two` are ids of the list, not found, and found in two neighbours together; `spurious` are ids of
    the extraction.
    """

    precision: float
    recall: float
    f1: float
    missed: list[str]
    spurious: list[str]
    in_two: list[str]


@dataclass(frozen=True, slots=True)
class _Said:
    """What is compared: the words and numbers of a text, and the words of what it quotes."""

    words: set[str]
    numbers: set[str]
    own: set[str]
    own_numbers: set[str]

    @classmethod
    def of(cls, recommendation: Recommendation) -> _Said:
        """Read one recommendation."""
        text, quote = recommendation.text, recommendation.quote
        return cls(content_words(text), numbers(text), content_words(quote), numbers(quote))

    def __or__(self, other: _Said) -> _Said:
        return _Said(
            self.words | other.words,
            self.numbers | other.numbers,
            self.own | other.own,
            self.own_numbers | other.own_numbers,
        )

    def holds(self, other: _Said) -> bool:
        """Tell whether this says what `other` says, and little else."""
        return (
            other.numbers <= self.numbers
            and len(other.words & self.words) >= HELD_WORDS * len(other.words)
            and len(other.words & self.own) >= OWN_WORDS * len(self.own)
        )

    def is_part_of(self, whole: _Said) -> bool:
        """Tell whether what this quotes is said by `whole`."""
        return self.own_numbers <= whole.numbers and len(self.own & whole.words) >= HELD_WORDS * len(self.own)


def measure(extracted: Sequence[Recommendation], reference: Sequence[Recommendation]) -> ExtractionScore:
    """Compare an extraction with a reference; sections are matched by their numbers.

    A recommendation of the reference is found when one extracted from its section holds it: all of its numbers, at
    least 70% of its content words, and at least half of the words quoted are its own. Lists join with a semicolon
    what a document says in two sentences, so two neighbours may hold it together; `in_two` names those. An extracted
    one is right when it holds one of the reference, or one of the reference says all of its numbers and 70% of the
    words that it quotes.
    """
    found: dict[str, list[_Said]] = defaultdict(list)
    listed: dict[str, list[_Said]] = defaultdict(list)
    for recommendation in extracted:
        found[recommendation.section].append(_Said.of(recommendation))
    for recommendation in reference:
        listed[recommendation.section].append(_Said.of(recommendation))
    missed: list[str] = []
    in_two: list[str] = []
    spurious: list[str] = []
    for recommendation in reference:
        wanted, near = _Said.of(recommendation), found[recommendation.section]
        if any(one.holds(wanted) for one in near):
            continue
        together = any((one | two).holds(wanted) for one, two in pairwise(near))
        (in_two if together else missed).append(recommendation.id)
    for recommendation in extracted:
        said = _Said.of(recommendation)
        if not any(said.holds(r) or said.is_part_of(r) for r in listed[recommendation.section]):
            spurious.append(recommendation.id)
    recall = 1 - len(missed) / len(reference) if reference else 0.0
    precision = 1 - len(spurious) / len(extracted) if extracted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return ExtractionScore(precision, recall, f1, missed, spurious, in_two)
