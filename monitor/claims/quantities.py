"""Read the numbers of a text: value, unit, comparator, what they measure, and the phase of treatment they belong to."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from monitor.claims import lexicon as lex
from monitor.claims.words import BOUNDARIES, stem

_NUMBERED = re.compile(r"([a-z]+)-?(\d+)([a-z]*)")
_FILLERS = lex.words("more further consecutive additional extra full whole calendar other next remaining straight")
_BEFORE_FILLERS = lex.words("about around roughly approximately a an the some as of")
_SHORT_UNITS = lex.words("s l h d g w y")
_PREPOSITIONS = lex.words("for in within over after least most than of about another past under inside only to")
_AGE_BEFORE = frozenset(["aged", "age", "ages"])
_PERSON = lex.words(
    "man woman boy girl patient person adult mother father brother sister lady pilot farmer teacher nurse "
    "outpatient inpatient child infant baby"
)
_PREGNANCY = lex.words("pregnancy gestation gestational pregnant")
_CUE_STOPS = frozenset({",", ";", ".", ":", "?", "(", "|", "\u2192"})
_YOUNG = lex.words(
    "neonate neonates newborn newborns infant infants baby babies child children boy girl toddler toddlers"
)
_OFFSETS = lex.words("after before ago later earlier beyond since into following prior from apart previously")
_LASTING = lex.words("for within after every over")


def _by_first_word() -> dict[str, list[tuple[tuple[str, ...], str, str]]]:
    """Return the phrases of all categories in words, by their first word, longest first."""
    found: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
    for phrase, (group, value) in lex.CATEGORIES.items():
        parts = tuple(phrase.replace("-", " ").split())
        found.setdefault(parts[0], []).append((parts, group, value))
    return {word: sorted(entries, key=lambda entry: -len(entry[0])) for word, entries in found.items()}


_PHRASES = _by_first_word()


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what it measures, as an interval in base units (mg, hours, kg, doses a day, ...).

    `kind` is what it may be compared with: "dose", "dose/kg", "duration", "span" (minutes and hours), "window" (time
    since onset), "day" (of treatment), "age", "weight", "frequency", "percent", "multiple", "clearance", "flow",
    "count", "number", "year", or a unit such as "mmol/L". An exact value has equal bounds; a missing bound is infinite,
    and an open one excludes its own value. `sign` is 1 where the author asserts it, -1 where he denies it, 0 where he
    asks. `phase` says of a dose whether it is the "first" one, a "later" one, or "" where nothing tells. `told` marks
    what is history, a total or part of a comparison. `start` and `end` are places of tokens, `context` the stems of the
    content words near them, `drugs` the drug names among these; `conditional` says that it stands in a condition,
    `ruled_out` that a negation stands right before it ("must not be given twice daily"). `name`
    is the stem of the content word before it, which often says of what it is.
    """

    kind: str
    low: float
    high: float
    label: str
    low_open: bool = False
    high_open: bool = False
    sign: int = 1
    phase: str = ""
    told: bool = False
    start: int = 0
    end: int = 0
    context: frozenset[str] = frozenset()
    drugs: frozenset[str] = frozenset()
    conditional: bool = False
    ruled_out: bool = False
    name: str = ""

    @property
    def exact(self) -> bool:
        """Whether it is one value and no bound or range."""
        return self.low == self.high

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within the bounds, but for rounding."""
        slack = 1e-6 * max(abs(value), 1e-6)
        above = value > self.low + slack if self.low_open else value >= self.low - slack
        return above and (value < self.high - slack if self.high_open else value <= self.high + slack)


def _value(piece: str) -> float | None:
    """Return the number that a token of digits writes, None for any other; absurdly long ones are none."""
    if not ("0" <= piece[0] <= "9") or len(piece) > 15 or ":" in piece or not piece.isascii():
        return None
    return float(piece.replace(",", ""))


def _below_hundred(tokens: Sequence[str], i: int) -> tuple[float | None, int]:
    """Return the number in words below a hundred that begins at a token, None for none, and the place after it."""
    first = tokens[i] if i < len(tokens) else ""
    if first in lex.ONES:
        return lex.ONES[first], i + 1
    if first not in lex.TENS:
        return None, i
    ones = lex.ONES.get(tokens[i + 1], 0.0) if i + 1 < len(tokens) else 0.0
    return (lex.TENS[first] + ones, i + 2) if 1 <= ones <= 9 else (lex.TENS[first], i + 1)


def _number(tokens: Sequence[str], i: int) -> tuple[float, int, bool] | None:
    """Return the number that begins at a piece, the place after it, and whether it was written in digits."""
    piece = tokens[i]
    value = _value(piece)
    digits = value is not None
    j = i + 1
    part = i + 1 if piece in ("a", "one", "two", "three") and j < len(tokens) and tokens[j] in _FRACTIONS else i
    if tokens[part] in _FRACTIONS and tokens[part + 1 : part + 2] == ["of"]:
        after = part + 3 if tokens[part + 2 : part + 3] in (["a"], ["an"]) else part + 2
        if after < len(tokens) and tokens[after] in lex.UNITS:
            times = lex.ONES.get(piece, 1.0) if part > i else 1.0
            return times * _FRACTIONS[tokens[part]], after, False
        return None
    if value is None:
        small, after = _below_hundred(tokens, i)
        if small is not None:
            value, j = small, after
        elif piece in ("a", "an") and j < len(tokens) and tokens[j] in lex.SCALES:
            value = 1.0
        elif piece == "half" and j < len(tokens):
            after = j + 1 if tokens[j] in ("a", "an") else j
            return (0.5, after, False) if after < len(tokens) and tokens[after] in lex.UNITS else None
        elif piece == "dozen":
            value = 12.0
        else:
            return None
    while j < len(tokens) and tokens[j] in lex.SCALES:
        value *= lex.SCALES[tokens[j]]
        j += 1
        if not digits:  # "two hundred and fifty"
            rest, after = _below_hundred(tokens, j + 1 if tokens[j : j + 1] == ["and"] else j)
            if rest is not None:
                value, j = value + rest, after
    if tokens[j : j + 1] == ["point"] and j + 1 < len(tokens) and tokens[j + 1] in lex.ONES:
        scale = 0.1
        j += 1
        while j < len(tokens) and lex.ONES.get(tokens[j], 10) < 10:
            value, scale, j = value + scale * lex.ONES[tokens[j]], scale / 10, j + 1
        return round(value, 9), j, digits
    if tokens[j : j + 3] == ["and", "a", "half"]:
        return value + 0.5, j + 3, digits
    return value, j, digits


def _unit(tokens: Sequence[str], i: int, digits: bool) -> tuple[str, float, str, int] | None:
    """Return the dimension at a piece, the factor to its base unit, the unit to show, and the place after it."""
    n = len(tokens)
    if i < n and tokens[i] in _FILLERS and i + 1 < n and tokens[i + 1] in lex.UNITS:
        i += 1
    if i >= n:
        return None
    piece = tokens[i]
    if piece == "per" and tokens[i + 1 : i + 2] == ["cent"]:
        return "percent", 1.0, "%", i + 2
    if piece == "u" and tokens[i + 1 : i + 3] == ["/", "l"]:
        return "U/L", 1.0, "U/L", i + 3
    if piece == "iu" and tokens[i + 1 : i + 3] == ["/", "l"]:
        return "U/L", 1.0, "U/L", i + 3
    if piece not in lex.UNITS or ((piece in _SHORT_UNITS or piece == "second") and not digits):
        return None
    dimension, factor, shown = lex.UNITS[piece]
    i += 1
    if dimension == "time":
        return dimension, factor, shown, i
    while i + 1 < n and (
        tokens[i] in ("/", "per", "for") or (tokens[i] == "a" and tokens[i + 1] in ("kilo", "kilogram"))
    ):
        under = tokens[i + 1]
        if tokens[i] == "for" and under not in ("every", "each"):
            break
        if under in ("every", "each") and i + 2 < n:
            i, under = i + 1, tokens[i + 2]
        if under not in lex.DENOMINATORS:
            break
        name = lex.DENOMINATORS[under]
        # A litre of air and a millilitre of plasma flow at rates that nobody compares.
        top = shown if dimension == "volume" else dimension
        dimension, shown = f"{top}/{name}", f"{shown}/{name}"
        if top in ("mL", "L"):
            factor = 1.0
        if name == "dL":
            dimension, factor = f"{top}/L", factor * 10
        i += 2
    if tokens[i : i + 2] == ["of", "body"] or tokens[i : i + 2] == ["body", "weight"]:
        i += 2
    return dimension, factor, shown, i


_KINDS = {
    "mass": "dose",
    "mass/kg": "dose/kg",
    "units": "units",
    "weight": "weight",
    "mL/min": "clearance",
    "L/min": "flow",
    "weight/m2": "bmi",
}


#: Name the patient's own time: "a quarter of an hour", "three quarters of a year".
_FRACTIONS = {"quarter": 0.25, "quarters": 0.25, "third": 1 / 3, "thirds": 1 / 3, "half": 0.5}
_WORDS_OF_NUMBERS = frozenset(lex.SCALES) | frozenset(_FRACTIONS)


def _is_a_day(shown: Sequence[str]) -> bool:
    """Tell whether a time is written "24 hours", which mostly says "a day" of a rate."""
    return list(shown) == ["24 hours"]


class QuantityReader:
    """One pass over the tokens of a text."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.quantities: list[Quantity] = []
        self.found: list[tuple[str, str, int]] = []
        self.used = bytearray(len(tokens) + 1)  # negators that belong to a comparator or a category

    # -------------------------------------------------------------------------------------------------- quantities

    def _comparator(self, start: int) -> tuple[str, bool, int] | None:
        tokens, end = self.tokens, start
        while end > 0 and tokens[end - 1] in _BEFORE_FILLERS:
            if end > 1 and f"{tokens[end - 2]} {tokens[end - 1]}" in lex.BEFORE:
                break
            end -= 1
        for size in range(min(lex.BEFORE_WORDS, end), 0, -1):
            entry = lex.BEFORE.get(" ".join(tokens[end - size : end]))
            if entry is not None:
                return entry[0], entry[1], end - size
        return None

    def _after(self, end: int) -> tuple[str, bool, int] | None:
        tokens = self.tokens
        first = tokens[end] if end < len(tokens) else ""
        second = tokens[end + 1] if end + 1 < len(tokens) else ""
        if first in ("or", "and"):
            if second in lex.AFTER_LEAST:
                return "least", False, end + 2
            if second in lex.AFTER_MOST:
                return "most", False, end + 2
        elif first == "+":
            return "least", False, end + 1
        elif first in ("maximum", "max"):
            return "most", False, end + 1
        elif first == "at" and (second in ("least", "most") or tokens[end + 1 : end + 2] == ["the"]):
            word = tokens[end + 2] if second == "the" and end + 2 < len(tokens) else second
            if word in ("least", "most", "minimum", "maximum"):
                return ("least" if word in ("least", "minimum") else "most"), False, end + 3 - (second != "the")
        return None

    def _time_kind(self, hours: float, shown: str, start: int, end: int) -> str:
        tokens = self.tokens
        after = tokens[end : end + 7]
        before = tokens[max(0, start - 4) : start]
        if after[:1] == ["old"] or after[:2] == ["of", "age"] or not _AGE_BEFORE.isdisjoint(before):
            return "age"
        if not _YOUNG.isdisjoint(before) and self._comparator(start) is not None and not _LASTING.intersection(before):
            return "age"
        if shown == "years" and not (after and after[0] in ("ago", "later", "after", "of", "before")):
            return "age" if not before or before[-1] not in ("for", "within", "in", "every", "after") else "duration"
        for place, piece in enumerate(after):
            if piece in BOUNDARIES:
                break
            if piece in lex.ONSET and (place == 0 or after[0] in ("of", "from", "after", "since", "following", "into")):
                return "window"
        if before and (before[-1] == "within" or before[-2:] == ["within", "the"] or before[-2:] == ["later", "than"]):
            return "window"
        if before and before[-1] == "by" and hours >= 1:
            return "window"
        if before and before[-1] == "for" and not lex.ONSET.isdisjoint(before):
            return "window"
        if not _PREGNANCY.isdisjoint(after[:3]) or not _PREGNANCY.isdisjoint(before):
            return "gestation"
        if before and before[-1] in ("at", "before", "until"):
            return "interval"
        bound = self._comparator(start)
        first = bound[2] if bound is not None else start
        lasting = first > 0 and self.tokens[first - 1] == "for"
        if (after[:1] and after[0] in _OFFSETS and not lasting) or (before and before[-1] == "after"):
            return "interval"
        if hours < 24 or shown in ("hours", "minutes", "seconds"):
            return "span"
        return "duration"

    def _add(
        self,
        kind: str,
        low: float,
        high: float,
        label: str,
        start: int,
        end: int,
        *,
        strict: bool = False,
        told: bool = False,
    ) -> None:
        if not (math.isfinite(low) or math.isfinite(high)):
            return
        self.quantities.append(
            Quantity(
                kind,
                low,
                high,
                label,
                low_open=strict and high == math.inf,
                high_open=strict and low == -math.inf,
                told=told,
                start=start,
                end=end,
            )
        )

    def _bounded(
        self, kind: str, values: Sequence[float], shown: Sequence[str], start: int, end: int, *, factor: float = 1.0
    ) -> int:
        """Add a quantity with the comparator around it, and return the place after it."""
        told = False
        if start > 0 and self.tokens[start - 1] in ("by", "than"):
            told = self._comparator(start) is None
        if kind in ("duration", "span") and not told:
            told = not lex.HAS.isdisjoint(self.tokens[max(0, start - 6) : start]) or _is_a_day(shown)
        low, high = min(values) * factor, max(values) * factor
        label = " to ".join(shown)
        bound = self._comparator(start) if len(values) == 1 else None
        time = kind in ("span", "duration")
        if bound is not None and time and self.tokens[bound[2]] == "over":
            bound = None  # "over 30 minutes" is how long it takes
        if bound is not None and self.tokens[bound[2]] == "from" and (time or kind in ("dose", "percent", "number")):
            bound = None  # "from 15 days to 10"
        if bound is None and len(values) == 1:
            after = self._after(end)
            if after is not None:
                bound, end = (after[0], after[1], start), after[2]
        strict = False
        if bound is not None:
            side, strict, first = bound
            for k in range(first, start):
                self.used[k] = 1
            if side == "most":
                low, label = -math.inf, ("under " if strict else "at most ") + label
            else:
                high, label = math.inf, ("over " if strict else "at least ") + label
            start = min(first, start)
        self._add(kind, low, high, label, start, end, strict=strict, told=told)
        return end

    def _frequency(self, i: int) -> int | None:
        """Read a frequency that begins at a piece; return the place after it."""
        tokens, n = self.tokens, len(self.tokens)
        piece = tokens[i]
        if piece in lex.FREQUENCIES:
            if i and tokens[i - 1] in ("once", "twice", "thrice", "times"):
                return None
            before = tokens[i - 1] if i else ""
            if before in lex.ONES or _value(before or "-") is not None:
                return i + 1  # "four-weekly" is every four weeks, "four weekly doses" are not
            rate = lex.FREQUENCIES[piece] * (2 if before == "half" else 1)
            self._add("frequency", rate, rate, f"half-{piece}" if before == "half" else piece, i, i + 1)
            return i + 1
        if piece in lex.TIMES or (i + 1 < n and tokens[i + 1] in ("times", "x", "\u00d7") and _number(tokens, i)):
            number = lex.TIMES.get(piece)
            j = i + 1
            if number is None:
                parsed = _number(tokens, i)
                if parsed is None or parsed[1] != i + 1:
                    return None
                number, j = parsed[0], i + 2
            if j < n and tokens[j] in ("a", "per", "each", "every", "in", "/", "an"):
                j += 1
            if j < n and (tokens[j] in lex.PER_DAY or tokens[j] in lex.FREQUENCIES):
                rate = lex.PER_DAY.get(tokens[j]) or lex.FREQUENCIES[tokens[j]]
                name = " ".join(tokens[i : j + 1])
                bound = self._comparator(i)
                for k in range(bound[2] if bound else i, i):
                    self.used[k] = 1
                self._add("frequency", number * rate, number * rate, name, i, j + 1, told=bound is not None)
                return j + 1
            return None
        if piece in ("every", "each"):
            if i + 1 < n and tokens[i + 1] in lex.PER_DAY:
                self._add(
                    "frequency",
                    lex.PER_DAY[tokens[i + 1]],
                    lex.PER_DAY[tokens[i + 1]],
                    f"{piece} {tokens[i + 1]}",
                    i,
                    i + 2,
                )
                return i + 2
            if tokens[i + 1 : i + 3] in (["other", "day"], ["second", "day"]):
                self._add("frequency", 0.5, 0.5, "every other day", i, i + 3)
                return i + 3
            if piece == "every" and i + 1 < n:
                return self._every(i)
        if piece == "q":
            return self._every(i) if i + 1 < n else None
        return None

    def _every(self, i: int) -> int | None:
        tokens = self.tokens
        parsed = _number(tokens, i + 1)
        if parsed is None:
            return None
        value, j, _ = parsed
        other = _number(tokens, j + 1) if j + 1 < len(tokens) and tokens[j] in ("to", "-", "or") else None
        unit = _unit(tokens, other[1] if other else j, True)
        if unit is None or unit[0] != "time" or value <= 0:
            return None
        values = [24 / (value * unit[1])] + ([24 / (other[0] * unit[1])] if other and other[0] > 0 else [])
        shown = f"every {value:g}{f' to {other[0]:g}' if other else ''} {unit[2]}"
        self._add("frequency", min(values), max(values), shown, i, unit[3])
        return unit[3]

    def _named(self, i: int) -> int | None:
        """Read "d1", "day-4", "q24h", "day 4", "the fourth day", "weeks 2 to 5", "grade III"."""
        tokens, n = self.tokens, len(self.tokens)
        piece = tokens[i]
        match = _NUMBERED.fullmatch(piece) if piece[-1] <= "9" or any(map(str.isdigit, piece)) else None
        if match is not None:
            name, digits, tail = match.groups()
            if len(digits) > 6:
                return None
            value = float(digits)
            if name == "q" and tail in ("h", "hr", "d", "w") and value:
                rate = 24 / value if tail[0] == "h" else (1 if tail == "d" else 1 / 7) / value
                self._add("frequency", rate, rate, f"every {value:g} {'hours' if tail[0] == 'h' else tail}", i, i + 1)
                return i + 1
            if name in ("d", "day", "days") and not tail:
                return self._day(value, i, i + 1)
            return None
        if piece in ("day", "days"):
            parsed = _number(tokens, i + 1) if i + 1 < n else None
            if parsed is not None and _unit(tokens, parsed[1], parsed[2]) is None:
                return self._day(parsed[0], i, parsed[1])
            return None
        value = lex.ORDINALS.get(piece, 0.0)
        j = i + 1
        if not value and j < n and piece[0].isdigit() and tokens[j] in ("st", "nd", "rd", "th"):
            value, j = _value(piece) or 0.0, j + 1
        if value and j < n:
            if tokens[j] in ("day",):
                return self._day(value, i, j + 1)
            if j == i + 2:
                return j
        if piece in lex.GRADED and j < n and (value := lex.ROMAN.get(tokens[j], _value(tokens[j]) or 0.0)):
            self._add(piece, value, value, f"{piece} {value:g}", i, j + 1)
            return j + 1
        return None

    def _day(self, value: float, start: int, end: int) -> int:
        tokens = self.tokens
        following = _NUMBERED.fullmatch(tokens[end]) if value == 1 and end < len(tokens) else None
        if following and following[1] == "d" and not following[3] and int(following[2]) > 1 and len(following[2]) < 4:
            self._add(
                "duration",
                24.0 * int(following[2]),
                24.0 * int(following[2]),
                f"days 1 to {following[2]}",
                start,
                end + 1,
            )
            return end + 1
        near = tokens[max(0, start - 2) : start] + tokens[end : end + 4]
        kind = "window" if not lex.ONSET.isdisjoint(near) else "day"
        factor = 24.0 if kind == "window" else 1.0
        if end + 1 < len(tokens) and tokens[end] in ("to", "-", "and"):
            other = _number(tokens, end + 1)
            if other is not None and other[0] > value and _unit(tokens, other[1], other[2]) is None:
                self._add(kind, value * factor, other[0] * factor, f"days {value:g} to {other[0]:g}", start, other[1])
                if value == 1 and kind == "day" and tokens[end] != "and":
                    self._add("duration", 24 * other[0], 24 * other[0], f"days 1 to {other[0]:g}", start, other[1])
                return other[1]
        bound = self._comparator(start)
        after = end < len(tokens) and tokens[end] in ("on", "onward", "onwards", "+")
        if after or (bound is not None and bound[0] == "least"):
            self._add(kind, value * factor, math.inf, f"from day {value:g}", start, end)
        elif bound is not None:
            self._add(kind, -math.inf, value * factor, f"up to day {value:g}", start, end)
        else:
            self._add(kind, value * factor, value * factor, f"day {value:g}", start, end)
        return end

    def _plain(self, i: int) -> int | None:
        """Read a number with or without a unit; return the place after it."""
        tokens, n = self.tokens, len(self.tokens)
        piece = tokens[i]
        if piece in ("a", "an", "another") and not (i + 1 < n and tokens[i + 1] in _WORDS_OF_NUMBERS):
            # "an hour", "within a week"; but "once a day", "one bag a day"
            if (
                i + 1 < n
                and tokens[i + 1] in lex.UNITS
                and lex.UNITS[tokens[i + 1]][0] == "time"
                and tokens[i + 1] not in _SHORT_UNITS
                and tokens[i + 1] != "second"
            ):
                if tokens[i + 1] in lex.PER_DAY and (not i or tokens[i - 1] not in _PREPOSITIONS):
                    if i and (tokens[i - 1] in lex.DOSES or tokens[i - 1] in lex.UNITS):
                        rate = lex.PER_DAY[tokens[i + 1]]
                        self._add("frequency", rate, rate, f"a {tokens[i + 1]}", i, i + 2)
                        return i + 2
                    return None
                if tokens[i + 1] == "minute" and (not i or tokens[i - 1] not in _PREPOSITIONS):
                    return None
                _, factor, shown = lex.UNITS[tokens[i + 1]]
                end = i + 2
                extra = 0.5 if tokens[end : end + 3] == ["and", "a", "half"] else 0.0
                end += 3 if extra else 0
                kind = self._time_kind(factor, shown, i, end)
                value = (1 + extra) * factor
                return self._bounded(
                    kind, [value], [f"{1 + extra:g} {shown.removesuffix('s') if not extra else shown}"], i, end
                )
            return None
        parsed = _number(tokens, i)
        if parsed is None:
            return None
        value, j, digits = parsed
        values, unit = [value], _unit(tokens, j, digits)
        end = unit[3] if unit else j
        link = tokens[end] if end + 1 < n else ""
        between = i > 0 and tokens[i - 1] == "between"
        told = link in ("against", "versus", "vs")
        if told:
            self.used[end] = 1
        if link in ("to", "-", "or") or (link == "and" and between) or told:
            other = _number(tokens, end + 1)
            other_unit = _unit(tokens, other[1], other[2] or digits) if other else None
            if other and other_unit and (unit is None or unit[0] == other_unit[0]):
                factor = unit[1] / other_unit[1] if unit else 1.0
                values, unit, end = [value * factor, other[0]], other_unit, other_unit[3]
            elif other and unit is None and other_unit is None and link != "and" and other[0] > value:
                values, end = [value, other[0]], other[1]
        if link == "+" and unit is None and end + 1 < n and _number(tokens, end + 1):
            days = _number(tokens, end + 1)
            if days and (weeks := _unit(tokens, days[1], True)) and weeks[2] == "weeks":
                self._add(
                    "gestation", value + days[0] / 7, value + days[0] / 7, f"{value:g}+{days[0]:g} weeks", i, weeks[3]
                )
                return weeks[3]
        if unit is not None:
            return self._measured(values, unit, link, i, end)
        if digits and 1900 <= value <= 2100 and value == int(value) and "," not in piece:
            self._add("year", value, value, piece, i, j, told=True)
            return j
        return self._bare(values, digits, i, end)

    def _measured(self, values: list[float], unit: tuple[str, float, str, int], link: str, i: int, end: int) -> int:
        tokens = self.tokens
        dimension, factor, shown, _ = unit
        kind = _KINDS.get(dimension, dimension)
        if dimension == "time":
            kind = self._time_kind(max(values) * factor, shown, i, end)
        elif dimension == "volume" and shown == "L":
            kind, factor = "flow", 1.0  # "on 4 L"
        elif kind == "dose" and shown == "g" and "weigh" in " ".join(tokens[max(0, i - 4) : i]):
            kind, factor = "weight", 0.001
        labels = [
            f"{v:g} {shown.removesuffix('s') if v == 1 and len(shown) > 2 else shown}".replace(" %", "%")
            for v in values
        ]
        if len(values) == 2 and link in ("or", "against", "versus", "vs"):
            for value, label in zip(values, labels, strict=True):
                self._add(kind, value * factor, value * factor, label, i, end, told=link != "or")
        else:
            shown_values = labels if len(values) == 1 else [f"{values[0]:g}", labels[1]]
            end = self._bounded(kind, values, shown_values, i, end, factor=factor)
        if (tokens[end : end + 1] == ["/"] and end + 1 < len(tokens) and tokens[end + 1] in lex.PER_DAY) or (
            tokens[end : end + 1] == ["per"] and end + 1 < len(tokens) and tokens[end + 1] in lex.PER_DAY
        ):
            rate = lex.PER_DAY[tokens[end + 1]]
            self._add("frequency", rate, rate, f"per {tokens[end + 1]}", end, end + 2)
            end += 2
        return end

    def _bare(self, values: list[float], digits: bool, i: int, end: int) -> int:
        tokens, n = self.tokens, len(self.tokens)
        following = tokens[end] if end < n else ""
        labels = [f"{v:g}" for v in values]
        before = tokens[max(0, i - 4) : i]
        if following in ("times", "x", "\u00d7", "fold"):
            end += 1
            return self._bounded("multiple", values, [*labels[:-1], labels[-1] + " times"], i, end)
        if following in ("hourly",) and values[0] > 0:
            self._add("frequency", 24 / values[-1], 24 / values[0], f"every {values[0]:g} hours", i, end + 1)
            return end + 1
        if following in lex.DOSES:
            return self._bounded("count", values, [*labels[:-1], f"{labels[-1]} {following}"], i, end + 1)
        if digits and any(word in ("egfr", "crcl", "clearance", "gfr") for word in before):
            return self._bounded("clearance", values, labels, i, end)
        if digits and (
            not _AGE_BEFORE.isdisjoint(before) or (len(before) > 1 and before[-1] == "of" and before[-2] in _PERSON)
        ):
            return self._bounded("age", [v * 8766.0 for v in values], [*labels[:-1], labels[-1] + " years"], i, end)
        if following in lex.MONTHS and digits:
            return self._date(int(values[0]), following, i, end + 1)
        if digits:
            return self._bounded("number", values, labels, i, end)
        return end

    def _date(self, day: int, month: str, start: int, end: int) -> int:
        # Days into a year of thirty-day months with the odd days at their ends: differences within a season are exact.
        offsets = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
        self._add(
            "date",
            offsets[lex.MONTHS[month] - 1] + day,
            offsets[lex.MONTHS[month] - 1] + day,
            f"{day} {month}",
            start,
            end,
        )
        return end

    def read(self) -> None:
        """Collect quantities and categories, in order."""
        tokens, n = self.tokens, len(self.tokens)
        i = 0
        while i < n:
            piece = tokens[i]
            entries = _PHRASES.get(piece)
            if entries:
                for parts, group, value in entries:
                    size = len(parts)
                    if size == 1 or tuple(tokens[i : i + size]) == parts:
                        self.found.append((group, value, i))
                        if size > 1:
                            for k in range(i, i + size):
                                self.used[k] = 1
                            i += size - 1
                        break
                i += 1
                continue
            first = piece[0]
            end = None
            if first.isalnum():
                if (
                    piece in _STARTERS
                    or "0" <= piece[-1] <= "9"
                    or "0" <= first <= "9"
                    or (first == "q" and len(piece) < 6)
                ):
                    end = self._frequency(i) or self._named(i) or self._clock(i) or self._plain(i)
                elif piece in lex.MULTIPLES:
                    self._bounded("multiple", [lex.MULTIPLES[piece]], [f"{lex.MULTIPLES[piece]:g} times"], i, i + 1)
            i = end if end is not None and end > i else i + 1

    def _clock(self, i: int) -> int | None:
        piece = self.tokens[i]
        if ":" not in piece:
            return None
        hour, minute = piece.split(":")
        if int(hour) > 24 or int(minute) > 59:
            return None
        self._add("clock", int(hour) + int(minute) / 60, int(hour) + int(minute) / 60, piece, i, i + 1)
        return i + 1


