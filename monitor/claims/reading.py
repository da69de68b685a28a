"""Read a text into a `Claim`: its quantities, categories and words, each with whether the author asserts or denies it.

Rules over one pass of tokens, no parser: what cannot be read stays unread, and nothing is concluded from it. Linear in
the length of the text, and only the first `READ_CHARS` characters are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from monitor.claims import lexicon as lex
from monitor.claims.polarity import ADVICE, Clause, judge, segment
from monitor.claims.quantities import Quantity, QuantityReader, context, derive, merged, name_before, set_phases
from monitor.claims.words import is_drug, stem, tokenise

#: Beyond this length no text is a single statement; encoder and verifier see less of it.
READ_CHARS = 20_000
#: Beyond this many numbers or categories a text is a table.
_MOST = 64


@dataclass(frozen=True, slots=True)
class Category:
    """A word for one of several exclusive things: `group` "route", `value` "oral"; `sign` as of a `Quantity`."""

    group: str
    value: str
    sign: int
    conditional: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What rules read of one text.

    `words` maps the stem of each content word to its sign (0: both ways, or asked); `terms` maps words as written,
    function words included. `verdicts` counts main clauses that affirm and that deny. `questions` counts sentences that
    ask and are not answered, `reversals` the rejections ("it is a myth that") and negative answers.
    `compares` says that a value is called more or less than another ("more than the usual maximum").
    """

    quantities: tuple[Quantity, ...]
    categories: tuple[Category, ...]
    words: Mapping[str, int]
    terms: Mapping[str, int]
    drugs: frozenset[str]
    verdicts: tuple[int, int]
    final: int
    questions: int
    reversals: int
    negations: int
    compares: bool


EMPTY = Claim((), (), {}, {}, frozenset(), (0, 0), 0, 0, 0, 0, False)


def _sign(first: Clause, last: Clause) -> int:
    return first.sign if first.contrast or first.sign == 0 else last.sign


def _compares(tokens: Sequence[str], used: bytearray) -> bool:
    return any(
        piece == "than" and not used[i] and tokens[i - 1] not in ("rather", "other") for i, piece in enumerate(tokens)
    )


def read(text: str) -> Claim:
    """Read a normalised text (`monitor.text.normalise`). Never fails; linear in the length of the text."""
    tokens = tokenise(text[:READ_CHARS])
    if not tokens:
        return EMPTY
    reader = QuantityReader(tokens)
    reader.read()
    belongs, clauses, sentences = segment(tokens, reader.used)
    questions, reversals = judge(tokens, belongs, clauses, sentences)
    quantities = merged(reader.quantities)[:_MOST]
    set_phases(quantities, tokens)
    quantities = [
        replace(
            q,
            context=context(tokens, q),
            name=name_before(tokens, q),
            sign=_sign(clauses[belongs[q.start]], clauses[belongs[min(q.end, len(tokens)) - 1]]),
            drugs=frozenset(t for t in tokens[max(0, q.start - 4) : q.end + 3] if is_drug(t)),
            conditional=clauses[belongs[q.start]].conditional,
            ruled_out=not lex.NEGATORS.isdisjoint(
                t
                for t, used in zip(
                    tokens[max(0, q.start - 3) : q.start], reader.used[max(0, q.start - 3) :], strict=False
                )
                if not used
            ),
        )
        for q in quantities
    ]
    derive(quantities)
    categories = tuple(
        Category(group, value, clauses[belongs[i]].sign, clauses[belongs[i]].conditional)
        for group, value, i in reader.found[:_MOST]
    )
    words: dict[str, int] = {}
    terms: dict[str, int] = {}
    drugs: set[str] = set()
    affirmed = denied = final = 0
    advising: set[int] = set()
    for i, piece in enumerate(tokens):
        if not piece[0].isalpha():
            continue
        sign = clauses[belongs[i]].sign
        if piece in terms:
            terms[piece] = terms[piece] if terms[piece] == sign else 0
        else:
            terms[piece] = sign
        if piece in ADVICE:
            advising.add(belongs[i])
        if piece in lex.FUNCTION or piece in lex.NEGATORS or piece in lex.REFUSALS:
            continue
        if is_drug(piece):
            drugs.add(piece)
        key = stem(piece)
        words[key] = sign if words.get(key, sign) == sign else 0
    for index in sorted(advising):
        clause = clauses[index]
        if clause.conditional or not clause.sign or clause.contrast:
            continue
        affirmed += clause.sign > 0
        denied += clause.sign < 0
        final = clause.sign
    return Claim(
        tuple(quantities),
        categories,
        words,
        terms,
        frozenset(drugs),
        (affirmed, denied),
        final,
        questions,
        reversals,
        sum(clause.negations for clause in clauses),
        "than" in terms and _compares(tokens, reader.used),
    )
