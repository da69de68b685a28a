"""Quantities of a recommendation, with units as a guideline writes them.

`trainer.statements.claims` reads quantities too, in units that make "two days" and "48 h" equal; here the reader's own
unit stays, because these numbers are shown, and generated from.
"""

from __future__ import annotations

import re

from monitor.text import normalise
from trainer.types import Quantity

_SPELLED = "one two three four five six seven eight nine ten eleven twelve"
_WORDS = {word: float(value) for value, word in enumerate(_SPELLED.split(), start=1)} | {"once": 1.0, "twice": 2.0}
_BASE = (
    r"mcg|micrograms?|ug|mg|milligrams?|g|grams?|kg|kilograms?|ml|millilit(?:re|er)s?|dl|l|lit(?:re|er)s?|mmol|umol|mol|"
    r"meq|iu|units?|kcal|kpa|mm ?hg|bpm|mm|cm|nm|°c|%|per ?cent|seconds?|minutes?|mins?|"
    r"hours?|hrs?|h|days?|weeks?|months?|years?|yrs?|"
    r"doses?|tablets?|capsules?|puffs?|drops?|pack-years?|copies|cells"
)
_UNIT = rf"(?:{_BASE})(?:/(?:kg|min|h|hour|day|d|week|ml|dl|l|m2|m\^2|mm3|ul)\b)*(?:/1\.73 ?m\^?2)?"
_ULN = r"(?:x|×|times|-?fold)(?: (?:the )?(?:uln\b|upper limit of (?:the )?normal(?: range)?))?"
_NUMBER = r"(?>\d{1,3}(?:,\d{3})+(?:\.\d++)?|\d++(?:\.\d++)?)"
_PERIOD = r"(?:daily|weekly|monthly|(?:a|per|each|every) (?:day|week|month))"
_FINDER = re.compile(
    rf"(?P<often>\b(?:once|twice|(?P<count>{_NUMBER}|{'|'.join(_WORDS)}) times) (?P<period>{_PERIOD})\b)"
    rf"|\b(?P<counted>day|week|month|cycle|grade|stage) (?P<ordinal>\d+(?:\.\d+)?)\b(?! ?(?:{_UNIT})\b)"
    rf"|(?P<number>(?<![\w.,])(?<![a-z]-)(?:{_NUMBER}))(?![\w]*\d)"
    rf"(?:[ -]?(?:(?:more|further|additional|extra|consecutive|full) )?(?P<unit>{_ULN}|(?:{_UNIT})(?![\w/]))|(?![a-z]))"
    rf"|\b(?P<word>{'|'.join(w for w in _WORDS if w not in ('once', 'twice'))})[ -](?P<word_unit>{_UNIT})(?![\w/])",
    re.IGNORECASE,
)
_LINK = re.compile(r"\s*(?:-|/|to|or|and|against|versus|vs\.?|through|up to)\s*", re.IGNORECASE)
_REFERENCE = re.compile(r"(?:section|table|figure|fig\.|page|chapter|appendix|version|box|step)s? $", re.IGNORECASE)
_PLURAL = {
    "second": "seconds", "minute": "minutes", "min": "minutes", "mins": "minutes", "hour": "hours", "hr": "hours",
    "hrs": "hours", "h": "hours", "day": "days", "week": "weeks", "month": "months", "year": "years", "yr": "years",
    "yrs": "years", "dose": "doses", "tablet": "tablets", "capsule": "capsules", "puff": "puffs", "drop": "drops",
    "unit": "units", "percent": "%", "per cent": "%", "microgram": "mcg", "micrograms": "mcg", "ug": "mcg",
    "milligram": "mg", "milligrams": "mg", "gram": "g", "grams": "g", "kilogram": "kg", "kilograms": "kg",
    "mm hg": "mmHg",
    "pack-year": "pack-years", "iu": "IU", "mmhg": "mmHg", "meq": "mEq", "kpa": "kPa", "°c": "°C",
    "millilitre": "mL", "millilitres": "mL", "milliliter": "mL", "milliliters": "mL",
    "litre": "L", "litres": "L", "liter": "L", "liters": "L",
}  # fmt: skip
_PART = {"ml": "mL", "dl": "dL", "l": "L", "ul": "uL"}


def _unit(text: str) -> str:
    """Return a unit as it is shown: plurals of time and pieces, capital litres, `times ULN`."""
    lower = " ".join(text.lower().split())
    if re.match(r"(?:x|×|times|-?fold)", lower):
        return "times ULN" if "uln" in lower or "upper limit" in lower else "times"
    if lower in _PLURAL:
        return _PLURAL[lower]
    return "/".join(
        _PART.get(part, _PLURAL.get(part, part) if i == 0 else part) for i, part in enumerate(lower.split("/"))
    )


def _period(text: str) -> str:
    lower = text.lower()
    return "per " + next(p for p in ("day", "week", "month") if p in lower or (p == "day" and "daily" in lower))


def quantities(text: str) -> tuple[Quantity, ...]:
    """Return the numbers of a text in order, with their units; linear in the length of the text.

    `days`, `hours`, `years` are durations and ages; `day` (singular) counts, as in "day 1"; `per day` is a frequency;
    `year` a date. In "30 to 120 minutes" and "140/90 mmHg" both numbers have the unit. A number without unit counts
    something and has the unit "". Digits of a name (COVID-19, CYP3A) and of a reference (table 2) are no numbers.
    """
    plain = normalise(text)
    found: list[tuple[Quantity, int, int]] = []
    for match in _FINDER.finditer(plain):
        if _REFERENCE.search(plain, max(0, match.start() - 12), match.start()):
            continue
        start, end, written = match.start(), match.end(), match.group()
        if match["often"]:
            count = match["count"] or written.split()[0]
            value = _WORDS[count.lower()] if count.lower() in _WORDS else float(count.replace(",", ""))
            quantity = Quantity(value, _period(match["period"]), written)
        elif match["counted"]:
            quantity = Quantity(float(match["ordinal"]), match["counted"].lower(), written)
        elif match["word"]:
            quantity = Quantity(_WORDS[match["word"].lower()], _unit(match["word_unit"]), written)
        else:
            value, unit = float(match["number"].replace(",", "")), _unit(match["unit"]) if match["unit"] else ""
            if not unit and re.fullmatch(r"(?:19|20)\d\d", match["number"]):
                unit = "year"
            quantity = Quantity(value, unit, written)
        found.append((quantity, start, end))
    # From the back: a number takes the unit of the one that it is linked to.
    for i in range(len(found) - 2, -1, -1):
        quantity, start, end = found[i]
        following = found[i + 1]
        if quantity.unit in ("", "year") and following[0].unit and _LINK.fullmatch(plain, end, following[1]):
            found[i] = (Quantity(quantity.value, following[0].unit, plain[start : following[2]]), start, end)
    return tuple(quantity for quantity, _, _ in found)
