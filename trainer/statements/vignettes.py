"""Numeric vignettes: clinical one-liners whose truth is computed from rules, not written by a model.

Encoders are weakest on numbers, and a language model writes few of them. A *rule* says what a recommendation makes of
a number: a threshold, a range or a window in time; a dose from weight, age and day; the length of a course; a value
that changes nothing; a level of care. Rules are declared beside the guideline pack (`<pack>.vignettes.yaml`), each
with the words of the recommendation that it rests on, and `load_rules` refuses a rule whose numbers those words do not
give. `generate` draws *minimal pairs*: a safe and an unsafe statement that differ in one value, or in the verdict on
the same value.

Both kinds of pair are drawn equally often, with verdicts of both polarities, so value and verdict by themselves say
nothing of the label: only whether they fit does (exclusive or). A model that looks at words alone stays at chance.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.errors import CorpusError, PackError
from trainer.guideline.guidelines import Pack, extract
from trainer.types import Difficulty, Example, Label, Recommendation

STYLE = "vignette"
SUFFIX = ".vignettes.yaml"
_Patients = Literal["adult", "mother", "child", "baby", "neonate"]

# --------------------------------------------------------------------------------------------------- numbers in words

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def in_words(number: int) -> str:
    """Spell a number from 0 to 999 in English: 45 -> "forty-five".

    Raises:
        ValueError: any other number.
    """
    if not 0 <= number <= 999:
        raise ValueError(f"{number} is not between 0 and 999")
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{_ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


#: Unit -> spellings of (one, several).
_SPELLINGS: Mapping[str, Sequence[tuple[str, str]]] = {
    "minutes": (("minute", "minutes"), ("min", "min")),
    "hours": (("hour", "hours"), ("h", "h")),
    "days": (("day", "days"),),
    "weeks": (("week", "weeks"),),
    "months": (("month", "months"),),
    "years": (("year", "years"),),
    "doses": (("dose", "doses"),),
    "kg": (("kg", "kg"), ("kilogram", "kilograms"), ("kilo", "kilos")),
    "mg": (("mg", "mg"), ("milligram", "milligrams")),
    "mg/kg": (("mg/kg", "mg/kg"), ("mg per kg", "mg per kg"), ("mg per kilogram", "mg per kilogram")),
    "mL/min": (("mL/min", "mL/min"), ("ml per minute", "ml per minute")),
}
#: Abbreviations do not follow a number in words ("five mg").
_ABBREVIATED = {"min", "h", "kg", "mg", "mg/kg", "mg per kg", "mL/min", "ml per minute"}
_DAYS = {"days": 1.0, "weeks": 7.0, "months": 30.4, "years": 365.25}


def _digits(value: float) -> str:
    return f"{value:.6g}"


def _quantity(value: float, unit: str, spelling: int, *, words: bool) -> str:
    """Return a value with its unit; `spelling` counts the spellings of the unit, round and round."""
    whole = value == int(value) and 0 < value <= 100
    choices = _SPELLINGS.get(unit, ((unit, unit),))
    if words and whole:
        choices = [c for c in choices if c[1] not in _ABBREVIATED] or choices
    one, several = choices[spelling % len(choices)]
    number = in_words(int(value)) if words and whole and several not in _ABBREVIATED else _digits(value)
    return f"{number} {one if value == 1 else several}".strip()


# --------------------------------------------------------------------------------------------------------------- rules


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ground(_Strict):
    """The words of a recommendation that something rests on; `reading` says how a number follows from words."""

    recommendation: str
    quote: str = Field(min_length=3)
    reading: str | None = None


class Verdict(_Strict):
    """A pair of predicates: `allowed` is true of allowed values, `other` of all the others.

    With a `side`, the pair is only used of allowed values and of those beyond that bound ("is too short").
    """

    allowed: str
    other: str
    side: Literal["low", "high"] | None = None


class Ratio(_Strict):
    """A value that may also be stated as a measurement beside its base: ALT 320 U/L where the limit is 40 U/L."""

    unit: str
    of: str
    abbreviation: str
    bases: list[float] = Field(min_length=1)


class _Judged(_Strict):
    """What rules have in common that judge a statement by a verdict."""

    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    category: str
    patients: _Patients
    nouns: list[str] = Field(min_length=2)
    verdicts: list[Verdict] = Field(min_length=2)


class Limit(_Judged, Ground):
    """A quantity whose allowed values lie between bounds, both inclusive.

    `threshold`: one bound; `window`: at most so much time; `range`: both bounds. `otherwise` is the recommendation
    that decides about the values outside, where that is another one.
    """

    kind: Literal["threshold", "range", "window"]
    unit: str
    low: float | None = None
    high: float | None = None
    values: list[float] = Field(min_length=2)
    cases: list[str] = Field(min_length=2)
    contexts: list[str] = Field(min_length=1)
    ratio: Ratio | None = None
    otherwise: str | None = None

    def allows(self, value: float) -> bool:
        """Tell whether a value lies within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def beyond(self, side: Literal["low", "high"] | None) -> list[float]:
        """Return the values outside the bounds, or only those beyond one of them."""
        outside = [v for v in self.values if not self.allows(v)]
        if side is None:
            return outside
        return [v for v in outside if (self.low is not None and v < self.low) == (side == "low")]

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        given = (self.low is not None, self.high is not None)
        expected = {"range": [(True, True)], "window": [(False, True)], "threshold": [(True, False), (False, True)]}
        if given not in expected[self.kind]:
            raise ValueError(f"{self.id}: a {self.kind} does not go with these bounds")
        if len({self.allows(v) for v in self.values}) < 2:
            raise ValueError(f"{self.id}: values: give some within the bounds and some outside")
        for verdict in self.verdicts:
            if not self.beyond(verdict.side):
                raise ValueError(f"{self.id}: no value lies beyond the side of the verdict {verdict.other!r}")
        return self


