"""Generated pairs with exact truth: a sentence beside itself with one thing changed, or with nothing changed but words.

An edit that changes the claim (a number, a unit, a comparator, a polarity, a population, a route, a frequency) makes a
contradicting pair; one that does not (a number in words, 48 hours for 2 days, IV for intravenous, clauses swapped)
makes a consistent one. Both kinds are applied together as well, so that the contradiction is not just any difference.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.statements.vignettes import in_words
from trainer.verifier.pairs import Pair, Relation

_NUMBER = re.compile(r"(?<![\w.,/-])\d+(?:[.,]\d+)?(?![\w,]|\.\d|-\d)")
_FACTORS = (0.5, 2.0, 3.0, 0.1, 10.0, 1.5, 0.25)

#: Words that cannot be exchanged without changing the claim, in groups; any other of the group is wrong.
_EXCLUSIVE = (
    ("at least", "at most"),
    ("more than", "less than"),
    ("above", "below"),
    ("over", "under"),
    ("before", "after"),
    ("higher", "lower"),
    ("minimum", "maximum"),
    ("increase", "decrease"),
    ("start", "stop"),
    ("begin", "end"),
    ("include", "exclude"),
    ("with", "without"),
    ("adults", "children", "infants"),
    ("adult", "child", "infant"),
    ("men", "women"),
    ("pregnant", "non-pregnant"),
    ("severe", "mild"),
    ("low-risk", "high-risk"),
    ("inpatients", "outpatients"),
    ("hospitalized", "non-hospitalized"),
    ("hospitalised", "non-hospitalised"),
    ("orally", "intravenously", "subcutaneously", "intramuscularly"),
    ("oral", "intravenous", "subcutaneous", "intramuscular", "topical", "inhaled"),
    ("once daily", "twice daily", "three times daily", "once weekly"),
    ("once a day", "twice a day", "once a week"),
    ("daily", "weekly", "monthly"),
    ("every day", "every other day", "every week"),
    ("days", "weeks", "hours", "months"),
    ("day", "week", "hour", "month"),
    ("minutes", "hours"),
    ("mg", "g", "micrograms"),
    ("mg/kg", "mg/m2", "micrograms/kg"),
    ("first-line", "second-line", "last-line"),
    ("first", "last"),
    ("always", "never"),
    ("all", "no"),
    ("any", "no"),
    ("both", "neither"),
    ("preferred", "avoided"),
    ("recommended", "discouraged"),
    ("safe", "unsafe"),
    ("contraindicated", "permitted"),
    ("required", "unnecessary"),
    ("needed", "not needed"),
    ("effective", "ineffective"),
    ("routinely", "never"),
    ("continue", "discontinue"),
    ("together with", "instead of"),
    ("in addition to", "instead of"),
    ("regardless of", "depending on"),
    ("until", "only after"),
    ("faster", "slower"),
    ("longer", "shorter"),
    ("early", "late"),
)
#: Polarity: each side is the denial of the other.
_POLARITY = (
    (r"\bshould not\b", "should"),
    (r"\bshould\b(?! not)", "should not"),
    (r"\bmust not\b", "must"),
    (r"\bmust\b(?! not)", "must not"),
    (r"\bdo not\b", ""),
    (r"\bdoes not\b", "does"),
    (r"\bis not\b", "is"),
    (r"\bare not\b", "are"),
    (r"\bcannot\b", "can"),
    (r"\bcan\b(?! not|not)", "cannot"),
    (r"\bis (?=recommended|needed|required|given|used|preferred|continued|stopped|started|enough|safe)", "is not "),
    (r"\bare (?=recommended|needed|required|given|used|preferred|continued|stopped|started|enough|safe)", "are not "),
    (
        r"^(?=(?:Offer|Give|Use|Start|Stop|Treat|Measure|Check|Repeat|Continue|Avoid|Consider|Prescribe|Refer)\b)",
        "Do not ",
    ),
)
#: Words that can be exchanged without changing the claim.
_SAME = (
    ("milligrams", "mg"),
    ("intravenously", "IV", "by vein", "i.v."),
    ("intravenous", "IV"),
    ("orally", "by mouth"),
    ("subcutaneously", "under the skin", "SC"),
    ("once daily", "once a day", "every 24 hours", "q24h", "every day"),
    ("twice daily", "twice a day", "every 12 hours", "b.i.d."),
    ("three times daily", "three times a day", "every 8 hours", "t.i.d."),
    ("at least", "no fewer than", "a minimum of"),
    ("at most", "no more than", "a maximum of", "up to"),
    ("more than", "over", "above", "greater than", ">"),
    ("less than", "under", "below", "fewer than", "<"),
    ("before", "prior to", "ahead of"),
    ("after", "following"),
    ("within", "inside"),
    ("children", "paediatric patients", "kids"),
    ("adults", "grown-ups", "adult patients"),
    ("patients", "people", "those"),
    ("pregnant women", "expectant mothers", "women who are pregnant"),
    ("recommended", "advised"),
    ("should be given", "ought to be given", "is to be given"),
    ("start", "begin", "initiate"),
    ("stop", "discontinue"),
    ("regardless of", "irrespective of", "whatever"),
    ("avoid", "do not use", "steer clear of"),
    ("contraindicated", "not to be used"),
    ("not recommended", "not advised", "discouraged"),
    ("kidney", "renal"),
    ("liver", "hepatic"),
    ("severe", "serious"),
    ("and", "as well as"),
)
_HOURS_A_DAY, _DAYS_A_WEEK = 24, 7
_SPAN = re.compile(r"(?<![\w.,/-])(?P<n>\d+)(?P<gap>[ -])(?P<unit>hours?|days?|weeks?)\b")
_CLAUSE = re.compile(
    r"^(?P<condition>(?:In|For|If|When|After|Before|During)\b[^,.;]{8,120}), (?P<rest>[^.;]{12,200})\.?$"
)


@dataclass(frozen=True, slots=True)
class Edit:
    """An edited sentence, and in a word what was changed."""

    text: str
    changed: str


def _swap(text: str, old: re.Match[str], new: str) -> str:
    if old.group()[:1].isupper():
        new = new[:1].upper() + new[1:]
    result = text[: old.start()] + new + text[old.end() :]
    return re.sub(r"\s{2,}", " ", result).strip()


def _find(phrase: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<![\w/-]){re.escape(phrase)}(?![\w/-])", text, re.IGNORECASE)


def _other_numbers(value: float, others: Sequence[float], whole: bool) -> list[float]:
    near = [value + d for d in (-3, -2, -1, 1, 2, 3)] if whole and value < 30 else [value - 5, value + 5, value + 10]
    candidates = {*near, *(value * f for f in _FACTORS), *others}
    if whole:
        candidates = {float(round(c)) for c in candidates}
    return sorted(c for c in candidates if c > 0 and abs(c - value) > 1e-9)


def numbers_of(text: str) -> list[float]:
    """Return the numbers of a text."""
    return [float(m.group().replace(",", "")) for m in _NUMBER.finditer(text)]


def change_number(text: str, rng: random.Random, others: Sequence[float] = ()) -> Edit | None:
    """Return the text with one of its numbers replaced by another one; None where it has none."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    match = rng.choice(found)
    written = match.group().replace(",", "")
    candidates = _other_numbers(float(written), others, "." not in written)
    if not candidates:
        return None
    return Edit(_swap(text, match, f"{rng.choice(candidates):.10g}"), "number")


