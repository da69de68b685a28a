"""Who says what: clauses, what each denies, and whether a question, a myth or a belief turns it round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.claims import lexicon as lex
from monitor.claims.words import BOUNDARIES, SENTENCE_ENDS

_TOO = lex.words(
    "late long short high low much early little few many slow fast old young small big soon quick brief hasty rapid"
)
ADVICE = lex.words(
    "recommended recommend recommends indicated advised advise preferred should must may can could allowed "
    "permitted acceptable eligible qualifies candidate appropriate suitable option offer offered give given "
    "receive receives start started begin continue use used treat treated add added complete fine safe compatible "
    "possible right correct needed need needs required requires necessary enough reasonable justified sufficient "
    "due applies apply has have is are"
)


_RELATIVE = lex.words("who which that whose")
_PREDICATES = lex.words("applicable valid apply so true exceed go")


@dataclass(slots=True)
class Clause:
    """Part of a text that is affirmed or denied as one.

    `negations` and `rejections` count words that turn it round; `conditional` says that it says for whom or when;
    `contrast` that it names what is not meant ("rather than 10 days"). `sign` is what results: 1, -1, or 0 if asked.
    """

    sentence: int
    negations: int = 0
    rejections: int = 0
    length: int = 0
    conditional: bool = False
    contrast: bool = False
    sign: int = 1


def _has_verb(tokens: Sequence[str], start: int) -> bool:
    """Tell whether a verb or a negation comes soon, before the clause ends."""
    for piece in tokens[start : start + 6]:
        if piece in BOUNDARIES:
            return False
        if piece in lex.VERBS or piece in lex.NEGATORS:
            return True
    return False


def segment(tokens: Sequence[str], used: bytearray) -> tuple[list[int], list[Clause], list[int]]:
    """Return the clause of each piece, the clauses, and for each sentence the place of its first piece."""
    clauses = [Clause(0)]
    belongs: list[int] = []
    sentences = [0]
    current, borrowed = 0, 0  # a clause lent to the words after "without"
    home = 0
    fresh = True  # at the beginning of a clause
    verb = False  # the clause has one

    def open_clause() -> int:
        clauses.append(Clause(len(sentences) - 1))
        return len(clauses) - 1

    neither = False  # then "nor" denies nothing more
    relative = since = 0  # a relative clause, and the place of a negation in it
    previous = ""
    for i, piece in enumerate(tokens):
        if since and i - since >= 3 and (piece in lex.VERBS or piece in ADVICE or i - since >= 7):
            # "Patients who are not on oxygen receive ...": what follows belongs to the patients again.
            current, since, relative = open_clause(), 0, 0
            verb = False
        if piece in BOUNDARIES or piece in lex.CONJUNCTIONS:
            relative = since = 0
            neither = neither and piece not in SENTENCE_ENDS
        neither = neither or piece == "neither"
        if piece in BOUNDARIES:
            if borrowed:
                current, borrowed = home, 0
            belongs.append(current)
            if piece in SENTENCE_ENDS:
                sentences.append(i + 1)
            if not fresh or piece in SENTENCE_ENDS:
                current = open_clause()
            fresh = True
            previous = piece
            continue
        pair = f"{previous} {piece}"
        if pair in lex.CONTRASTS:
            current = open_clause()
            clauses[current].contrast = True
            clauses[current].negations = 1
        elif piece in lex.CONJUNCTIONS:
            if not fresh:
                current = open_clause()
            clauses[current].conditional = piece in lex.CONDITIONS
            borrowed, relative = 0, piece in _RELATIVE
        elif (previous in ("and", "or", "then") and not borrowed and not fresh and piece in lex.IMPERATIVES) or (
            verb and piece in ("and", "or", "nor") and not borrowed and _has_verb(tokens, i + 1)
        ):
            current = open_clause()
            verb = False
        if borrowed:
            borrowed -= 1
            if not borrowed or piece in lex.VERBS or piece in ADVICE:
                current, borrowed = home, 0
        belongs.append(current)
        clause = clauses[current]
        verb = (verb and not fresh) or piece in lex.VERBS
        clause.length += 1
        fresh = False
        if not used[i]:
            following = tokens[i + 1] if i + 1 < len(tokens) else ""
            if piece == "without":
                if not borrowed:
                    home = current
                current, borrowed = open_clause(), 4
                clauses[current].negations = 1
                clauses[current].conditional = True
            elif piece in lex.NEGATORS or piece.endswith("n't"):
                if f"{piece} {following}" not in lex.NOT_NEGATING and not (piece == "nor" and neither):
                    predicate = following in ADVICE or following in _PREDICATES
                    if (
                        piece == "not"
                        and previous
                        and previous not in lex.VERBS
                        and clause.length > 1
                        and not predicate
                    ):
                        home = current
                        current, borrowed = open_clause(), 7
                        clauses[current].contrast = True
                        clauses[current].negations = 1
                    else:
                        clause.negations += 1
                        since = i if relative else 0
            elif (
                (piece in lex.REFUSALS and (piece != "against" or previous in lex.ADVISING))
                or (piece == "too" and following in _TOO)
                or (piece == "ruled" and following == "out")
            ):
                clause.negations += 1
            elif piece in lex.REJECTIONS:
                clause.rejections += 1
        previous = piece
    return belongs, clauses, sentences


def judge(
    tokens: Sequence[str], belongs: Sequence[int], clauses: list[Clause], sentences: list[int]
) -> tuple[int, int]:
    """Set the sign of each clause; return the number of unanswered questions and of reversals."""
    questions = reversals = 0
    asked = [False] * len(sentences)
    for index in range(len(sentences)):
        stop = (sentences[index + 1] if index + 1 < len(sentences) else len(tokens)) - 1
        asked[index] = 0 <= stop < len(tokens) and tokens[stop] == "?"
    of_sentence: list[list[Clause]] = [[] for _ in sentences]
    for clause in clauses:
        clause.sign = -1 if clause.negations % 2 else 1
        if clause.length:
            of_sentence[clause.sentence].append(clause)
    for index, inside in enumerate(of_sentence):
        for place, clause in enumerate(inside):
            if not clause.rejections:
                continue
            rejecting = clause.sign * (-1) ** clause.rejections
            clause.sign = rejecting
            if rejecting > 0:
                continue
            others = inside[place + 1 :] if place == 0 and len(inside) > 1 else inside[max(0, place - 4) : place]
            if place == 0 and len(inside) == 1 and clause.length <= 6 and index and not asked[index - 1]:
                others = of_sentence[index - 1]
            if place and clause.length > 6:
                others = []
            for other in others:
                other.sign *= -1
            reversals += 1
    for index, inside in enumerate(of_sentence):
        later = sentences[index + 1] if index + 1 < len(sentences) else len(tokens)
        for i in range(sentences[index], later):
            if tokens[i] in lex.BELIEFS:
                fact = next((k for k in range(i + 1, min(i + 40, len(tokens))) if tokens[k] in lex.FACTS), None)
                if fact is not None:
                    stop = (
                        belongs[fact] if tokens[fact - 1] in BOUNDARIES or tokens[fact] == "but" else belongs[fact] + 1
                    )
                    for clause in clauses[belongs[i] : max(stop, belongs[i] + 1)]:
                        clause.sign = -1
                    reversals += 1
                break
        if not asked[index]:
            continue
        reply = (
            tokens[sentences[index + 1]] if index + 1 < len(sentences) and sentences[index + 1] < len(tokens) else ""
        )
        if reply in lex.YES:
            continue
        factor = -1 if reply in lex.NO else 0
        reversals += factor < 0
        questions += factor == 0
        for clause in inside:
            clause.sign *= factor
    return questions, reversals
