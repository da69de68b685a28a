"""Perturbation suites: minimal pairs that ask of a model one thing at a time.

From each recommendation, and from safe statements on it, one number, one negation or one population is changed, so
that the statement becomes wrong for a known reason; or its wording, so that it stays right. A model that reads passes
both; one that knows only the topic passes neither. After the contrast sets of Gardner et al. (EMNLP Findings 2020) and
the invariance and directional tests of CheckList (Ribeiro et al., ACL 2020).

Edits are made only where their effect on the meaning is sure: a number where the recommendation bounds it, a negation
in a main clause, a population that another recommendation rules out (`Contrast`, declared beside the pack). Never used
to train.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.statements.claims import DRUG
from trainer.statements.vignettes import Contrast, in_words
from trainer.types import Example, Label, Metric, Recommendation

NUMBER, NEGATION, POPULATION, INVARIANCE = "number", "negation", "population", "invariance"
Scorer = Callable[[Sequence[str]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Pair:
    """A safe statement with a wrong twin, or a twin that means the same, or both.

    `kind` is the suite; `what` says what was changed and why the twin is wrong, or still right.
    """

    recommendation: str
    safe_text: str
    unsafe_text: str | None
    variant_safe_text: str | None
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A number of a text with its unit and what the words before and after make of it.

    `text[start:end]` is the number as written. `low` and `high` bound what it allows (None: unbounded); both equal the
    number where nothing is said. The two numbers of a range ("30 to 120 minutes") have the same bounds.
    """

    start: int
    end: int
    value: float
    unit: str
    low: float | None
    high: float | None

    def allows(self, value: float) -> bool:
        """Tell whether another value of the same unit agrees with it."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


# ------------------------------------------------------------------------------------------------------------- numbers

_SMALL = {in_words(n): n for n in range(1, 13)}
_N = rf"\d+(?:\.\d+)?|{'|'.join(_SMALL)}"
_UNITS = {
    "mg/kg": "mg/kg", "mg": "mg", "milligrams": "mg", "kg": "kg", "mL/min": "mL/min", "L/min": "L/min",
    "mL": "mL", "%": "%",
    "minutes": "minutes", "minute": "minutes", "min": "minutes", "hours": "hours", "hour": "hours", "days": "days",
    "day": "days", "weeks": "weeks", "week": "weeks", "months": "months", "years": "years", "times": "times",
}  # fmt: skip
_UNIT = "|".join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))
_LEAST = r"at least|not less than|no less than|no fewer than|a minimum of|minimum of|from"
_MOST = (
    r"within|up to|at most|no more than|not more than|no longer than|not longer than|no later than|a maximum of|"
    r"maximum of|not exceed|under|below|less than|fewer than"
)
_ABOVE = r"above|more than|exceeds|over"
_MORE = r"more|over|older|longer|above|greater|higher"
_QUANTITY = re.compile(
    rf"(?:\b(?P<comparator>{_LEAST}|{_MOST}|{_ABOVE}) )?"
    rf"(?<![\w.,/-])(?P<number>{_N})(?:(?P<to> (?:to|against|up to) |[-–])(?P<second>{_N}))?"
    rf"[ -]?(?:(?:more|consecutive|full) )?(?P<unit>{_UNIT})(?![\w/])"
    rf"(?P<after> or (?:{_MORE}|less|younger|fewer|under|below))?",
    re.IGNORECASE,
)
#: A number in such a sentence is history or a comparison; another number would not make it wrong.
_TOLD = re.compile(r"\b(?:outdated|earlier advice|no longer|used to|not better|no better)\b", re.IGNORECASE)
#: Words around which the effect of an edit on the whole statement is not sure.
_UNSURE = re.compile(
    r"[?\"]|n't\b|\b(?:not|no|never|cannot|neither|nor|without|rather|instead|unless|avoid|except|than|wrong|"
    r"incorrect|false|myth|mistake|error|used to|formerly|earlier|outdated|longer|excludes?|until|but|however|although|"
    r"nothing|none|only|whereas|while|unlike|even)\b",
    re.IGNORECASE,
)

#: Such a statement is about the range itself; one value in its place would not say the same.
_OPEN = re.compile(
    r"\b(?:any|range|choice|choose|between|limits?|anywhere|either|faster|slower|longer|shorter|end)\b", re.IGNORECASE
)

#: Digits, but for those of a name: "COVID-19", "interleukin-6".
_NUMERAL = re.compile(r"(?<![A-Za-z]-)(?<!\d)\d+(?:\.\d+)?")


def _value(text: str) -> float:
    return float(_SMALL.get(text.lower(), text))


def bounds(text: str) -> list[Bound]:
    """Return the numbers of a text that have a unit, with what the text allows of them."""
    result = []
    for m in _QUANTITY.finditer(text):
        unit = next(u for name, u in _UNITS.items() if name.lower() == m["unit"].lower())
        value, comparator, after = _value(m["number"]), (m["comparator"] or "").lower(), (m["after"] or "").lower()
        low: float | None = value
        high: float | None = value
        if m["second"] and "against" not in m["to"]:
            high = _value(m["second"])
        elif re.fullmatch(_LEAST, comparator) or re.fullmatch(rf" or (?:{_MORE})", after):
            high = None
        elif re.fullmatch(_MOST, comparator) or after:
            low = None
        result.append(Bound(m.start("number"), m.end("number"), value, unit, low, high))
        if m["second"]:
            other = _value(m["second"])
            if "against" in m["to"]:
                low = high = other
            result.append(Bound(m.start("second"), m.end("second"), other, unit, low, high))
    return result


_FACTORS = (2.0, 0.5, 3.0, 0.25, 1.5)
_WHOLE = {"days", "weeks", "months", "years", "times", "hours", "minutes"}


def _wrong_values(bound: Bound, all_bounds: Sequence[Bound]) -> list[float]:
    """Return other values that no bound of the same unit allows."""
    same = [b for b in all_bounds if b.unit == bound.unit]
    found = []
    for factor in _FACTORS:
        value = bound.value * factor
        if bound.unit == "%" and bound.value > 1:
            value = float(round(value))
        whole = bound.unit not in _WHOLE or value == int(value)
        possible = bound.unit != "%" or value <= 100
        if whole and possible and not any(b.allows(value) or b.value == value for b in [bound, *same]):
            found.append(value)
    return found


def _allowed_text(bound: Bound) -> str:
    if bound.low == bound.high:
        return f"{bound.value:g} {bound.unit}"
    if bound.low is None:
        return f"at most {bound.high:g} {bound.unit}"
    return (
        f"at least {bound.low:g} {bound.unit}"
        if bound.high is None
        else f"{bound.low:g} to {bound.high:g} {bound.unit}"
    )


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _spelt_like(old: str, value: float) -> str:
    """Write a number as the old one was written, in words where that was."""
    return in_words(int(value)) if old.lower() in _SMALL and value == int(value) and value <= 20 else f"{value:g}"


def _inside_range(m: re.Match[str]) -> str:
    low, high = float(m["low"]), float(m["high"])
    return f"{round(low + (high - low) / 6):g} {m['unit']}"


#: A bound, and a value that it allows in its place.
_WITHIN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?<=over )(?P<low>\d+) to (?P<high>\d+) (?P<unit>minutes|hours)"), _inside_range),
    (re.compile(r"up to (?P<n>[4-9]|\d\d) (?=more days)"), lambda m: f"{int(m['n']) - 2} "),
    (re.compile(r"up to (?P<n>\d{2,3}) (?=minutes)"), lambda m: f"over {round(0.75 * int(m['n']))} "),
    (re.compile(r"at least (?:one|an|1) hour (?=after)"), lambda _: "two hours "),
    (re.compile(r"at least (?P<n>\d\d) (?=minutes after)"), lambda m: f"{round(1.5 * int(m['n']))} "),
    (re.compile(r"of (?P<n>\d+) kg or more"), lambda m: f"of {int(m['n']) + 15} kg"),
    (
        re.compile(r"(?P<verb>weigh(?:s|ing)?) at least (?P<n>[\d.]+) kg"),
        lambda m: f"{m['verb']} {1.2 * float(m['n']):g} kg",
    ),
    (re.compile(r"rises above (?P<n>\d+) times"), lambda m: f"rises to {round(1.5 * int(m['n']))} times"),
)


def _within(text: str) -> tuple[str, str] | None:
    """Return the text with a value that its own bound allows, and what was changed."""
    for pattern, choose in _WITHIN:
        if m := pattern.search(text):
            new = choose(m)
            return _replaced(text, m.start(), m.end(), new), f"{m[0].strip()!r} allows {new.strip()!r}"
    return None


def _number_pairs(recommendation: Recommendation, text: str, own: bool, rng: random.Random) -> Iterator[Pair]:
    """Yield a pair with one wrong number, and one with another right number, where there are such."""
    if _TOLD.search(text) or _TOLD.search(recommendation.text):
        return
    rule = bounds(recommendation.text)
    said = bounds(text)
    if not own:
        if _UNSURE.search(text) or not {b.value for b in said} <= {b.value for b in rule}:
            return
        if len(_NUMERAL.findall(text)) != len(said):
            return  # numbers of other things: of the patient, of days of illness
    candidates = []
    for bound in said:
        of_rule = next((b for b in rule if (b.value, b.unit) == (bound.value, bound.unit)), None)
        if of_rule is not None and (wrong := _wrong_values(of_rule, rule)):
            candidates.append((bound, of_rule, wrong))
        elif of_rule is not None and (of_rule.low, of_rule.high, of_rule.unit) == (1.0, None, "hours"):
            candidates.append((bound, of_rule, []))
    within = None if not own and _OPEN.search(text) else _within(text)
    if within is not None:
        yield Pair(recommendation.id, text, None, within[0], NUMBER, within[1])
    if not candidates:
        return
    bound, of_rule, wrong = rng.choice(candidates)
    if wrong:
        value = rng.choice(wrong)
        new = _spelt_like(text[bound.start : bound.end], value)
        changed = _replaced(text, bound.start, bound.end, new)
    else:  # at least one hour: anything less has another unit
        match = re.compile(r"[ -]hour").match(text, bound.end)
        if match is None:
            return
        new = rng.choice(("10 minutes", "20 minutes", "30 minutes"))
        changed = _replaced(text, bound.start, match.end(), new)
    what = f"{text[bound.start : bound.end]} became {new}; the recommendation says {_allowed_text(of_rule)}"
    yield Pair(recommendation.id, text, changed, None, NUMBER, what)


# ------------------------------------------------------------------------------------------------------------ negation

_BE = r"(?P<be>is|are|was|were)"
#: What is done to or by patients: "may", "can" and "cannot" allow or forbid such things, and guess at others.
_ACT = (
    r"(?=(?: still| now| also| simply| safely)? (?:be (?:given|used|added|prescribed|offered|treated|infused|started|"
    r"considered|dosed|extended|combined|continued|switched|repeated|ordered|administered|charted)|receive|continue|start|"
    rf"get|have {DRUG.pattern}|go on)\b)"
)
#: What people are told to do with a fact; it is not the fact that turns round with such a verb.
_TOLD_TO = (
    r"(?! not| never| (?:know|be aware|remember|expect|wonder|ask|query|tell|explain|note|understand|be told|say)\b)"
)
#: Sure in any main clause: what is recommended, forbidden or allowed turns round.
_STRONG: tuple[tuple[str, str], ...] = (
    (
        r"\bNo (?P<what>dose adjustment|adjustment|change)(?P<rest> of [a-z]+)? is (?P<verb>needed|necessary|required)",
        r"A \g<what>\g<rest> is \g<verb>",
    ),
    (
        rf"\b{_BE} not (?P<verb>recommended|indicated|advised|contraindicated|needed|required|repeated)\b",
        r"\g<be> \g<verb>",
    ),
    (rf"\b{_BE} (?P<verb>recommended|indicated|contraindicated|preferred|needed|required)\b", r"\g<be> not \g<verb>"),
    (rf"\b{_BE} advised against\b", r"\g<be> advised"),
    (r"\bneed not\b", "must"),
    (r"\bdoes not (?:need|have) to\b", "must"),
    (r"\b(?P<modal>should|must) not\b", r"\g<modal>"),
    (rf"\bcan ?not\b{_ACT}", "can"),
    (rf"\bmay\b{_ACT}", "must not"),
    (rf"\b(?P<modal>should|must)\b{_TOLD_TO}", r"\g<modal> not"),
    (rf"\bcan\b{_ACT}", "cannot"),
)
#: Sure in the words of a recommendation, where every main clause says what holds.
_PLAIN: tuple[tuple[str, str], ...] = (
    (rf"\b{_BE} (?:not|no) (?P<rest>a |better)", r"\g<be> \g<rest>"),
    (
        rf"\b{_BE} (?P<verb>given|outdated|monitored|checked|stopped|reconstituted|taken|reduced)\b",
        r"\g<be> not \g<verb>",
    ),
    (r"\b(?P<have>has|have) not been\b", r"\g<have> been"),
    (r"\b(?P<have>has|have) been\b", r"\g<have> not been"),
    (r"\bdoes not (?P<verb>guarantee|depend|replace|reduce)\b", r"does \g<verb>"),
    (r"\bcan help\b", "cannot help"),
    (r"\bdo not\b", "do"),
    (r"\breceive\b", "do not receive"),
    (r"\bruns over\b", "does not run over"),
    (r"\breduced\b", "did not reduce"),
    (r"\bshortened\b", "did not shorten"),
    (r"\busually resolves\b", "usually does not resolve"),
    (r"\bkeeps\b", "does not keep"),
    (r"\bConsider\b", "Do not consider"),
    (rf"\b{_BE} (?=the\b|\d+ (?:days|weeks|mg)\b)", r"\g<be> not "),
    (r"(?<=: )(?P<dose>\d+(?:\.\d+)? mg(?:/kg)?)\b", r"not \g<dose>"),
)
_SUBORDINATE = re.compile(
    r"\b(?:when|if|who|whom|whose|that|which|because|where|while|unless|since|whether|once|"
    r"what|how|whatever|until|before)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[,;:.]")
#: The same meaning with the negation elsewhere.
_PARAPHRASES: tuple[tuple[str, str], ...] = (
    (r"^No dose adjustment is needed", "There is no need to adjust the dose"),
    (r"\bThere is no need to adjust the dose\b", "No dose adjustment is needed"),
    (r"\bno need to adjust the dose\b", "dose adjustment is not needed"),
    (rf"\b{_BE} not recommended\b", r"\g<be> advised against"),
    (rf"\b{_BE} advised against\b", r"\g<be> not recommended"),
    (r"\bis not indicated for\b", "has no indication in"),
    (r"\bis contraindicated in\b", "must not be used in"),
    (r"\bmust not be\b", "must never be"),
    (r"\bshould not be withheld from\b", "should not be kept from"),
    (r"\bneed not\b", "does not have to"),
    (r"\bdoes not have to\b", "need not"),
    (r"\bcan continue\b", "need not stop"),
    (r"\bdoes not depend on\b", "is independent of"),
    (r"\bis not a treatment for\b", "does not treat"),
    (r"\bare not better than\b", "are no better than"),
    (r"\bhas not been shown\b", "remains unproven"),
    (r"\bis outdated\b", "no longer holds"),
    (r"\bwithout regard to\b", "regardless of"),
    (r"\bis not repeated\b", "is given no second time"),
    (r"\bat once\b", "without delay"),
)


def _sites(text: str, table: Sequence[tuple[str, str]]) -> list[tuple[int, int, str]]:
    """Return where one of the patterns stands in a main clause, with the replacement; the first pattern wins."""
    found: list[tuple[int, int, str]] = []
    for pattern, replacement in table:
        for m in re.finditer(pattern, text):
            ends = [e.end() for e in _CLAUSE_END.finditer(text, 0, m.start())]
            if _SUBORDINATE.search(text, max(ends, default=0), m.start()):
                continue
            if all(m.end() <= start or m.start() >= end for start, end, _ in found):
                found.append((m.start(), m.end(), m.expand(replacement)))
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _negation_pairs(recommendation: Recommendation, text: str, own: bool, rng: random.Random) -> Iterator[Pair]:
    """Yield a pair with one negation put in or taken out, and one that says the same with another negation."""
    sites = _sites(text, _STRONG)
    if own:
        sites = sites or _sites(text, _PLAIN)
    else:
        # Another negation, or a second place to negate, and the effect of one change is not sure.
        rest = "".join(text[a:b] for a, b in _gaps(text, sites))
        if len(sites) != 1 or _UNSURE.search(rest):
            sites = []
    if sites:
        start, end, new = rng.choice(sites) if own else sites[0]
        changed = _sentence(_replaced(text, start, end, new))
        yield Pair(recommendation.id, text, changed, None, NEGATION, f"{text[start:end]!r} became {new!r}")
    if same := _sites(text, _PARAPHRASES):
        start, end, new = rng.choice(same)
        variant = _sentence(_replaced(text, start, end, new))
        yield Pair(recommendation.id, text, None, variant, NEGATION, f"{text[start:end]!r} means {new!r}")


def _gaps(text: str, sites: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    edges = [0, *(x for start, end, _ in sorted(sites) for x in (start, end)), len(text)]
    return list(zip(edges[::2], edges[1::2], strict=True))


# ---------------------------------------------------------------------------------------------------------- population


def _population_pairs(
    recommendation: Recommendation, text: str, own: bool, contrasts: Sequence[Contrast]
) -> Iterator[Pair]:
    """Yield pairs in which the population became one that another recommendation decides about differently."""
    for contrast in contrasts:
        if contrast.recommendation != recommendation.id:
            continue
        found = list(re.finditer(rf"(?<!\w){re.escape(contrast.before)}(?!\w)", text, re.IGNORECASE))
        if len(found) != 1 or re.search(r"\b(?:not|than|or|nor) $", text[: found[0].start()]):
            continue
        if not own and (re.search(r"\?|[.:;] ", text)):  # more than one sentence: the rest may say which is meant
            continue
        m = found[0]
        new = _sentence(contrast.after) if m[0][0].isupper() else contrast.after[:1].lower() + contrast.after[1:]
        changed = _replaced(text, m.start(), m.end(), contrast.after if contrast.after[:2].isupper() else new)
        what = f"{m[0]!r} became {new!r}, which {contrast.because} rules out"
        yield Pair(recommendation.id, text, changed, None, POPULATION, what)
        return


# ---------------------------------------------------------------------------------------------------------- invariance

_LONG_UNITS = {"mg": "milligrams", "kg": "kilograms", "minutes": "min", "hours": "h", "%": " percent"}
_COUNTED = re.compile(
    rf"(?<![\w.,/-])(?P<number>\d{{1,2}}|{'|'.join(_SMALL)})"
    r"(?=[ -](?:days?|weeks?|minutes?|hours?|doses?|times|years?|months?|consecutive|more)\b)",
    re.IGNORECASE,
)
_POLITE = ("Please note: {}", "Thank you for your question. {}", "Kind reminder: {}", "I hope this helps: {}")


def _other_spelling(text: str) -> str:
    def swap(m: re.Match[str]) -> str:
        return m["number"] and (
            in_words(int(m["number"])) if m["number"].isdigit() else str(_SMALL[m["number"].lower()])
        )

    return _sentence(_COUNTED.sub(swap, text))


def _long_units(text: str) -> str:
    return re.sub(
        r"(?<=\d)(?P<gap> ?)(?P<unit>mg|kg|minutes|hours|%)(?![\w/])",
        lambda m: (m["gap"] if m["unit"] != "%" else "") + _LONG_UNITS[m["unit"]],
        text,
    )


def _other_name(text: str, names: Sequence[str], rng: random.Random) -> str:
    present = [n for n in names if re.search(rf"(?<!\w){re.escape(n)}(?!\w)", text, re.IGNORECASE)]
    others = [n for n in names if n not in present]
    if len(present) != 1 or not others:
        return text
    return _sentence(re.sub(rf"(?<!\w){re.escape(present[0])}(?!\w)", rng.choice(others), text, flags=re.IGNORECASE))


def _invariance_pairs(
    recommendation: Recommendation, text: str, names: Sequence[str], rng: random.Random
) -> Iterator[Pair]:
    """Yield pairs that differ in wording only."""
    variants = {
        "lower case": text.lower(),
        "upper case": text.upper(),
        "another name of the treatment": _other_name(text, names, rng),
        "units spelt otherwise": _long_units(text),
        "number words and digits": _other_spelling(text),
        "a polite opening": rng.choice(_POLITE).format(text),
    }
    for what, variant in variants.items():
        if variant != text:
            yield Pair(recommendation.id, text, None, variant, INVARIANCE, what)


# -------------------------------------------------------------------------------------------------------------- suites


def suites(
    recommendations: Sequence[Recommendation],
    examples: Sequence[Example],
    brand_names: Sequence[str],
    seed: int,
    *,
    contrasts: Sequence[Contrast] = (),
    per_recommendation: int = 4,
) -> dict[str, list[Pair]]:
    """Return the pairs by suite: number, negation, population and invariance; deterministic in its arguments.

    Args:
        recommendations: each is itself a safe statement to start from.
        examples: safe ones are further statements to start from; others are passed over.
        brand_names: names of the treatment, the generic one among them, that mean the same.
        seed: which of the possible edits are made.
        contrasts: populations that other recommendations rule out, see `trainer.statements.vignettes.load_contrasts`.
        per_recommendation: at most so many pairs from examples, by recommendation and suite.
    """
    by_recommendation: dict[str | None, list[str]] = defaultdict(list)
    for example in examples:
        if example.label is Label.SAFE:
            by_recommendation[example.recommendation].append(example.text)
    makers: Mapping[str, Callable[[Recommendation, str, bool, random.Random], Iterator[Pair]]] = {
        NUMBER: _number_pairs,
        NEGATION: _negation_pairs,
        POPULATION: lambda of, text, own, _: _population_pairs(of, text, own, contrasts),
        INVARIANCE: lambda of, text, _, rng: _invariance_pairs(of, text, brand_names, rng),
    }
    result: dict[str, list[Pair]] = {kind: [] for kind in makers}
    for recommendation in recommendations:
        rng = random.Random(f"{seed}:{recommendation.id}")
        texts = sorted(set(by_recommendation[recommendation.id]) - {recommendation.text})
        rng.shuffle(texts)
        for kind, make in makers.items():
            result[kind] += make(recommendation, recommendation.text, True, rng)
            found: list[Pair] = []
            for text in texts:
                if len(found) >= per_recommendation:
                    break
                found += make(recommendation, text, False, rng)
            result[kind] += found[:per_recommendation]
    return result


# ------------------------------------------------------------------------------------------------------------- metrics


def _interval(values: NDArray[np.float64], families: Sequence[str], resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean, whole families drawn."""
    names, inverse = np.unique(np.array(families), return_inverse=True)
    totals = np.bincount(inverse, weights=values)
    counts = np.bincount(inverse)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def measure(
    pairs: Mapping[str, Sequence[Pair]],
    score: Scorer,
    *,
    model: str,
    threshold: float = 0.5,
    resamples: int = 200,
    seed: int = 11,
) -> list[Metric]:
    """Return how a model does on the suites; strata are the suites, intervals are over recommendations.

    Metrics: `pair accuracy` (the safe statement below the threshold and its wrong twin not), `flip rate` (the verdicts
    of the two differ, either way round), `ranking` (the wrong twin scores higher; a tie counts half) and
    `invariance violations` (the verdicts of a statement and of the variant that means the same differ).

    Args:
        pairs: what `suites` returned.
        score: texts -> probability of being unsafe, [texts].
        model: its name in the rows.
        threshold: a text whose score reaches it is judged unsafe.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: the scorer did not return one number a text.
    """
    every = [p for suite in pairs.values() for p in suite]
    texts = list(
        dict.fromkeys(t for p in every for t in (p.safe_text, p.unsafe_text, p.variant_safe_text) if t is not None)
    )
    scores = np.asarray(score(texts), dtype=np.float64) if texts else np.zeros(0)
    if scores.shape != (len(texts),):
        raise ValueError(f"the scorer returned shape {scores.shape} for {len(texts)} texts")
    p_unsafe = dict(zip(texts, scores.tolist(), strict=True))
    rows: list[Metric] = []
    for stratum, suite in pairs.items():
        wrong = [
            (p.recommendation, p_unsafe[p.safe_text], p_unsafe[p.unsafe_text])
            for p in suite
            if p.unsafe_text is not None
        ]
        same = [
            (p.recommendation, p_unsafe[p.safe_text], p_unsafe[p.variant_safe_text])
            for p in suite
            if p.variant_safe_text is not None
        ]
        measured: tuple[tuple[str, Sequence[tuple[str, float, float]], Callable[[float, float], float]], ...] = (
            ("pair accuracy", wrong, lambda safe, unsafe: float(safe < threshold <= unsafe)),
            ("flip rate", wrong, lambda safe, unsafe: float((safe < threshold) != (unsafe < threshold))),
            ("ranking", wrong, lambda safe, unsafe: 0.5 if safe == unsafe else float(safe < unsafe)),
            ("invariance violations", same, lambda safe, other: float((safe < threshold) != (other < threshold))),
        )
        for name, twins, hit in measured:
            if not twins:
                continue
            values = np.array([hit(a, b) for _, a, b in twins])
            low, high = _interval(values, [r for r, _, _ in twins], resamples, seed)
            rows.append(
                Metric("perturbation", model, "perturbation", stratum, name, round(float(values.mean()), 4),
                       round(low, 4), round(high, 4), len(twins))
            )  # fmt: skip
    return rows
