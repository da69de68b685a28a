"""What a statement claims, as far as rules can read it: quantities, negations, and words in one canonical form.

In: any English clinical sentence. Out: a `Claim`, whose tokens are the same for "five-day course" and "5 day course",
"two hours" and "120 min", "q12h" and "twice daily", "begin" and "start". Verification compares claims; near-duplicate
removal and the leakage audit use their quantities and negations. Rules, not a parser: what they cannot read stays a
word, so two claims differ at worst where a reader sees no difference, and are equal only where a reader sees none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from monitor.text import normalise
from trainer.types import Quantity


def _words(text: str) -> tuple[str, ...]:
    """Split a list of words, so that a lexicon reads like one."""
    return tuple(text.split())


_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
_NUMBER_WORDS = {word: float(i) for i, word in enumerate(_ONES)} | {
    word: 10.0 * i for i, word in enumerate(_TENS, start=2)
}
_ORDINALS = {
    word: i
    for i, word in enumerate(_words("first second third fourth fifth sixth seventh eighth ninth tenth"), start=1)
}

#: Unit as written (lower case) -> canonical unit and the factor to it. Time in hours, ages in months: "48 h" and "2
#: days" are one quantity, but a month has no fixed number of days. Body weight (kg) is not drug mass (mg).
_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("h", 1 / 3600)),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), ("h", 1 / 60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), ("h", 1.0)),
    **dict.fromkeys(("d", "day", "days"), ("h", 24.0)),
    **dict.fromkeys(("wk", "wks", "week", "weeks"), ("h", 168.0)),
    **dict.fromkeys(("month", "months"), ("months", 1.0)),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), ("months", 12.0)),
    **dict.fromkeys(("microgram", "micrograms", "mcg", "\u03bcg", "ug"), ("mg", 0.001)),
    **dict.fromkeys(("milligram", "milligrams", "mg"), ("mg", 1.0)),
    **dict.fromkeys(("gram", "grams", "g"), ("mg", 1000.0)),
    **dict.fromkeys(("kilogram", "kilograms", "kilo", "kilos", "kg"), ("kg", 1.0)),
    **dict.fromkeys(("millilitre", "millilitres", "milliliter", "milliliters", "ml"), ("ml", 1.0)),
    **dict.fromkeys(("litre", "litres", "liter", "liters", "l"), ("ml", 1000.0)),
    "mcg/kg": ("mg/kg", 0.001),
    "mg/kg": ("mg/kg", 1.0),
    "ml/kg": ("ml/kg", 1.0),
    "ml/min": ("ml/min", 1.0),
    "l/min": ("l/min", 1.0),
    "lpm": ("l/min", 1.0),
    "ml/h": ("ml/h", 1.0),
    "g/dl": ("g/l", 10.0),
    "g/l": ("g/l", 1.0),
    "mg/dl": ("mg/dl", 1.0),
    "mg/ml": ("mg/ml", 1.0),
    "mmol/l": ("mmol/l", 1.0),
    "\u03bcmol/l": ("umol/l", 1.0),
    "umol/l": ("umol/l", 1.0),
    **dict.fromkeys(("u/l", "iu/l"), ("u/l", 1.0)),
    "mmhg": ("mmhg", 1.0),
    "bpm": ("bpm", 1.0),
    **dict.fromkeys(("%", "percent", "per cent"), ("%", 1.0)),
    **dict.fromkeys(("times", "fold", "x", "\u00d7"), ("times", 1.0)),
    **dict.fromkeys(("unit", "units", "iu"), ("units", 1.0)),
}
#: Written doses per day; "every N hours" and "N times a day" are computed.
_FREQUENCIES = {
    **dict.fromkeys(("qd", "od", "q.d.", "o.d."), 1.0),
    **dict.fromkeys(("bid", "bd", "b.i.d.", "b.d."), 2.0),
    **dict.fromkeys(("tid", "tds", "t.i.d."), 3.0),
    **dict.fromkeys(("qid", "qds", "q.i.d."), 4.0),
}
_TIMES = {"once": 1.0, "twice": 2.0, "thrice": 3.0}

_CARDINAL = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
    rf"|(?:(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_ONES[1:10])}))?|{'|'.join(_ONES)}|a hundred|one hundred)\b)"
)
_PER_KG = r"\s*(?:/|per|for each)\s*(?:kg|kilogram|kilo)\b(?:\s+of\s+(?:body[ -]?)?weight)?"
_MASS = r"(?P<mass>mcg|\u03bcg|micrograms?|mg|milligrams?|ml|millilit(?:re|er)s?)"
#: "3 consecutive days", "5 more days" are quantities too.
_BETWEEN = "consecutive|more|further|additional|extra|full|whole|calendar|other|next|remaining"
_NAMED_UNIT = "|".join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))
_DAY = r"(?:daily|(?:a|per|each|every)[ -]day|/\s?(?:d|day)\b)"
_TOKEN = re.compile(
    rf"(?P<freq>\bq\.?\s?(?P<qh>\d+)\s?h(?:rs?|ours?)?\b"
    rf"|\bevery\s(?P<eh>{_CARDINAL})\s?(?:h|hrs?|hours?)\b"
    rf"|\b(?P<ft>once|twice|thrice|{_CARDINAL}\s(?:times|x))[ -]{_DAY}"
    rf"|\b(?P<fa>{'|'.join(re.escape(f) for f in sorted(_FREQUENCIES, key=len, reverse=True))})(?![\w.])"
    r"|\bdaily\b|(?<=\bmg )(?:a|per|each|every)\sday\b|(?<=[mk]g)/d(?:ay)?\b)"
    r"|(?P<ordinal>\b\d+(?:st|nd|rd|th)\b)"
    rf"|(?P<number>(?<![\w.]){_CARDINAL})"
    rf"(?P<link>\s?(?:-|to|or|and|\u00b1)\s?(?=(?P<next>{_CARDINAL})))?"
    rf"(?:(?:\s(?:{_BETWEEN})(?=\s))?[ -]?(?:{_MASS}{_PER_KG}"
    rf"|(?P<unit>{_NAMED_UNIT})(?!\w|/(?!d(?:ay)?\b)|\s?/\s?kg)))?"
    r"|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)"
    r"|(?P<digits>\d+(?:\.\d+)?)|(?P<other>[<>\u2265\u2264=+\u00b1\u2192\u2191\u2193\u2713\u2717\u2718])"
)

#: After these words a number is a place in a schedule or a grade: "on day 1 and 2.5 mg/kg" is not 1 mg/kg.
_POSITION = re.compile(r"\b(?:days?|weeks?|dose|grade|stage|step|class|bed|no\.?)\s\Z")
#: Digits that are part of a name: COVID-19, SARS-CoV-2, and the body surface that eGFR is scaled to.
_NAMES = re.compile(r"(?<=covid)[- ]19\b|(?<=cov)-2\b|(?<=min)\s?/\s?1\.73\s?m(?:2|\^2)?\b")
_CONTRACTED = {"can't": ("can", "not"), "won't": ("will", "not"), "shan't": ("shall", "not"), "cannot": ("can", "not")}
#: Words that change nothing of what is claimed.
_EMPTY = frozenset(_words("a an the of then also please do does did"))
#: One word for those that clinicians use for one another. Words of unlike strength ("advised", "required") are not.
_SYNONYMS = {
    alternative: word
    for word, alternatives in {
        "start": "begin begins began begun beginning starts started starting initiate initiates initiated initiating "
        "commence commences commenced commencing",
        "stop": "stops stopped stopping discontinue discontinues discontinued discontinuing cease ceases ceased "
        "ceasing halt halts halted halting",
        "continue": "continues continued continuing",
        "give": "gives given gave giving administer administers administered administering",
        "receive": "receives received receiving get gets got getting",
        "be": "is are was were been being am 's 're",
        "have": "has had having 've",
        "recommend": "recommends recommended recommending",
        "increase": "increases increased increasing raise raises raised raising",
        "reduce": "reduces reduced reducing decrease decreases decreased decreasing lower lowers lowered lowering",
        "check": "checks checked checking",
        "monitor": "monitors monitored monitoring",
        "patient": "patients people persons person pts pt",
        "intravenous": "intravenously iv i.v",
        "hospitalized": "hospitalised",
        "non-hospitalized": "nonhospitalized nonhospitalised",
        "adult": "adults",
        "child": "children kid kids",
        "newborn": "newborns neonate neonates",
        "covid": "covid19",
        "symptom": "symptoms",
        "kidney": "renal",
        "liver": "hepatic",
        "need": "needs needed require requires required",
        "above": "exceeding",
    }.items()
    for alternative in alternatives.split()
}

_NEGATIONS = frozenset(
    _words(
        "no not never without none neither nor nobody nothing cannot non lacks lack n't avoid avoids avoided avoiding "
        "false wrong incorrect yes true right correct against"
    )
)
_DENIALS = frozenset(_words("no not never without none neither nor nobody nothing non"))
_NEGATING_PREFIX = re.compile(r"(?:un|in|im|il|ir|non|dis|contra)(?=\w{4})")
_KINDS: dict[str, frozenset[str]] = {
    "polarity": _NEGATIONS,
    "modality": frozenset(_words("must should shall may might can could need ought have would will")),
    "quantifier": frozenset(
        _words(
            "all any every each some most many few several both either only always usually often sometimes rarely half "
            "double triple quarter even regardless whole entire"
        )
    ),
    "comparison": frozenset(
        _words(
            "above below over under more less fewer least most maximum minimum max min than beyond exceed exceeds up "
            "greater high low higher lower longer shorter equal same different better worse increase reduce "
            "faster slower earlier later \u2265 \u2264 < >"
        )
    ),
    "timing": frozenset(
        _words(
            "before after during until within since once when while early late immediately soon start stop continue "
            "day night hour week month onset discharge prior afterwards daily consecutive"
        )
    ),
    "population": frozenset(
        _words(
            "adult child infant newborn baby teenager adolescent elderly older younger pregnant pregnancy "
            "breastfeeding woman women man men outpatient inpatient hospitalized non-hospitalized ventilated intubated "
            "ward home immunocompromised dialysis kidney liver risk severe mild moderate critical healthy diabetic "
            "vaccinated unvaccinated ventilation ventilator ecmo oxygen impairment age weight"
        )
    ),
    "route": frozenset(
        _words(
            "oral orally mouth tablet capsule intravenous intravenously infusion infused drip push bolus injection "
            "injected intramuscular subcutaneous inhaled nebulised nebulized vein muscle skin syrup swallow swallowed "
            "cannula nasal topical rectal"
        )
    ),
}
#: Endings of international non-proprietary names (WHO, "The use of stems in the selection of INN").
DRUG = re.compile(
    r"\w{3,}(?:vir|mab|nib|sone|solone|quine|mycin|cillin|cycline|floxacin|azole|statin|pril|sartan|olol|dipine|"
    r"parin|xaban|gatran|gliptin|gliflozin|formin|tidine|prazole|semide|thiazide|caine|profen|setron|triptan|"
    r"citinib|dronate|penem|oxetine|barbital|azepam|azolam)\b"
)


def _plain_number(text: str) -> float:
    text = text.lower().strip()
    if text in ("a hundred", "one hundred"):
        return 100.0
    if text[0].isdigit():
        return float(text.replace(",", ""))
    return sum(_NUMBER_WORDS[part] for part in re.split(r"[ -]", text))


def _word(text: str) -> Iterator[str]:
    """Yield the canonical tokens of one word, contractions apart; nothing for an empty word."""
    if text in _CONTRACTED:
        yield from _CONTRACTED[text]
        return
    if text.endswith("n't"):
        stem = text.removesuffix("n't")
        yield _SYNONYMS.get(stem, stem)
        yield "not"
        return
    stem, apostrophe, suffix = text.partition("'")
    if stem in _ORDINALS:
        yield f"#{_ORDINALS[stem]}"
    elif stem not in _EMPTY:
        yield _SYNONYMS.get(stem) or _SYNONYMS.get(_singular(stem), _singular(stem))
    if apostrophe and suffix in ("re", "ve", "ll", "d", "m"):
        yield {"re": "be", "ve": "have", "ll": "will", "d": "would", "m": "be"}[suffix]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ous")):
        return word[:-1]
    return word


@dataclass(frozen=True)
class Claim:
    """A statement as rules read it.

    `tokens` are canonical words, quantities as `"<value> <unit>"`, ordinals as `"#<n>"`, in order, without articles
    and punctuation. `quantities` have canonical units (hours, months, mg, kg, %, per day, ...) and the text as written.
    """

    tokens: tuple[str, ...]
    quantities: tuple[Quantity, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each token occurs."""
        return Counter(self.tokens)

    @cached_property
    def numbers(self) -> Counter[tuple[float, str]]:
        """How often each quantity occurs, as (value, canonical unit)."""
        return Counter((q.value, q.unit) for q in self.quantities)

    @property
    def negations(self) -> int:
        """How many tokens deny something ("no", "not", "without", ...)."""
        return sum(self.counts[word] for word in _DENIALS)