def change_word(text: str, rng: random.Random) -> Edit | None:
    """Return the text with one word exchanged for another that excludes it; None where it has none of those known."""
    groups = list(_EXCLUSIVE)
    rng.shuffle(groups)
    for group in groups:
        for phrase in sorted(group, key=len, reverse=True):
            if match := _find(phrase, text):
                return Edit(_swap(text, match, rng.choice([p for p in group if p != phrase])), phrase)
    return None


def change_polarity(text: str, rng: random.Random) -> Edit | None:
    """Return the denial of the text; None where no auxiliary of the known ones is in it."""
    rules = list(_POLARITY)
    rng.shuffle(rules)
    for pattern, new in rules:
        if match := re.search(pattern, text):
            changed = _swap(text, match, new)
            if new == "Do not ":  # the imperative behind it loses its capital
                changed = f"Do not {changed[7:8].lower()}{changed[8:]}"
            return Edit(changed[:1].upper() + changed[1:], "polarity")
    return None


def contradict(text: str, rng: random.Random, others: Sequence[float] = ()) -> Edit | None:
    """Return the text with one thing changed that makes it say something else; None where nothing was found.

    `others` are numbers that occur elsewhere in the same guideline.
    """
    makers: list[Callable[[], Edit | None]] = [
        lambda: change_number(text, rng, others),
        lambda: change_word(text, rng),
        lambda: change_polarity(text, rng),
    ]
    for make in rng.sample(makers, len(makers)):
        edit = make()
        if edit and edit.text != text:
            return edit
    return None