class Regardless(_Judged, Ground):
    """A quantity that changes nothing: `allowed` verdicts are true of every value."""

    kind: Literal["regardless"]
    unit: str
    values: list[float] = Field(min_length=2)
    cases: list[str] = Field(min_length=2)
    contexts: list[str] = Field(min_length=1)


class Level(Ground):
    """One state of a patient, as words that follow the patient: "on high-flow oxygen at {n} L/min"."""

    phrases: list[str] = Field(min_length=1)
    numbers: list[float] = Field(min_length=1)


class Levels(_Judged):
    """A plan that is right at some levels of illness or care and wrong at others."""

    kind: Literal["level"]
    allowed: list[Level] = Field(min_length=1)
    other: list[Level] = Field(min_length=1)


class Between(_Strict):
    """An interval, closed below and open above."""

    low: float = 0.0
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Tell whether a value lies in it."""
        return self.low <= value and (self.high is None or value < self.high)


class Patient(_Strict):
    """A patient for dosing; age as a number and a unit, "6 weeks"."""

    kg: float = Field(gt=0)
    age: str = Field(pattern=r"^\d+ (days|weeks|months|years)$")

    @property
    def age_in_days(self) -> float:
        """The age in days."""
        number, unit = self.age.split()
        return float(number) * _DAYS[unit]


class Band(Ground):
    """The dose of one band of weight (kg) and age (days), on the first day or on the later ones."""

    days: Literal["first", "later"]
    weight: Between
    age: Between
    mg: float | None = None
    mg_per_kg: float | None = None
    patients: list[Patient] = Field(min_length=2)

    @model_validator(mode="after")
    def _one_dose_and_own_patients(self) -> Self:
        if (self.mg is None) == (self.mg_per_kg is None):
            raise ValueError(f"{self.recommendation}: give either mg or mg_per_kg")
        for patient in self.patients:
            if not self.holds(patient):
                raise ValueError(f"{self.recommendation}: {patient.kg:g} kg, {patient.age} is not in this band")
        return self

    def holds(self, patient: Patient) -> bool:
        """Tell whether a patient belongs to the band."""
        return self.weight.holds(patient.kg) and self.age.holds(patient.age_in_days)

    def dose(self, patient: Patient) -> float:
        """Return the dose of a patient in mg."""
        return self.mg if self.mg is not None else float(self.mg_per_kg or 0) * patient.kg


class Doses(_Strict):
    """Doses by band and day. With `same_as`, the bands of another rule hold whatever `contexts` say of the patient."""

    kind: Literal["dose"]
    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    category: str
    bands: list[Band] = []
    contexts: list[str] = Field(min_length=1)
    numbers: list[float] = [0.0]
    same_as: str | None = None
    recommendation: str | None = None
    quote: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.same_as is None and {b.days for b in self.bands} != {"first", "later"}:
            raise ValueError(f"{self.id}: bands: give the dose of the first day and of the later ones")
        if self.same_as is not None and (self.bands or not self.recommendation or not self.quote):
            raise ValueError(f"{self.id}: same_as goes with recommendation and quote, without bands")
        return self


class Group(Ground):
    """The patients for whom a course has one length; `settings` follow the patient."""

    days: int = Field(gt=0)
    settings: list[str] = Field(min_length=1)
    numbers: list[float] = [0.0]


class Courses(_Strict):
    """Fixed lengths of a course by group. `others` are lengths that no group has.

    Doses are counted as days only where there is one a day (`once_daily`).
    """

    kind: Literal["course"]
    id: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    category: str
    groups: list[Group] = Field(min_length=1)
    others: list[int] = Field(min_length=1)
    once_daily: bool = True

    @field_validator("groups")
    @classmethod
    def _different(cls, groups: list[Group]) -> list[Group]:
        if len({g.days for g in groups}) < len(groups):
            raise ValueError("groups: two have the same length")
        return groups

    @model_validator(mode="after")
    def _some_wrong(self) -> Self:
        if len({g.days for g in self.groups} | {*self.others}) < 2:
            raise ValueError(f"{self.id}: others: give a length that is wrong")
        return self


class Contrast(_Strict):
    """`from` in a statement on a recommendation becomes `to`, which recommendation `because` rules out."""

    recommendation: str
    before: str = Field(alias="from")
    after: str = Field(alias="to")
    because: str


_AnyRule = Annotated[Limit | Regardless | Levels | Doses | Courses, Field(discriminator="kind")]


class VignetteSpec(_Strict):
    """The YAML file beside a guideline pack."""

    names: list[str] = Field(min_length=1)
    rules: list[_AnyRule] = []
    contrasts: list[Contrast] = []


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that was read and checked, ready to be drawn from; `spec` is what the YAML says of it."""

    id: str
    kind: str
    category: str
    recommendations: tuple[str, ...]
    spec: Limit | Regardless | Levels | Doses | Courses
    names: tuple[str, ...]
    #: Of all dose rules. Its own come first: the first band that holds a patient gives the right dose, the others
    #: plausible wrong ones.
    bands: tuple[Band, ...] = ()


def _read(path: Path) -> VignetteSpec:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error
    try:
        return VignetteSpec.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise PackError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _unsupported(ground: Ground, numbers: Sequence[float | None], texts: Mapping[str, str]) -> str | None:
    """Return why a recommendation does not support a rule, or None."""
    text = texts.get(ground.recommendation)
    if text is None:
        return f"unknown recommendation {ground.recommendation!r}"
    if ground.quote not in text:
        return f"{ground.recommendation} does not say {ground.quote!r}"
    said = {float(n) for n in _NUMBER.findall(ground.quote)}
    missing = [n for n in numbers if n is not None and n not in said]
    if missing and ground.reading is None:
        return f"{missing[0]:g} does not stand in {ground.quote!r}: quote it, or say in `reading` how it follows"
    return None