_STARTERS = (
    frozenset(lex.ONES)
    | frozenset(lex.TENS)
    | frozenset(lex.TIMES)
    | frozenset(lex.FREQUENCIES)
    | frozenset(lex.ORDINALS)
    | lex.GRADED
    | {"a", "an", "another", "half", "dozen", "every", "each", "q", "day", "days"}
)


def context(tokens: Sequence[str], quantity: Quantity) -> frozenset[str]:
    """Return the stems of the content words within seven tokens of a quantity."""
    near = [*tokens[max(0, quantity.start - 7) : quantity.start], *tokens[quantity.end : quantity.end + 7]]
    return frozenset(stem(t) for t in near if t[0].isalpha() and t not in lex.FUNCTION and t not in lex.UNITS)


def name_before(tokens: Sequence[str], quantity: Quantity) -> str:
    """Return the stem of the content word before a quantity, "" for none."""
    for piece in tokens[max(0, quantity.start - 3) : quantity.start][::-1]:
        if piece in BOUNDARIES:
            break
        if piece[0].isalpha() and piece not in lex.FUNCTION and piece not in lex.UNITS and len(piece) > 4:
            return stem(piece)
    return ""


def set_phases(quantities: list[Quantity], tokens: Sequence[str]) -> None:
    """Say of each dose whether it is the first of a course or a later one, by the nearest word that tells."""
    doses = [k for k, q in enumerate(quantities) if q.kind in ("dose", "dose/kg", "units")]
    days = {q.start: q for q in quantities if q.kind == "day"}

    def cue(places: range, stops: frozenset[str]) -> str:
        for place in places:
            piece = tokens[place]
            if piece in stops:
                return ""
            if place in days:
                return "first" if days[place].high <= 1 else "later" if days[place].low >= 2 else ""
            if piece in lex.FIRST:
                return "first"
            if piece in lex.LATER:
                return "later"
        return ""

    for order, k in enumerate(doses):
        own = quantities[k]
        last = quantities[doses[order + 1]].start if order + 1 < len(doses) else len(tokens)
        first = quantities[doses[order - 1]].end if order else 0
        phase = cue(
            range(own.end, min(own.end + 8, last)),
            _CUE_STOPS | {"then", "and", "followed", "before"},
        )
        if not phase:
            phase = cue(range(own.start - 1, max(first, own.start - 8) - 1, -1), _CUE_STOPS | {"after", "before"})
        near = [*tokens[max(0, own.start - 4) : own.start], *tokens[own.end : own.end + 3]]
        counted = own.start > 0 and (tokens[own.start - 1] in lex.ONES or _value(tokens[own.start - 1]) is not None)
        has = not lex.HAS.isdisjoint(tokens[max(0, own.start - 6) : own.start])
        told = own.told or counted or has or not lex.TOTAL.isdisjoint(near) or not lex.TOLD.isdisjoint(near)
        quantities[k] = replace(own, phase=phase, told=told)


