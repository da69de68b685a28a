"""Whether texts affirm or deny the same: clause by clause, because a sentence may recommend one thing and deny another.

A clause is negated by an odd number of cues ("not", "without", "avoid", "contraindicated", "advised against", ...), so
that "should not be withheld" is an affirmation. Clauses are compared by the content words that they share. Rules, not
understanding: those who drop what is doubtful ask `contradiction`, those who accuse ask `is_reversed` and `replaced`,
which answer only where wording cannot be the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from bm25s.stopwords import STOPWORDS_EN

from monitor.text import normalise
from trainer.statements.claims import Claim, read_claim

Number = tuple[float, str]  # value and canonical unit, see `trainer.statements.claims`

_JOINED = re.compile(r"\b(non|contra)-(?=\w)", re.IGNORECASE)


def read(text: str) -> Claim:
    """Read a claim; "non-invasive" is one word of its own, not a denied one, and "contra-indicated" is one too."""
    return read_claim(_JOINED.sub(r"\1", text))


_FUNCTION_WORDS = frozenset(
    read(
        " ".join(STOPWORDS_EN) + " be have can could will would who which whose whom what when where while than from "
        "its also he she we you i any some other each both either how because so since through during about per up out"
    ).tokens
)
_REFUSALS = frozenset(
    read(
        "avoid avoids avoided avoiding contraindicated contraindications discourage discourages discouraged withhold "
        "withholds withheld withholding"
    ).tokens
)
_NEGATIONS = _REFUSALS | frozenset(read("no not never without none neither nor nothing nobody").tokens)
#: Judgements that a prefix denies.
_DENIED = {
    word: word[2:]
    for word in ("unnecessary", "inappropriate", "unacceptable", "unsuitable", "inadvisable", "unsafe", "unjustified")
}
#: Words that say between which bounds, or with which exceptions, something holds.
BOUNDS = frozenset(
    read(
        "above below over under more less fewer least most maximum minimum before after until within only all every "
        "few many unless except"
    ).tokens
)
_AGAINST = re.compile(r"\b(?:advis|recommend|warn|caution)\w*\s+against\b")
_CLAUSE = re.compile(
    r",(?!\d{3}(?!\d))|[;:()\u2013\u2014]|\s-\s|\.(?=\s|$)"
    r"|\b(?:and|or|but)\s(?=(?:is|are|was|were|has|have|do|does|may|can|must|should|will|it|there|the"
    r"|at|in|on|for|with|without)\b)"
    r"|\b(?:but|who|which|that|whose|if|unless|when|while|because|although|whereas|until|then)\b"
    r"|\b(?=with(?:out)?\b)"
)
#: "Without improvement treatment may be extended": what is missing is denied, and no more.
_WITHOUT = re.compile(
    r"\W*without\b.*?(?=\s(?:is|are|was|were|has|have|do|does|may|can|must|should|will)\b)", re.IGNORECASE | re.DOTALL
)
_CONDITION = re.compile(
    r"\W*(?:who|which|that|whose|if|unless|when|while|because|although|whereas|until|after|before|during)\b",
    re.IGNORECASE,
)
#: "With oxygen" is a condition, "in pregnancy it is avoided" is not.
_PREPOSITION = re.compile(r"\W*(?:with|without|for|in|on|at|among)\b", re.IGNORECASE)
#: Words that a reversal may exchange: "is recommended", "may be given", "is to be avoided".
_ADVICE = frozenset(
    read("recommend advised indicated use used using give receive begin continue should may must").tokens
)
_JUDGEMENTS = frozenset(read("recommend advised indicated use used").tokens)
_HALTS = frozenset(read("stop interrupt interrupted").tokens)
#: With one of these a part that begins with a preposition has a verb.
_ADVISING = _ADVICE | _HALTS | _REFUSALS | frozenset(read("is can has").tokens)
#: Share of their words (Dice) from which on two texts speak of the same case: "mild" for "severe" is another one.
_SAME = 0.9
#: The same of clauses, and of texts, whose quantities are compared.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Clause:
    """Part of a text that is affirmed or denied as one: stems of its content words, its quantities, and which it is."""

    words: frozenset[str]
    quantities: frozenset[Number]
    negated: bool
    condition: bool  # says for whom or when, not what: "with oxygen", "who are not at risk", "Children:"


def content(tokens: Collection[str]) -> list[str]:
    """Return the canonical words of a claim that carry content: no quantities, no function words, no negations."""
    return [t for t in tokens if t[0].isalpha() and t not in _FUNCTION_WORDS and t not in _NEGATIONS]


def stem(word: str) -> str:
    """Cut a long word to seven letters, so that "monitored" meets "monitoring" (truncation stemming)."""
    return word[:7]


def _parts(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the clauses of a text with what stands before and after each."""
    opening, start = "", 0
    for cut in (*_CLAUSE.finditer(text), None):
        part, closing = text[start : cut.start() if cut else None], cut.group() if cut else ""
        if lacking := _WITHOUT.match(part):
            yield opening, lacking.group(), ""
            opening, part = "", part[lacking.end() :]
        yield opening, part, closing
        if cut:
            opening, start = closing, cut.end()