def _respell_number(text: str, rng: random.Random) -> str:
    found = [m for m in _NUMBER.finditer(text) if m.group().isdigit() and int(m.group()) < 100]
    if not found:
        return text
    match = rng.choice(found)
    return _swap(text, match, in_words(int(match.group())))


def _respell_span(text: str, rng: random.Random) -> str:
    """Write a time span in another unit: 48 hours, 2 days."""
    found = list(_SPAN.finditer(text))
    if not found:
        return text
    match = rng.choice(found)
    number, unit, gap = int(match["n"]), match["unit"].rstrip("s"), match["gap"]
    days = {"hour": number / _HOURS_A_DAY, "day": number, "week": number * _DAYS_A_WEEK}[unit]
    options = {"hour": days * _HOURS_A_DAY, "day": days, "week": days / _DAYS_A_WEEK}
    whole = [(int(n), u) for u, n in options.items() if n == int(n) and u != unit and 0 < n <= 120]
    if not whole:
        return text
    number, unit = rng.choice(whole)
    plural = "" if gap == "-" or number == 1 else "s"
    return _swap(text, match, f"{number}{gap}{unit}{plural}")


def _respell_words(text: str, rng: random.Random) -> str:
    groups = list(_SAME)
    rng.shuffle(groups)
    for group in groups:
        for phrase in group:
            # Signs and abbreviations are not looked for: "<" may stand in a table, "above" is also a place.
            if phrase.isascii() and phrase[0].isalpha() and len(phrase) > 3 and (match := _find(phrase, text)):
                return _swap(text, match, rng.choice([p for p in group if p != phrase]))
    return text


def _swap_clauses(text: str, _: random.Random) -> str:
    match = _CLAUSE.match(text)
    if not match:
        return text
    condition, rest = match["condition"], match["rest"].rstrip(".")
    return f"{rest[:1].upper()}{rest[1:]} {condition[:1].lower()}{condition[1:]}."


def reword(text: str, rng: random.Random) -> str:
    """Return the text in other words that say the same, as far as known ones are in it."""
    for change in rng.sample([_respell_number, _respell_span, _respell_words, _swap_clauses], rng.randint(1, 3)):
        text = change(text, rng)
    return text


def edited_pairs(sentences: Sequence[tuple[str, str]], rng: random.Random) -> list[Pair]:
    """Return a twin for each (group, sentence) that can be edited: the sentence reworded, and that with one change."""
    pairs = []
    pool = [n for _, sentence in sentences for n in numbers_of(sentence)] or [1.0]
    for i, (group, sentence) in enumerate(sentences):
        base = reword(sentence, rng) if rng.random() < 0.7 else sentence
        edit = contradict(base, rng, rng.sample(pool, min(2, len(pool))))
        if edit is None:
            continue
        twin = f"edit:{i}:{sentence}"
        pairs.append(Pair(sentence, base, Relation.CONSISTENT, group, "edits", twin))
        pairs.append(Pair(sentence, edit.text, Relation.CONTRADICTS, group, "edits", twin))
    return pairs