def _grounds(rule: _AnyRule) -> Iterator[tuple[Ground, list[float | None]]]:
    """Yield what a rule rests on, with the numbers that must stand there."""
    match rule:
        case Limit():
            yield rule, [rule.low, rule.high]
        case Regardless():
            yield rule, []
        case Levels():
            for level in (*rule.allowed, *rule.other):
                yield level, []
        case Doses():
            for band in rule.bands:
                yield band, [band.mg, band.mg_per_kg]
            if rule.recommendation and rule.quote:
                yield Ground(recommendation=rule.recommendation, quote=rule.quote), []
        case Courses():
            for group in rule.groups:
                yield group, [float(group.days)]


def _where(source: Path | Pack, recommendations: Sequence[Recommendation] | None) -> tuple[Path, dict[str, str] | None]:
    """Return the file and the texts of the recommendations by id, where there are any to check against."""
    if isinstance(source, Pack):
        recommendations = extract(source) if recommendations is None else recommendations
        source = source.path.with_suffix(SUFFIX)
    return source, None if recommendations is None else {r.id: r.text for r in recommendations}


def load_rules(source: Path | Pack, recommendations: Sequence[Recommendation] | None = None) -> list[Rule]:
    """Read the rules of a guideline pack, or of a vignettes file by its path.

    For a pack without the file `<pack>.vignettes.yaml` they are inferred, see `infer_rules`. Declared rules are checked
    against the recommendations: those given, or else those of the pack; a path alone is checked for its form only.

    Raises:
        PackError: the file cannot be read or is not valid, or a recommendation does not say what a rule quotes.
    """
    if isinstance(source, Pack) and not source.path.with_suffix(SUFFIX).exists():
        own = extract(source) if recommendations is None else recommendations
        return infer_rules(own, source.spec.synonyms[:2], source.spec.condition)
    path, texts = _where(source, recommendations)
    spec = _read(path)
    if len({r.id for r in spec.rules}) < len(spec.rules):
        raise PackError(f"{path}: two rules have the same id")
    dosing = {r.id: r for r in spec.rules if isinstance(r, Doses)}
    bands = tuple(b for r in dosing.values() for b in r.bands)
    rules = []
    for rule in spec.rules:
        grounds = list(_grounds(rule))
        for ground, numbers in grounds:
            if texts is not None and (problem := _unsupported(ground, numbers, texts)):
                raise PackError(f"{path}: rule {rule.id}: {problem}")
        names = [ground.recommendation for ground, _ in grounds]
        if isinstance(rule, Limit) and rule.otherwise:
            names.append(rule.otherwise)
        if texts is not None and (unknown := [n for n in names if n not in texts]):
            raise PackError(f"{path}: rule {rule.id}: unknown recommendation {unknown[0]!r}")
        if isinstance(rule, Doses) and rule.same_as is not None:
            if rule.same_as not in dosing or not dosing[rule.same_as].bands:
                raise PackError(f"{path}: rule {rule.id}: same_as names no dose rule with bands: {rule.same_as!r}")
            rule = rule.model_copy(update={"bands": dosing[rule.same_as].bands})
        dosed = (*rule.bands, *bands) if isinstance(rule, Doses) else ()
        if isinstance(rule, Doses) and (patient := _without_dose(rule, dosed)):
            raise PackError(
                f"{path}: rule {rule.id}: bands: {patient.kg:g} kg, {patient.age} has no dose on the first day, or "
                "none on the later ones"
            )
        rules.append(
            Rule(rule.id, rule.kind, rule.category, tuple(dict.fromkeys(names)), rule, tuple(spec.names), dosed)
        )
    return rules