def clauses(text: str) -> list[Clause]:
    """Return the clauses of a text in order, those without content left out."""
    result: list[Clause] = []
    affirmed: list[str] = []  # words of the last clause that was
    for opening, part, closing in _parts(normalise(text)):
        claim = read(part)
        found = content(claim.tokens)
        words = [_DENIED.get(word, word) for word in found]
        denials = [token for token in claim.tokens if token in _NEGATIONS]
        cues = len(denials) + sum(word in _DENIED for word in found) + len(_AGAINST.findall(part.lower()))
        if len(denials) > 1:
            cues -= denials.count("nor")  # "neither A nor B" denies once
        if not (words or cues or claim.quantities):
            continue
        # "A is recommended for adults, and B is not": all but A is denied of B.
        elliptic = bool(claim.tokens) and claim.tokens[-1] in _NEGATIONS
        said = [*words, *affirmed[1:]] if elliptic else words
        negated = cues % 2 == 1
        led = f"{opening} {part}"
        advises = not _ADVISING.isdisjoint(claim.tokens)
        condition = bool(_CONDITION.match(led) or (not advises and (closing == ":" or _PREPOSITION.match(led))))
        result.append(Clause(frozenset(map(stem, said)), frozenset(claim.numbers), negated, condition))
        if words and not negated:
            affirmed = words
    return result


def denies(heading: str) -> bool:
    """Tell whether a heading denies, as "Not recommended" does."""
    return any(clause.negated for clause in clauses(heading))


def refuses(heading: str) -> bool:
    """Tell whether a heading denies advice, as "Not recommended" does, rather than something of patients."""
    return denies(heading) and not (_REFUSALS | _JUDGEMENTS).isdisjoint(read(heading).tokens)


def is_fragment(text: str) -> bool:
    """Tell whether a text is an item of a list rather than a sentence."""
    return not text.rstrip().endswith((".", "!", "?"))


def clauses_below(denial: str, text: str) -> list[Clause]:
    """Return the clauses of a text below a heading that denies, "" for none: it turns a mere item below it round."""
    own = clauses(text)
    if not denial or not is_fragment(text):
        return own
    words = {stem(word) for word in content(read(denial).tokens)}
    return [replace(clause, words=clause.words | words, negated=not clause.negated) for clause in own]


def closest(own: Clause, others: Sequence[Clause]) -> list[Clause]:
    """Return the clauses that share most content words with `own`, and at least one."""
    shared = [len(own.words & other.words) for other in others]
    most = max(shared, default=0)
    return [other for other, n in zip(others, shared, strict=True) if n == most > 0]


def is_opposed(own: Clause, near: Sequence[Clause]) -> bool:
    """Tell whether all clauses that are closest to `own` deny what it affirms, or affirm what it denies."""
    if len(own.words) == 1:  # "without dexamethasone": many clauses have the word, few say only that
        shortest = min((len(other.words) for other in near), default=0)
        near = [other for other in near if len(other.words) == shortest]
    if own.condition and not own.negated:  # "In children, avoid it" agrees with "it is not given to children"
        near = [other for other in near if other.condition]
    return bool(near) and all(other.negated != own.negated for other in near)