def _at_bound(quantity: Quantity) -> Quantity:
    """Return the one value that a bound names: 40 of "a limit of 40"."""
    value = quantity.low if math.isfinite(quantity.low) else quantity.high
    return replace(quantity, low=value, high=value)


def derive(quantities: list[Quantity]) -> None:
    """Add what follows from pairs: the time between two hours of a clock or two dates, a value over its limit."""
    for kind, result in (("clock", "span"), ("date", "duration"), ("U/L", "multiple")):
        pair = [q if q.exact else _at_bound(q) for q in quantities if q.kind == kind]
        if len(pair) != 2:
            continue
        (one, other) = pair
        label = f"{one.label} to {other.label}"
        if kind == "clock":
            span = (other.low - one.low) % 24
            quantities.append(Quantity(result, span, span, label, told=True))
        elif kind == "date" and other.low > one.low:
            quantities.append(
                Quantity(result, 24 * (other.low - one.low), 24 * (other.low - one.low + 1), label, told=True)
            )
        elif kind == "U/L" and min(one.low, other.low) > 0:
            ratio = max(one.low, other.low) / min(one.low, other.low)
            quantities.append(Quantity(result, ratio, ratio, f"{ratio:g} times"))


def merged(quantities: list[Quantity]) -> list[Quantity]:
    """Join a lower bound and the upper one that follows it closely: "at least 3 kg and under 40 kg"."""
    result: list[Quantity] = []
    for q in quantities:
        last = result[-1] if result else None
        if (
            last is not None
            and last.kind == q.kind
            and q.low == -math.inf
            and last.low < q.high
            and ((last.high == math.inf and q.start - last.end <= 4) or (last.exact and q.start == last.end))
        ):
            label = (
                f"{last.label.removeprefix('at least ').removeprefix('over ')} to {q.label.removeprefix('at most ')}"
            )
            result[-1] = replace(last, high=q.high, high_open=q.high_open, label=label, end=q.end)
        else:
            result.append(q)
    return result