def _quantity(value: float, unit: str, text: str) -> Quantity:
    canonical, factor = _UNITS.get(unit, (unit, 1.0))
    return Quantity(round(value * factor, 6), canonical, text.strip())


def _frequency(match: re.Match[str]) -> Quantity:
    if hours := match["qh"] or match["eh"]:
        number = _plain_number(hours)
        value = 24 / number if number else 0.0
    elif times := match["ft"]:
        value = _TIMES[times] if times in _TIMES else _plain_number(re.sub(r"\s(?:times|x)$", "", times))
    else:
        value = _FREQUENCIES.get(match["fa"] or "", 1.0)
    return Quantity(round(value, 6), "per day", match.group())


def _unit_of(match: re.Match[str]) -> str:
    if mass := match["mass"]:
        return _UNITS[mass][0] + "/kg"
    return match["unit"] or ""


def read_claim(text: str, names: Sequence[str] = ()) -> Claim:
    """Read a statement. Never fails; linear in the length of the text.

    `names` are single words in lower case for one thing, such as generic and brand names of the treatment: all of them
    are read as the first.
    """
    plain = _NAMES.sub("", normalise(text).lower())
    matches = list(_TOKEN.finditer(plain))
    tokens: list[str] = []
    found: list[Quantity] = []
    unit = ""
    # From the back: in "30 to 120 minutes" and "30 or 60 mg" the first number has the unit of the next.
    for match in reversed(matches):
        if match["number"]:
            shares = match["link"] and not _POSITION.search(plain, max(0, match.start() - 7), match.start())
            unit = _unit_of(match) or (unit if shares else "")
            quantity = _quantity(_plain_number(match["number"]), unit, match.group())
        elif match["freq"]:
            quantity = _frequency(match)
        elif match["digits"]:  # "D5", "q1"
            quantity = _quantity(float(match["digits"]), "", match.group())
        else:
            stem, apostrophe, suffix = (match["word"] or "").partition("'")
            word = (names[0] if stem in names else stem) + apostrophe + suffix
            words = _word(word) if word else [match["ordinal"] or match["other"]]
            tokens.extend(reversed([f"#{w[:-2]}" if match["ordinal"] else w for w in words]))
            unit = ""
            continue
        if match["number"] and match["link"]:
            link = match["link"].strip()
            tokens.append(link if link in ("or", "and") else "to")
        if (quantity.text, quantity.unit) != ("one", ""):  # "one of the reasons" counts nothing
            found.append(quantity)
        tokens.append(f"{quantity.value!r} {quantity.unit}".strip())
    return Claim(tuple(reversed(tokens)), tuple(reversed(found)))