def binds(near: Sequence[Clause], quantities: Collection[Number]) -> bool:
    """Tell whether one of some clauses has all of the quantities."""
    return not quantities or any(clause.quantities.issuperset(quantities) for clause in near)


def contradiction(text: Sequence[Clause], source: Sequence[Clause]) -> Clause | None:
    """Return the first clause of a text that its source, held against it, has the other way round, or None."""
    return next((own for own in text if is_opposed(own, closest(own, source))), None)


_INTERCHANGEABLE = frozenset(map(stem, _ADVICE | _HALTS | {"patient"}))
_HALT_STEMS = frozenset(map(stem, _HALTS))


def _dice(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def _subject(clause: Clause) -> frozenset[str]:
    """Return of what a clause speaks, without what it advises."""
    return clause.words - _INTERCHANGEABLE


def _refuses(clause: Clause) -> bool:
    """Tell whether a clause advises against its subject; "do not stop" does not."""
    return clause.negated != (not clause.words.isdisjoint(_HALT_STEMS))


def _together(parts: Sequence[Clause]) -> tuple[frozenset[str], frozenset[Number]]:
    """Return of what a whole text speaks, and its quantities."""
    return frozenset().union(*map(_subject, parts)), frozenset().union(*(part.quantities for part in parts))


def bounds(text: str) -> frozenset[str]:
    """Return the words of a text that bound what it says, such as "below" and "unless"."""
    return BOUNDS.intersection(read(text).tokens)


def is_reversed(old: str, new: str) -> bool:
    """Tell whether a text certainly advises against what another one advises, or the other way round.

    Both speak of the same, with the same quantities and bounds, and a clause of the same words is turned round that
    neither text has both ways, with the same denied conditions: "recommended with oxygen" may mean "not recommended
    without".
    """
    before, after = clauses(old), clauses(new)
    (words, quantities), (new_words, new_quantities) = _together(before), _together(after)
    if quantities != new_quantities or bounds(old) != bounds(new) or _dice(words, new_words) < _SAME:
        return False
    if _denied_conditions(before) != _denied_conditions(after):
        return False
    return any(_is_turned(own, before, after) for own in before if not own.condition)


def _denied_conditions(parts: Sequence[Clause]) -> set[frozenset[str]]:
    return {clause.words for clause in parts if clause.condition and clause.negated}


def _is_turned(own: Clause, before: Sequence[Clause], after: Sequence[Clause]) -> bool:
    def ways(parts: Sequence[Clause]) -> set[bool]:
        return {_refuses(clause) for clause in parts if clause.words and _subject(clause) == _subject(own)}

    return bool(own.words) and ways(before) == {_refuses(own)} and ways(after) == {not _refuses(own)}


def replaced(old: str, new: str) -> frozenset[Number]:
    """Return the quantities that certainly have another value in the new text.

    Such a quantity is missing in all of the new text, and the clause that corresponds to its own has one of its kind
    that the old text does not have. What was only left out or added may be a matter of wording.
    """
    before, after = clauses(old), clauses(new)
    (words, quantities), (new_words, new_quantities) = _together(before), _together(after)
    same_text = _dice(words, new_words) >= _ALIKE
    gone, come = quantities - new_quantities, new_quantities - quantities

    def correspond(one: Clause, other: Clause) -> bool:
        a, b = _subject(one), _subject(other)
        return _dice(a, b) >= _ALIKE if a and b else same_text and not (a or b)

    return frozenset(
        number
        for own in before
        for number in own.quantities & gone
        if any(_is_kin(number, n) for other in after if correspond(own, other) for n in other.quantities & come)
    )


def _is_kin(one: Number, other: Number) -> bool:
    """Tell whether two quantities measure the same thing, or are one number with two units."""
    (value, unit), (other_value, other_unit) = one, other
    durations = {unit, other_unit} <= {"h", "months"}
    return unit == other_unit or durations or (value == other_value and bool(unit and other_unit))