def _without_dose(rule: Doses, bands: Sequence[Band]) -> Patient | None:
    """Return a patient of the rule whom no band gives a dose on the first or on the later days."""
    for patient in (p for band in rule.bands for p in band.patients):
        if {b.days for b in bands if b.holds(patient)} != {"first", "later"}:
            return patient
    return None


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of words that bounds a number, and how to speak of it: groups `low`, `high`, `unit`, `event`."""

    name: str
    pattern: re.Pattern[str]
    kind: Literal["threshold", "range", "window"]
    category: str
    nouns: tuple[str, ...]
    cases: tuple[str, ...]
    verdicts: tuple[tuple[str, str], ...]


_COUNT = r"\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_FORMS = (
    _Form(
        "start-window",
        re.compile(
            rf"\b(?:start|begin|initiat)\w*\b[^.;]*?\b(?P<said>within (?P<high>{_COUNT}) (?P<unit>days|hours) of "
            r"(?P<event>(?:symptom|illness|fever|rash|pain)s? onset|onset of [a-z]+|exposure|diagnosis))"
        ),
        "window",
        "timing",
        ("starting {drug} {x} after %s", "a first dose of {drug} {x} after %s", "a start of {drug} {x} after %s"),
        ("{drug} starts {x} after %s", "the first dose of {drug} comes {x} after %s"),
        (
            ("is in time", "is not in time"),
            ("is not too late", "is too late"),
            ("lies within the window", "lies outside the window"),
            ("does not miss the time limit", "misses the time limit"),
        ),
    ),
    _Form(
        "infusion-time",
        re.compile(
            rf"\binfus[^.;]*?\b(?P<said>over (?P<low>{_COUNT}) to (?P<high>{_COUNT}) (?P<unit>minutes|hours))", re.I
        ),
        "range",
        "route",
        ("an infusion of {drug} over {x}", "an infusion time of {x} for {drug}", "running {drug} over {x}"),
        ("{drug} is infused over {x}", "the infusion of {drug} takes {x}"),
        (
            ("is acceptable", "is not acceptable"),
            ("lies within the limits", "lies outside the limits"),
            ("does not break the rule", "breaks the rule"),
        ),
    ),
    _Form(
        "observation",
        re.compile(
            rf"\b(?:monitor|observ)\w*\b[^.;]*?\b(?P<said>at least (?P<low>{_COUNT}) (?P<unit>minutes|hours?) after)"
        ),
        "threshold",
        "monitoring",
        ("monitoring for {x} after {drug}", "an observation time of {x} after {drug}"),
        ("observation ends {x} after {drug}", "monitoring goes on for {x} after {drug}"),
        (
            ("is long enough", "is not long enough"),
            ("is not too short", "is too short"),
            ("is sufficient", "is insufficient"),
        ),
    ),
    _Form(
        "fixed-course",
        re.compile(rf"\b[Cc]ourse (?:is|of|lasts) (?P<said>(?P<high>{_COUNT}) (?:consecutive )?(?P<unit>days))"),
        "range",
        "duration",
        ("a course of {drug} of {x}", "giving {drug} for {x}", "a total of {x} of {drug}"),
        ("{drug} is given for {x}", "the course of {drug} lasts {x}"),
        (
            ("is right", "is not right"),
            ("is not wrong", "is wrong"),
            ("follows the schedule", "departs from the schedule"),
            ("does not depart from the schedule", "does not follow the schedule"),
        ),
    ),
)


def _around(low: float | None, high: float | None) -> list[float]:
    """Return whole values on both sides of the bounds."""
    edges = [b for b in (low, high) if b is not None]
    span = {round(b * f) for b in edges for f in (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3)}
    near = {int(b) + step for b in edges for step in (-2, -1, 1, 2)}
    return [float(v) for v in sorted(span | near) if v > 0]


def infer_rules(recommendations: Sequence[Recommendation], names: Sequence[str], condition: str) -> list[Rule]:
    """Read rules off the recommendations themselves, for a pack that declares none.

    Only forms of words are read whose bound is sure: a window to start in, the time of an infusion, a time of
    observation, the length of the course. A form that two recommendations fill with different numbers depends on the
    patient in a way that the words do not tell, and is passed over: declare such rules.
    """
    rules = []
    for form in _FORMS:
        found = [(r, m) for r in recommendations if (m := form.pattern.search(r.text))]
        if len({(m["high"] if "high" in m.groupdict() else None, m.groupdict().get("low")) for _, m in found}) != 1:
            continue
        recommendation, m = found[0]
        groups = m.groupdict()
        low, high = (None if groups.get(side) is None else _count(groups[side]) for side in ("low", "high"))
        unit = groups["unit"].removesuffix("s") + "s"
        quote, reading = groups["said"], None
        if unit == "hours" and (low or high or 0) <= 2:
            low, high = (None if bound is None else bound * 60 for bound in (low, high))
            unit, reading = "minutes", "an hour is 60 minutes"
        if form.name == "fixed-course":
            low = high
        event = groups.get("event", "")
        spec = Limit(
            kind=form.kind,
            id=form.name,
            recommendation=recommendation.id,
            category=form.category,
            quote=quote,
            reading=reading,
            unit=unit,
            low=low,
            high=high,
            values=_around(low, high),
            patients="adult",
            contexts=[f"with {condition}", f"treated for {condition}"],
            nouns=[n.replace("%s", event) for n in form.nouns],
            cases=[c.replace("%s", event) for c in form.cases],
            verdicts=[Verdict(allowed=a, other=o) for a, o in form.verdicts],
        )
        rules.append(Rule(spec.id, spec.kind, spec.category, (recommendation.id,), spec, tuple(names)))
    return rules


def _count(text: str) -> float:
    return float(text) if text.isdigit() else float(_ONES.index(text.lower()))


def load_contrasts(source: Path | Pack, recommendations: Sequence[Recommendation] | None = None) -> list[Contrast]:
    """Read the population contrasts of a guideline pack, as `load_rules` reads its rules.

    Raises:
        PackError: the file is not valid, or a contrast names a recommendation that is not there.
    """
    if isinstance(source, Pack) and not source.path.with_suffix(SUFFIX).exists():
        return []
    path, texts = _where(source, recommendations)
    contrasts = _read(path).contrasts
    for contrast in contrasts:
        for name in (contrast.recommendation, contrast.because):
            if texts is not None and name not in texts:
                raise PackError(f"{path}: contrasts: unknown recommendation {name!r}")
    return contrasts


# ----------------------------------------------------------------------------------------------------- surface forms

#: Around a noun phrase ("an infusion over 45 minutes") or a clause ("the infusion takes 45 minutes") and a verdict.
_JUDGED_FRAMES = (
    "{Who} {context}: {case}, and this {verdict}.",
    "For {who} {context}, {noun} {verdict}.",
    "{Noun} {verdict} for {who} {context}.",
    "When {case}, this {verdict}; the patient is {who} {context}.",
    "Case: {who} {context}; {case}. This {verdict}.",
    "{Case}. In {who} {context}, this {verdict}.",
    "According to the guideline, {noun} {verdict} in {who} {context}.",
    "Note on {who} {context}: {noun} {verdict}.",
    "Given that {case}, the answer for {who} {context} is that this {verdict}.",
    "Asked about {who} {context}: if {case}, it {verdict}.",
    "{Noun}, in {who} {context}? The pharmacist says that it {verdict}.",
    "Rounds: {who} {context}, {case}; the team agrees that this {verdict}.",
)
_LEVEL_FRAMES = (
    "{Who}, {level}: {noun} {verdict}.",
    "For {who} {level}, {noun} {verdict}.",
    "{Noun} {verdict} for {who} {level}.",
    "By current recommendations, {noun} {verdict} in {who} {level}.",
    "Case: {who} {level}. {Noun} {verdict} here.",
    "Note on {who} {level}: {noun} {verdict}.",
    "{Who} is {level}, and so {noun} {verdict}.",
    "{Noun}, in {who} {level}? The consultant says that it {verdict}.",
    "Rounds: {who}, {level}; the team agrees that {noun} {verdict}.",
    "Asked about {who} {level}, the answer is that {noun} {verdict}.",
)
#: (asserted, denied): what is said of a dose on a day. `{other}` is a dose of the opposite truth.
_DOSE_FRAMES = (
    (
        "{Who} weighs {weight}: give {dose} of {drug} {day}.",
        "{Who} weighs {weight}: do not give {dose} of {drug} {day}.",
    ),
    (
        "{Dose} of {drug} is the right dose {day} for {who}, {weight}.",
        "{Dose} of {drug} is the wrong dose {day} for {who}, {weight}.",
    ),
    (
        "Should {who}, weighing {weight}, receive {dose} of {drug} {day}? Yes.",
        "Should {who}, weighing {weight}, receive {dose} of {drug} {day}? No.",
    ),
    ("{Drug} {day}, {who}, {weight}: {dose} is correct.", "{Drug} {day}, {who}, {weight}: {dose} is not correct."),
    (
        "The order of {dose} of {drug} {day} can stand for {who} at {weight}.",
        "The order of {dose} of {drug} {day} cannot stand for {who} at {weight}.",
    ),
    (
        "It is no error to give {who}, {weight}, {dose} of {drug} {day}.",
        "It is an error to give {who}, {weight}, {dose} of {drug} {day}.",
    ),
    (
        "With a body weight of {weight}, {who} needs {dose} of {drug} {day}.",
        "With a body weight of {weight}, {who} needs something other than {dose} of {drug} {day}.",
    ),
    (
        "Checked the chart of {who}, weight {weight}: {dose} of {drug} {day} is not a mistake.",
        "Checked the chart of {who}, weight {weight}: {dose} of {drug} {day} is a mistake.",
    ),
    ("{Who}, {weight}: {dose} of {drug} {day}, not {other}.", "{Who}, {weight}: {other} of {drug} {day}, not {dose}."),
    (
        "{Day}, {who}, weighing {weight}, gets {dose} of {drug} rather than {other}.",
        "{Day}, {who}, weighing {weight}, gets {other} of {drug} rather than {dose}.",
    ),
)
_COURSE_FRAMES = (
    ("{Who}, {setting}: plan {total} of {drug} in all.", "{Who}, {setting}: do not plan {total} of {drug} in all."),
    (
        "A course of {total} of {drug} is right for {who} {setting}.",
        "A course of {total} of {drug} is wrong for {who} {setting}.",
    ),
    ("For {who} {setting}, {drug} is given for {total}.", "For {who} {setting}, {drug} is not given for {total}."),
    (
        "Is {total} of {drug} the course for {who} {setting}? Yes.",
        "Is {total} of {drug} the course for {who} {setting}? No.",
    ),
    (
        "The order for {who}, {setting}: {drug} for {total}. That does not need correcting.",
        "The order for {who}, {setting}: {drug} for {total}. That needs correcting.",
    ),
    (
        "{Who}, {setting}, gets {drug} for {total} rather than {other}.",
        "{Who}, {setting}, gets {drug} for {other} rather than {total}.",
    ),
    ("{Drug} for {who} {setting}: {total}, not {other}.", "{Drug} for {who} {setting}: {other}, not {total}."),
    (
        "{Who}, {setting}: {given} of {drug} {have} been given and {left} {remain}. The count is right.",
        "{Who}, {setting}: {given} of {drug} {have} been given and {left} {remain}. The count is wrong.",
    ),
    (
        "First {drug} on {start}, last on {end}: that is the right course for {who} {setting}.",
        "First {drug} on {start}, last on {end}: that is not the right course for {who} {setting}.",
    ),
    (
        "{Who}, {setting}, started {drug} on {start} and has the final dose on {end}, as the schedule has it.",
        "{Who}, {setting}, started {drug} on {start} and has the final dose on {end}, against the schedule.",
    ),
)
#: Who is spoken of; `{age}` has its article ("an 81"), `{plain}` has none.
_WHO: Mapping[_Patients, Sequence[str]] = {
    "adult": (
        "{age}-year-old woman", "{age}-year-old man", "a man of {plain}", "a woman aged {plain}",
        "{age}-year-old patient", "a patient aged {plain} years", "this {plain}-year-old", "a person of {plain}",
        "our {plain}-year-old patient",
    ),
    "mother": ("{age}-year-old pregnant woman", "a pregnant woman of {plain}", "this pregnant {plain}-year-old"),
    "child": ("{age}-year-old girl", "{age}-year-old boy", "a boy of {plain} years", "a girl aged {plain}"),
    "baby": ("a baby girl", "a baby boy", "this baby", "an infant"),
    "neonate": ("a newborn girl", "a newborn boy", "a preterm newborn", "this newborn"),
}  # fmt: skip
_AGES: Mapping[_Patients, Sequence[int]] = {
    "adult": range(28, 90),
    "mother": range(19, 43),
    "child": range(10, 15),
    "baby": (0,),
    "neonate": (0,),
}


def _with_article(number: int) -> str:
    return f"{'an' if number in (8, 11, 18) or 80 <= number <= 89 else 'a'} {number}"


def _who(kind: _Patients, rng: random.Random) -> str:
    age = rng.choice(_AGES[kind])
    return rng.choice(_WHO[kind]).format(age=_with_article(age), plain=age)


def _dosed(patient: Patient, rng: random.Random) -> str:
    """Return a patient for dosing, by age."""
    number, unit = patient.age.split()
    one = unit.removesuffix("s")
    if unit != "years":
        forms = ["{article}-{one}-old boy", "{article}-{one}-old girl", "a baby aged {number} {unit}"]
    elif int(number) < 18:
        forms = ["{article}-year-old boy", "{article}-year-old girl", "a child aged {number}"]
    else:
        forms = ["{article}-year-old man", "{article}-year-old woman", "a patient aged {number}", "a woman of {number}"]
    return rng.choice(forms).format(article=_with_article(int(number)), number=number, one=one, unit=unit)


def _fill(frame: str, slots: Mapping[str, str]) -> str:
    """Fill a frame; a slot named with a capital gets one."""
    capital = {name.capitalize(): text[:1].upper() + text[1:] for name, text in slots.items()}
    text = frame.format(**slots, **capital)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.;:?)])", r"\1", text)
    return re.sub(r",([,.:;?])", r"\1", text)


@dataclass(frozen=True, slots=True)
class _Said:
    """One statement of a pair, and why it is what it is."""

    text: str
    recommendation: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Pair:
    """A safe and an unsafe statement that differ minimally."""

    safe: _Said
    unsafe: _Said
    difficulty: Difficulty


@dataclass(frozen=True, slots=True)
class Vignette(Example):
    """A generated statement with exact truth, and how the truth was computed."""

    reason: str


def _nearness(distance: float, medium: float, easy: float) -> Difficulty:
    """Return how hard an error is to see: closer than `medium` is hard, beyond `easy` easy."""
    if distance <= medium:
        return Difficulty.HARD
    return Difficulty.MEDIUM if distance <= easy else Difficulty.EASY


# ------------------------------------------------------------------------------------------------------------- drawing


def _crossed(
    rng: random.Random,
    right: Any,
    wrong: Any,
    say: Callable[[Any, bool], _Said],
    difficulty: Callable[[Any], Difficulty],
) -> _Pair:
    """Return a minimal pair of the four statements that value (right, wrong) x verdict (asserted, denied) make.

    `say(value, asserted)` words one of them. Each of the four pairs that differ in one of the two is as likely.
    """
    if rng.random() < 0.5:  # one verdict, two values
        asserted = rng.random() < 0.5
        safe, unsafe = (right, wrong) if asserted else (wrong, right)
        return _Pair(say(safe, asserted), say(unsafe, asserted), difficulty(unsafe))
    value = rng.choice((right, wrong))  # one value, two verdicts
    true = value is right
    return _Pair(say(value, true), say(value, not true), difficulty(value))


def _measured(rule: Limit | Regardless, value: float, surface: tuple[int, bool, float, int]) -> str:
    """Write a value; `surface` holds spelling of the unit, words or digits, base of a ratio and its form."""
    spelling, words, base, form = surface
    if isinstance(rule, Limit) and rule.ratio is not None:
        own = rule.ratio
        return (
            f"{_digits(value)} times the {own.of}",
            f"{_digits(value)} x {own.abbreviation}",
            f"{_digits(value * base)} {own.unit} ({own.of} {_digits(base)} {own.unit})",
            f"{_digits(value * base)} {own.unit} ({own.abbreviation} {_digits(base)})",
        )[form]
    if rule.unit == "minutes" and form >= 2 and value % 30 == 0 and value >= 60:
        return _quantity(value / 60, "hours", spelling, words=words)
    return _quantity(value, rule.unit, spelling, words=words)


def _bounds_in_words(rule: Limit) -> str:
    if rule.low is not None and rule.high is not None:
        limits = f"{rule.low:g}" if rule.low == rule.high else f"{rule.low:g} to {rule.high:g}"
    else:
        limits = f"at least {rule.low:g}" if rule.high is None else f"at most {rule.high:g}"
    return f"{limits} {rule.unit}".strip()


def _distance(rule: Limit, value: float) -> float:
    """Return how far a value lies from the nearest bound, as a share of the bound."""
    return min((abs(value - bound) / bound for bound in (rule.low, rule.high) if bound), default=1.0)


def _judged_slots(rule: Limit | Regardless, names: Sequence[str], rng: random.Random) -> dict[str, str]:
    return {
        "drug": rng.choice(names),
        "who": _who(rule.patients, rng),
        "context": rng.choice(rule.contexts),
        "noun": rng.choice(rule.nouns),
        "case": rng.choice(rule.cases),
    }


def _word(frame: str, slots: Mapping[str, str], **inner: str) -> str:
    """Fill a frame whose slots have slots themselves."""
    inside = {"drug": slots["drug"], **inner}
    return _fill(frame, {name: text.format(**inside) for name, text in slots.items()})


def _surface(rule: Limit | Regardless, rng: random.Random) -> tuple[int, bool, float, int]:
    base = rng.choice(rule.ratio.bases) if isinstance(rule, Limit) and rule.ratio else 1.0
    return rng.randrange(6), rng.random() < 0.35, base, rng.randrange(4)


def _limit_pair(rule: Limit, names: Sequence[str], rng: random.Random) -> _Pair:
    verdict = rng.choice(rule.verdicts)
    inside = [v for v in rule.values if rule.allows(v)]
    outside = rule.beyond(verdict.side)
    slots, frame, surface = _judged_slots(rule, names, rng), rng.choice(_JUDGED_FRAMES), _surface(rule, rng)

    def say(value: float, asserted: bool) -> _Said:
        x = _measured(rule, value, surface)
        predicate = verdict.allowed if asserted else verdict.other
        fits = "within" if rule.allows(value) else "outside"
        return _Said(
            _word(frame, slots | {"verdict": predicate}, x=x),
            rule.recommendation if rule.allows(value) or not rule.otherwise else rule.otherwise,
            f"stated {x}, said that it {predicate}; {fits} what the rule says ({_bounds_in_words(rule)})",
        )

    return _crossed(
        rng, rng.choice(inside), rng.choice(outside), say, lambda value: _nearness(_distance(rule, value), 0.35, 0.8)
    )


def _regardless_pair(rule: Regardless, names: Sequence[str], rng: random.Random) -> _Pair:
    verdict = rng.choice(rule.verdicts)
    slots, frame, surface = _judged_slots(rule, names, rng), rng.choice(_JUDGED_FRAMES), _surface(rule, rng)
    x = _measured(rule, rng.choice(rule.values), surface)

    def say(predicate: str) -> _Said:
        text = _word(frame, slots | {"verdict": predicate}, x=x)
        reason = f"stated {x}, said that it {predicate}; the rule holds at any value ({rule.quote})"
        return _Said(text, rule.recommendation, reason.format(drug=slots["drug"]))

    return _Pair(say(verdict.allowed), say(verdict.other), Difficulty.MEDIUM)


def _level_pair(rule: Levels, names: Sequence[str], rng: random.Random) -> _Pair:
    verdict = rng.choice(rule.verdicts)
    slots = {"drug": rng.choice(names), "who": _who(rule.patients, rng), "noun": rng.choice(rule.nouns)}
    frame = rng.choice(_LEVEL_FRAMES)

    def state(levels: Sequence[Level]) -> tuple[Level, str]:
        level = rng.choice(levels)
        return level, rng.choice(level.phrases).format(drug=slots["drug"], n=_digits(rng.choice(level.numbers)))

    def say(value: tuple[Level, str], asserted: bool) -> _Said:
        level, phrase = value
        predicate = verdict.allowed if asserted else verdict.other
        text = _word(frame, slots | {"level": phrase, "verdict": predicate})
        return _Said(text, level.recommendation, f"said that it {predicate}, {phrase}; the rule says: {level.quote}")

    return _crossed(rng, state(rule.allowed), state(rule.other), say, lambda _: Difficulty.MEDIUM)


def _band_of(bands: Sequence[Band], patient: Patient, day: int) -> Band:
    days = "first" if day == 1 else "later"
    return next(b for b in bands if b.days == days and b.holds(patient))


def _wrong_doses(bands: Sequence[Band], patient: Patient, day: int, *, per_kg: bool) -> list[float]:
    """Return plausible wrong doses in mg: of another day or band, halved, doubled; `per_kg`: round per kilogram."""
    right = _band_of(bands, patient, day).dose(patient)
    fixed_here = _band_of(bands, patient, day).mg is not None
    others = [b.dose(patient) for b in bands if fixed_here == (b.mg is not None)]
    candidates = {*others, *(b.mg for b in bands if b.mg is not None), right * 2, right / 2, right * 1.5}
    wrong = sorted(d for d in candidates if abs(d - right) > 0.12 * right)
    if not per_kg:
        return wrong
    rates = {b.mg_per_kg for b in bands if b.mg_per_kg is not None}
    rates |= {rate * factor for rate in rates for factor in (0.5, 1.5, 2)}
    return [d for d in wrong if round(d / patient.kg, 6) in {round(rate, 6) for rate in rates}]


def _day(day: int, form: int) -> str:
    return (f"on day {day}", f"on the {_ORDINALS[day]} day", f"for dose number {day}", f"on treatment day {day}")[form]


def _dose_pair(rule: Doses, bands: Sequence[Band], names: Sequence[str], rng: random.Random) -> _Pair:
    own = rng.choice(rule.bands)
    patient = rng.choice(own.patients)
    frame = rng.choice(_DOSE_FRAMES)
    day = 1 if own.days == "first" else rng.randint(2, 5)
    context = rng.choice(rule.contexts).format(n=_digits(rng.choice(rule.numbers)))
    unit_form, day_form, per_kg = rng.randrange(6), rng.randrange(4), own.mg_per_kg is not None and rng.random() < 0.4
    slots = {"who": f"{_dosed(patient, rng)} {context}".strip(), "drug": rng.choice(names)}
    slots["weight"] = _quantity(patient.kg, "kg", rng.randrange(6), words=False)

    def write(mg: float) -> str:
        if per_kg:
            return _quantity(mg / patient.kg, "mg/kg", unit_form, words=False)
        return _quantity(mg, "mg", unit_form, words=False)

    right = _band_of(bands, patient, day)
    dose = right.dose(patient)
    wrong = _wrong_doses(bands, patient, day, per_kg=per_kg)
    other_day = 1 if day > 1 else rng.randint(2, 5)
    other_dose = _band_of(bands, patient, other_day).dose(patient)

    def say(value: tuple[float, int], asserted: bool) -> _Said:
        mg, on = value
        due = _band_of(bands, patient, on)
        # Where two doses are set against each other, one of them is right.
        other = due.dose(patient) if mg != due.dose(patient) else chosen_wrong
        text = _word(
            frame[0 if asserted else 1], slots | {"dose": write(mg), "other": write(other), "day": _day(on, day_form)}
        )
        told = "asserted" if asserted else "denied"
        reason = f"{told} {write(mg)} on day {on}, rule says {write(due.dose(patient))} on day {on}"
        return _Said(text, rule.recommendation or due.recommendation, reason)

    chosen_wrong = rng.choice(wrong)
    contrasted = "{other}" in frame[0]
    if not contrasted and rng.random() < 0.3:  # the same dose on another day
        right_day, wrong_day = (dose, day), (dose, other_day)
        if dose != other_dose:
            return _crossed(rng, right_day, wrong_day, say, lambda _: Difficulty.HARD)

    def difficulty(value: tuple[float, int]) -> Difficulty:
        ratio = max(value[0] / dose, dose / value[0])
        return _nearness(ratio, 2.0, 4.0)

    return _crossed(rng, (dose, day), (chosen_wrong, day), say, difficulty)


def _date(day: date, form: int) -> str:
    return (f"{day.day} {day:%B}", f"{day:%B} {day.day}", f"{day.day} {day:%b}")[form]


def _course_pair(rule: Courses, names: Sequence[str], rng: random.Random) -> _Pair:
    group = rng.choice(rule.groups)
    lengths = {g.days for g in rule.groups}
    wrong = rng.choice(sorted(lengths - {group.days}) * 2 + sorted(set(rule.others) - lengths))
    drug = rng.choice(names)
    setting = rng.choice(group.settings).format(drug=drug, n=_digits(rng.choice(group.numbers)))
    slots = {"who": _who("adult", rng), "setting": setting, "drug": drug}
    frame, words, form = rng.choice(_COURSE_FRAMES), rng.random() < 0.35, rng.randrange(3)
    unit = rng.choice(("days", "doses")) if rule.once_daily else "days"
    start = date(2025, 1, 1) + timedelta(days=rng.randrange(360))
    given = rng.randint(1, max(1, min(group.days, wrong) - 1))

    def count(number: int, unit: str) -> str:
        return _quantity(number, unit, 0, words=words)

    def say(total: int, asserted: bool) -> _Said:
        other = wrong if total == group.days else group.days
        left = total - given
        text = _word(
            frame[0 if asserted else 1],
            slots
            | {
                "total": count(total, "days"),
                "other": count(other, "days"),
                "given": count(given, unit),
                "have": "has" if given == 1 else "have",
                "left": count(left, unit) if left else "none",
                "remain": "remains" if left == 1 else "remain",
                "start": _date(start, form),
                "end": _date(start + timedelta(days=total - 1), form),
            },
        )
        told = "asserted" if asserted else "denied"
        return _Said(text, group.recommendation, f"{told} {total} days, rule says {group.days} days")

    return _crossed(rng, group.days, wrong, say, lambda value: _nearness(abs(value - group.days), 2, 5))


def _draw(rule: Rule, rng: random.Random) -> _Pair:
    match rule.spec:
        case Limit() as spec:
            return _limit_pair(spec, rule.names, rng)
        case Regardless() as spec:
            return _regardless_pair(spec, rule.names, rng)
        case Levels() as spec:
            return _level_pair(spec, rule.names, rng)
        case Doses() as spec:
            return _dose_pair(spec, rule.bands, rule.names, rng)
        case Courses() as spec:
            return _course_pair(spec, rule.names, rng)


_PATIENCE = 200  # draws without a new text after which a rule counts as used up


def generate(rules: Sequence[Rule], n: int, seed: int) -> list[Example]:
    """Return `n` statements (rounded up to whole pairs), half of them safe, the rules in turn.

    Deterministic in rules, `n` and `seed`. Ids are `v-<rule>-<number>`, with `u` for the unsafe one of a pair, which
    has the safe one's id as its family. No text occurs twice.

    Raises:
        CorpusError: there are no rules, or they do not give so many different statements.
    """
    if n > 0 and not rules:
        raise CorpusError("no vignette rules: write <pack>.vignettes.yaml beside the guideline pack")
    rng = random.Random(seed)
    seen: set[str] = set()
    examples: list[Example] = []
    for number in range((n + 1) // 2):
        rule = rules[number % len(rules)]
        for _ in range(_PATIENCE):
            pair = _draw(rule, rng)
            if pair.safe.text not in seen and pair.unsafe.text not in seen:
                break
        else:
            raise CorpusError(
                f"rule {rule.id} gives no more than {number // len(rules)} pairs: ask for fewer vignettes"
            )
        seen |= {pair.safe.text, pair.unsafe.text}
        family = f"v-{rule.id}-{number:05d}"
        for said, label in ((pair.safe, Label.SAFE), (pair.unsafe, Label.UNSAFE)):
            unsafe = label is Label.UNSAFE
            examples.append(
                Vignette(
                    id=f"{family}u" if unsafe else family,
                    text=said.text,
                    label=label,
                    recommendation=said.recommendation,
                    category=rule.category,
                    difficulty=pair.difficulty if unsafe else None,
                    family=family,
                    style=STYLE,
                    reason=said.reason,
                )
            )
    return examples


def generate_at_most(rules: Sequence[Rule], n: int, seed: int) -> list[Example]:
    """Return `n` statements as `generate` does, or fewer where the rules do not give so many; none without rules."""
    while rules and n > 0:
        try:
            return generate(rules, n, seed)
        except CorpusError:
            n //= 2
    return []


def explain(example: Example) -> str:
    """Return how the truth of a generated statement was computed: "asserted 400 mg on day 1, rule says 200 mg ...".

    Raises:
        CorpusError: the example was not made by `generate` (or was read back from a file, which keeps no reasons).
    """
    if not isinstance(example, Vignette):
        raise CorpusError(f"{example.id}: not a vignette of this process: only `generate` knows why")
    return example.reason