def numeral(quantity: Quantity) -> float:
    """Return the number of a quantity as it was written: 5 for "five days", whose value is 120 hours."""
    written = re.match(_CARDINAL, quantity.text)
    return _plain_number(written.group()) if written else quantity.value


def difference(one: Claim, other: Claim) -> tuple[Counter[str], Counter[str]]:
    """Return the tokens that only `one` has and those that only `other` has, as multisets."""
    return one.counts - other.counts, other.counts - one.counts


def changes(parent: Claim, child: Claim) -> tuple[str, ...]:
    """Name the kinds of change from one claim to another, sorted; nothing where both say the same.

    Kinds: number, unit, polarity, modality, quantifier, comparison, timing, population, route, drug; `wording` for any
    other words, `order` where only the order differs ("A rather than B").
    """
    gone, come = difference(parent, child)
    if not gone and not come:
        return () if parent.tokens == child.tokens else ("order",)
    kinds = {kind for word in [*gone, *come] for kind in _kinds_of(word)}
    if parent.numbers != child.numbers:
        values = Counter(q.value for q in parent.quantities), Counter(q.value for q in child.quantities)
        kinds.add("unit" if values[0] == values[1] else "number")
    if opposed(gone, come):
        kinds.add("polarity")
    return tuple(sorted(kinds))


def opposed(some: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether a word of one side is the opposite, by its prefix, of one of the other: "unacceptable"."""
    some, others = set(some), set(others)
    return bool(_affirmed(some) & others or _affirmed(others) & some)


def _affirmed(words: Iterable[str]) -> set[str]:
    """Return the words without their negating prefixes: "acceptable" for "unacceptable"."""
    return {word[prefix.end() :] for word in words if (prefix := _NEGATING_PREFIX.match(word))}


@cache
def _kinds_of(token: str) -> Iterable[str]:
    if token[0].isdigit():
        return ()  # quantities are compared as such
    if token[0] == "#":
        return ("number",)
    named = [kind for kind, words in _KINDS.items() if token in words]
    if DRUG.fullmatch(token):
        named.append("drug")
    return named or ("wording",)
