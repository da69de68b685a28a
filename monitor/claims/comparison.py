"""Hold the claim of a statement against that of a recommendation: agreement, conflict, and why.

Features are counts and degrees, one pair for each kind of thing, and zero where nothing was read. A `Mismatch` is
given only where the reading is sure: the same thing is measured, of the same phase and role, asserted and not denied,
asked or told as history, and no value of the recommendation explains it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from monitor.claims import lexicon as lex
from monitor.claims.quantities import Quantity
from monitor.claims.reading import Category, Claim

#: Beyond this many quantities or categories a text is a table, and pairs are not looked at one by one.
_MOST = 24

_GROUP: Final = {
    "dose": "dose",
    "dose/kg": "dose",
    "units": "dose",
    "units/kg": "dose",
    "volume": "dose",
    "mmol": "dose",
    "mL/kg": "dose",
    "frequency": "frequency",
    "duration": "duration",
    "count": "duration",
    "span": "span",
    "interval": "window",
    "window": "window",
    "day": "day",
    "date": "day",
    "age": "threshold",
    "weight": "threshold",
    "multiple": "threshold",
    "clearance": "threshold",
    "flow": "threshold",
    "bmi": "threshold",
    "percent": "efficacy",
    "number": "efficacy",
}
_GROUPS: Final = ("dose", "frequency", "duration", "span", "window", "day", "threshold", "level", "efficacy")
#: A patient has one of these; a plan has the others. Whether a case lies within a bound is no error by itself.
_CASES: Final = frozenset({"window", "threshold", "level"})
_CATEGORIES: Final = ("route", "setting", "oxygen", "severity", "risk", "population", "pregnancy", "line", "care")
_OPPOSED: Final = tuple(dict.fromkeys(kind for kind, _ in lex.OPPOSITES))
_ABSOLUTE: Final = ("only", "always", "never", "any", "all", "every", "even", "regardless", "routinely", "whatever")

FEATURES: Final[tuple[str, ...]] = (
    *(f"agree_{group}" for group in _GROUPS),
    *(f"conflict_{group}" for group in _GROUPS),
    *(f"explained_{group}" for group in ("dose", "time")),
    "explained",
    "unexplained",
    "reversed",
    "case_inside",
    "case_outside",
    "case_verdict",
    "case_signed",
    "agree_count",
    "conflict_count",
    "per_kg_agree",
    "per_kg_conflict",
    "phase_conflict",
    *(f"agree_{group}" for group in _CATEGORIES),
    *(f"conflict_{group}" for group in _CATEGORIES),
    "condition_verdict",
    *(f"opposed_{kind}" for kind in _OPPOSED),
    "opposed",
    "opposed_near",
    "not_opposed",
    "overlap",
    "covered",
    "sign_agreement",
    "sign_conflict",
    "sign_near",
    "sign_half",
    "verdict_product",
    "verdict_conflict",
    "verdict_near",
    "final_product",
    "statement_verdict",
    "recommendation_verdict",
    "negations",
    "negation_parity",
    "questions",
    "reversals",
    "drugs_shared",
    "drugs_foreign",
    "drugs_missing",
    "drugs_sign",
    *(f"added_{word}" for word in _ABSOLUTE),
    "has_mismatch",
)
_INDEX: Final = {name: place for place, name in enumerate(FEATURES)}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that a statement says otherwise than the recommendation, each as it is to be shown."""

    kind: str
    stated: str
    recommended: str

    def reason(self) -> str:
        """Return the reason in one line: "400 mg stated, 200 mg recommended"."""
        return f"{self.stated} stated, {self.recommended} recommended"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two claims agree and differ in: `features` as `FEATURES`, and the sure mismatches, gravest first.

    `category` is what the gravest mismatch is about, in the corpus's names of categories; None without a mismatch.
    """

    features: tuple[float, ...]
    mismatches: tuple[Mismatch, ...]
    category: str | None


# ----------------------------------------------------------------------------------------------------------- quantities

_EQUAL, _INSIDE, _REVERSED, _OUTSIDE, _DIFFERS, _UNLIKE = "equal", "inside", "reversed", "outside", "differs", "unlike"
_RANK: Final = {_EQUAL: 0, _INSIDE: 1, _REVERSED: 2, _DIFFERS: 3, _OUTSIDE: 4, _UNLIKE: 5}


_TIMES: Final = lex.words("duration window span interval")
_CALENDAR: Final = _TIMES | {"frequency"}


def _same(one: float, other: float, *, timed: bool = False) -> bool:
    # A month is four weeks or thirty days, as people count.
    return one == other or math.isclose(one, other, rel_tol=0.1 if timed else 5e-3)


def relation(stated: Quantity, recommended: Quantity) -> str:
    """Return how a stated quantity lies to a recommended one of its kind.

    "equal", "inside" its bounds, "outside" them, "differs" (another value, or another bound of the same side),
    "reversed" (the same value as a bound of the other side), or "unlike" (bounds that say nothing of one another).
    """
    timed = stated.kind in _CALENDAR

    def same(one: float, other: float) -> bool:
        return _same(one, other, timed=timed and (one >= 600 or one < 0.1))

    if same(stated.low, recommended.low) and same(stated.high, recommended.high):
        return _EQUAL
    if stated.exact:
        if recommended.holds(stated.low):
            return _INSIDE
        if recommended.exact:
            return _DIFFERS
        if same(stated.low, recommended.low) or same(stated.low, recommended.high):
            return _EQUAL
        return _OUTSIDE
    if recommended.exact:
        return _INSIDE if stated.holds(recommended.low) else _DIFFERS
    stated_open = (stated.low == -math.inf, stated.high == math.inf)
    recommended_open = (recommended.low == -math.inf, recommended.high == math.inf)
    if stated_open == recommended_open:
        if stated_open == (False, False) and recommended.holds(stated.low) and recommended.holds(stated.high):
            return _INSIDE
        return _DIFFERS
    if True in stated_open and True in recommended_open:
        low, high = (stated.low, recommended.high) if stated.high == math.inf else (recommended.low, stated.high)
        return _REVERSED if same(low, high) else _UNLIKE
    if recommended.holds(stated.low) and recommended.holds(stated.high):
        return _INSIDE
    bound = stated.low if stated.high == math.inf else stated.high
    return _INSIDE if same(bound, recommended.low) or same(bound, recommended.high) else _UNLIKE


def _comparable(one: str, other: str) -> bool:
    return one == other


def _phases_clash(one: Quantity, other: Quantity) -> bool:
    return bool(one.phase and other.phase and one.phase != other.phase)


def _numeral(quantity: Quantity) -> float | None:
    """Return the first number of a label, as it was written."""
    for word in quantity.label.split():
        if word.replace(".", "", 1).isdigit():
            return float(word)
    return None


def _near(own: Quantity, other: Quantity) -> bool:
    """Tell whether two times are of one scale, minutes and hours or days and more."""
    long = {q.low >= 24 or (q.low == -math.inf and q.high >= 24) for q in (own, other)}
    return len(long) == 1


def _group(kind: str) -> str:
    return _GROUP.get(kind, "level")


#: Kinds of quantities whose mismatches are shown, and what each is about.
_SHOWN: Final = {
    "dose": "dose",
    "dose/kg": "dose",
    "units": "dose",
    "frequency": "frequency",
    "duration": "duration",
    "span": "timing",
    "window": "timing",
    "interval": "timing",
    "percent": "efficacy",
}
_ORDER: Final = (
    "contraindication",
    "dose",
    "route",
    "frequency",
    "duration",
    "timing",
    "efficacy",
    "severity",
    "indication",
)
#: Stems of words that say that a time or a rate is that of the treatment.
_COURSE: Final = lex.words("course treatm therap infusi drip receiv total consec row dose maximu minimu observ monito")
#: Numbers that a value may be multiplied with, and the kinds for which that is usual.
_FACTORS: Final = frozenset({"frequency", "number", "count"})
_MULTIPLIED: Final = frozenset({"dose", "dose/kg", "units", "span", "volume"})
#: Kinds of which a recommendation may rule a value out in so many words.
_RULED_OUT: Final = frozenset({"frequency"})
_CASES_BY_WEIGHT: Final = frozenset({"dose", "dose/kg", "units"})
#: Kinds of opposites that are shown where the texts are alike, and what each is about.
_SHOWN_OPPOSITES: Final = {"route": "route", "frequency": "frequency", "direction": "efficacy"}
#: A bare "daily" may only say that a dose is a day's total.
_COUNTED: Final = lex.words("once twice thrice times every weekly fortnightly monthly bd bid tds tid qds qid")


class _Comparing:
    """Collects the features and mismatches of one pair."""

    def __init__(self, recommendation: Claim, statement: Claim) -> None:
        self.recommendation = recommendation
        self.statement = statement
        self.features = [0.0] * len(FEATURES)
        self.mismatches: list[tuple[int, str, Mismatch]] = []
        self.fits: list[int] = []
        self.conflicts: list[tuple[Quantity, list[Quantity]]] = []
        self.by_weight: list[tuple[Quantity, str]] = []
        self.agreed: set[str] = set()
        self.signed: list[int] = []
        self.outside = False
        self.stated_kinds: Counter[str] = Counter()

    def add(self, name: str, amount: float = 0.5) -> None:
        place = _INDEX[name]
        self.features[place] = max(-1.0, min(1.0, self.features[place] + amount))

    def put(self, name: str, value: float) -> None:
        self.features[_INDEX[name]] = max(-1.0, min(1.0, value))

    def quantities(self) -> None:
        stated = [q for q in self.statement.quantities if q.kind not in ("clock", "date", "year", "U/L")][:_MOST]
        recommended = [q for q in self.recommendation.quantities if q.kind not in ("clock", "date", "year")][:_MOST]
        if not stated:
            return
        explained = sum(self._quantity(q, stated, recommended) for q in stated)
        self.stated_kinds = Counter(q.kind for q in stated)
        for own, kin in self.conflicts:
            self._conflict(own, kin)
        for own, shown in self.by_weight:
            if self._sure(own) and not self.outside and "divided" not in self.statement.terms:
                self.mismatches.append((_ORDER.index("dose"), "dose", Mismatch("dose", own.label, shown)))
        self.put("explained", explained / len(stated))
        self.put("unexplained", (len(stated) - explained) / 3)

    def _quantity(self, own: Quantity, stated: list[Quantity], recommended: list[Quantity]) -> bool:
        """Count what one stated quantity agrees and conflicts with; tell whether the recommendation explains it."""
        kin = [r for r in recommended if _comparable(own.kind, r.kind)]
        group = _group(own.kind)
        if own.kind == "dose":
            by_weight = self._per_kg(own, stated, recommended)
            if by_weight is not None:
                return by_weight
        if not kin and own.kind in _TIMES:
            others = [r for r in recommended if r.kind in _TIMES]
            if any(r.exact and own.exact and own.low == r.low for r in others):
                return True
            kin = [r for r in others if _near(own, r)]
        elif own.kind == "count":
            self._doses(own, recommended)
        if not kin:
            return False
        ranked = sorted(((_RANK[relation(own, r)], _phases_clash(own, r), k) for k, r in enumerate(kin)))
        rank, clash, k = min(ranked, key=lambda entry: (entry[0] > 1, entry[1], entry[0]))
        found, other = next(name for name, r in _RANK.items() if r == rank), kin[k]
        if found == _UNLIKE:
            return False
        sign = own.sign * (other.sign or 1)
        if found in (_EQUAL, _INSIDE) and clash:
            self.add("phase_conflict")
            return True
        if found in (_EQUAL, _INSIDE):
            self.agreed.add(own.kind)
            if group in _CASES and own.exact:
                self.add("case_inside")
                self.fits.append(1)
                self.signed.append(own.sign)
            if sign > 0:
                self.add(f"agree_{group}")
            elif sign < 0 and group not in _CASES:
                self.add(f"conflict_{group}")
                if other.ruled_out and self._sure(own) and own.kind in _RULED_OUT and found == _EQUAL:
                    category = _SHOWN[own.kind]
                    self.mismatches.append(
                        (_ORDER.index(category), category, Mismatch(own.kind, own.label, f"not {other.label}"))
                    )
            return True
        if found == _REVERSED:
            self.add("reversed", 0.5 * sign)
            return True
        if group in _CASES and own.exact:
            self.add("case_outside")
            self.fits.append(-1)
            self.outside |= group == "threshold"
            self.signed.append(-own.sign)
            return False
        if other.sign < 0:  # another value than the one that is ruled out may be right
            return False
        if sign > 0:
            self.add(f"conflict_{group}")
            self.conflicts.append((own, kin))
        elif sign < 0:
            self.add(f"agree_{group}")
        return False

    def _doses(self, own: Quantity, recommended: list[Quantity]) -> None:
        """Compare a number of doses with a length in days, as where there is one dose a day."""
        lengths = [r for r in recommended if r.kind == "duration" and r.sign > 0]
        if not lengths or own.low < 2:
            return
        days = replace(own, kind="duration", low=24 * own.low, high=24 * own.high)
        if any(relation(days, r) in (_EQUAL, _INSIDE) for r in lengths):
            self.add("agree_count", 0.5 * own.sign)
        else:
            self.add("conflict_count", 0.5 * own.sign)

    def _per_kg(self, own: Quantity, stated: list[Quantity], recommended: list[Quantity]) -> bool | None:
        """Compare a dose with weight x dose per kg; None where the two texts do not give both."""
        rules = [r for r in recommended if r.kind == "dose/kg"]
        weights = [q for q in stated if q.kind == "weight" and q.exact]
        if not rules or len(weights) != 1 or not own.exact:
            return None
        weight = weights[0].low
        caps = [r.high for r in recommended if r.kind == "dose" and r.low == -math.inf]

        def right(rule: Quantity) -> bool:
            low, high = (min([rule.low * weight, *caps]), min([rule.high * weight, *caps]))
            return low * 0.98 <= own.low <= high * 1.02

        fitting = [rule for rule in rules if right(rule)]
        if any(not _phases_clash(own, rule) for rule in fitting):
            self.add("per_kg_agree", 0.5 * own.sign)
            return True
        if any(r.kind == "dose" and right_dose(own, r) for r in recommended):
            return True
        self.add("per_kg_conflict", 0.5 * own.sign)
        possible = [rule for rule in rules if not _phases_clash(own, rule)]
        if (
            possible
            and all(r.exact and not r.told and not r.conditional for r in possible)
            and len([q for q in stated if q.kind == "age"]) < 2
        ):
            shown = " or ".join(f"{r.low * weight:g} mg ({r.label} at {weights[0].label})" for r in possible[:2])
            self.by_weight.append((own, shown))
        return False

    def _calm(self) -> bool:
        """Tell whether the statement neither asks, nor rejects, nor compares."""
        return not (self.statement.questions or self.statement.reversals or self.statement.compares)

    def _sure(self, own: Quantity) -> bool:
        """Tell whether a statement plainly asserts a quantity of its own."""
        return own.sign > 0 and not (own.told or own.conditional) and self._calm()

    def _conflict(self, own: Quantity, kin: list[Quantity]) -> None:
        """Show a mismatch, where it is sure."""
        category = _SHOWN.get(own.kind)
        if category is None or not self._sure(own) or any(r.told or r.sign <= 0 or r.conditional for r in kin):
            return
        kin = [r for r in kin if not _phases_clash(own, r)]
        if not kin or (own.drugs and kin[0].drugs and not own.drugs & self.recommendation.drugs):
            return
        if own.exact and any(own.low in (r.low, r.high) for r in self.recommendation.quantities):
            return
        if any(
            r.name in self.statement.words and r.name != own.name and r.name not in own.context for r in kin if r.name
        ):
            return
        values = self.stated_kinds[own.kind]
        if own.kind in self.agreed or (own.kind in _CASES_BY_WEIGHT and self.outside):
            return
        if category == "dose":
            if values > 1 and not own.phase and any(r.phase for r in kin):
                return
            if any(r.high == math.inf for r in kin):  # "5 mg daily or more" describes a patient
                return
            ratio = max(own.high, kin[0].high) / max(min(own.low, kin[0].low), 1e-9)
            if "divided" in self.statement.terms or "divided" in self.recommendation.terms or 30 < ratio < 900:
                return
        elif own.kind == "frequency":
            ratio = max(own.high, kin[0].high) / max(min(own.low, kin[0].low), 1e-6)
            if ratio > 8 or any(_COUNTED.isdisjoint(q.label.split()) for q in (own, *kin)):
                return
        elif own.kind == "percent" and (not all(r.exact for r in kin) or any(_same(own.low, 100 - r.low) for r in kin)):
            return
        if any(r.kind != own.kind for r in kin) or self._restated(own, kin):
            return
        if own.kind == "interval":
            alike = max(len(own.context & r.context) for r in kin) > 1
        else:
            alike = category == "dose" or not (_COURSE | self.recommendation.words.keys()).isdisjoint(own.context)
        if not alike:
            return
        shown = " or ".join(dict.fromkeys(r.label for r in kin[:3]))
        self.mismatches.append((_ORDER.index(category), category, Mismatch(own.kind, own.label, shown)))

    def _restated(self, own: Quantity, kin: list[Quantity]) -> bool:
        """Tell whether a value follows from the recommended ones: a day's total, one part of it, the sum of two."""
        if not own.exact:
            return False
        numbers = [q for claim in (self.recommendation, self.statement) for q in claim.quantities if q.kind in _FACTORS]
        rates = {rate for q in numbers for rate in (q.low, q.high) if math.isfinite(rate) and rate > 0}
        written = {q.low for q in self.statement.quantities if q.kind == "number"}
        if any(_same(own.low, sum(r.low for r in kin if math.isfinite(r.low))) for _ in kin[1:]):
            return True
        if any(_numeral(r) in written for r in kin):  # "a 10-day order, as 5 is standard"
            return True
        if own.kind not in _MULTIPLIED:
            return False
        return any(r.holds(own.low * rate) or r.holds(own.low / rate) for r in kin for rate in rates)

    # ------------------------------------------------------------------------------------------------------ categories

    def categories(self) -> None:
        stated: dict[str, list[Category]] = {}
        for category in self.statement.categories[:_MOST]:
            stated.setdefault(category.group, []).append(category)
        recommended: dict[str, list[Category]] = {}
        for category in self.recommendation.categories[:_MOST]:
            recommended.setdefault(category.group, []).append(category)
        for group in _CATEGORIES:
            own, others = stated.get(group), recommended.get(group)
            if not own or not others:
                continue
            values = {c.value: c.sign for c in others}
            agree = conflict = 0
            for value, sign in {c.value: c.sign for c in own}.items():
                if value in values:
                    product = sign * values[value] if group in ("route", "line") else 1
                    agree += product > 0
                    conflict += product < 0
                elif not any((group, a, b) in lex.NESTED for v in values for a, b in ((v, value), (value, v))):
                    conflict += 1
                else:
                    agree += 1
            self.put(f"agree_{group}", agree / 2)
            self.put(f"conflict_{group}", conflict / 2)
            if group not in ("route", "line", "care"):
                self.fits.append(1 if agree >= conflict else -1)

    # ----------------------------------------------------------------------------------------------------------- words

    def words(self) -> None:
        own, others = self.statement.words, self.recommendation.words
        shared = [word for word in own if word in others]
        near = 2 * len(shared) / (len(own) + len(others)) if own or others else 0.0
        self.put("overlap", near)
        if others:
            self.put("covered", len(shared) / len(others))
        if shared:
            products = [own[w] * others[w] for w in shared]
            agreeing, opposing = sum(p > 0 for p in products), sum(p < 0 for p in products)
            self.put("sign_agreement", agreeing / len(shared))
            self.put("sign_conflict", opposing / len(shared))
            self.put("sign_near", (agreeing - opposing) / len(shared) * near)
            self.put("sign_half", float(opposing > agreeing))
        one, other = _verdict(self.statement), _verdict(self.recommendation)
        self.put("verdict_product", one * other)
        self.put("verdict_conflict", float(one * other < 0))
        self.put("verdict_near", one * other * near)
        self.put("final_product", self.statement.final * self.recommendation.final)
        self.put("statement_verdict", one)
        self.put("recommendation_verdict", other)
        self.put("negations", (self.statement.negations - self.recommendation.negations) / 3)
        self.put("negation_parity", float((self.statement.negations - self.recommendation.negations) % 2))
        self.put("questions", self.statement.questions / 2)
        self.put("reversals", self.statement.reversals / 2)
        if self.signed:
            self.put("case_signed", sum(self.signed) / len(self.signed))
        product = one * other
        if self.fits and product:
            fit = sum(self.fits) / len(self.fits)
            self.put("case_verdict", fit * product)
            self.put("condition_verdict", min(self.fits) * product)

    def opposites(self) -> None:
        own, others = self.statement.terms, self.recommendation.terms
        table = _opposites()
        opposed = together = 0
        near = self.features[_INDEX["overlap"]]
        seen: set[tuple[int, int]] = set()
        for word in own:
            for kind, group, member in table.get(word, ()):
                if (group, member) in seen:
                    continue
                seen.add((group, member))
                ours = _members(group)
                if not ours[member].isdisjoint(others):
                    together += 1
                    continue
                rival = next((k for k, words in enumerate(ours) if k != member and not words.isdisjoint(others)), None)
                if rival is None or not ours[rival].isdisjoint(own):
                    continue
                theirs = next(w for w in ours[rival] if w in others)
                product = own[word] * others[theirs]
                if product > 0 and near > 0.5 and kind in _SHOWN_OPPOSITES and self._calm():
                    category = _SHOWN_OPPOSITES[kind]
                    self.mismatches.append((_ORDER.index(category), category, Mismatch(kind, word, theirs)))
                # "Not before" may well say "after": a denied opposite is no opposition.
                self.add(f"opposed_{kind}", 0.5 * (product or 1))
                opposed += product or 1
        self.put("opposed", opposed / 3)
        self.put("opposed_near", opposed / 3 * near)
        self.put("not_opposed", together / 5)
        for word in _ABSOLUTE:
            if word in own and word not in others:
                self.add(f"added_{word}", 1.0)

    def drugs(self) -> None:
        own, others = self.statement.drugs, self.recommendation.drugs
        if not own and not others:
            return
        shared = own & others
        self.put("drugs_shared", len(shared) / 3)
        self.put("drugs_foreign", len(own - others) / 2 if others else 0.0)
        self.put("drugs_missing", len(others - own) / len(others) if others else 0.0)
        signs = [self.statement.terms[d] * self.recommendation.terms[d] for d in shared]
        self.put("drugs_sign", sum(signs) / len(signs) if signs else 0.0)


def right_dose(own: Quantity, rule: Quantity) -> bool:
    """Tell whether a fixed dose of the recommendation explains a stated one."""
    return relation(own, rule) in (_EQUAL, _INSIDE) and not _phases_clash(own, rule)


def _verdict(claim: Claim) -> float:
    affirmed, denied = claim.verdicts
    return (affirmed - denied) / (affirmed + denied) if affirmed + denied else 0.0


@cache
def _sides() -> tuple[tuple[frozenset[str], ...], ...]:
    return tuple(tuple(frozenset(words.split()) for words in sides) for _, sides in lex.OPPOSITES)


def _members(group: int) -> tuple[frozenset[str], ...]:
    return _sides()[group]


@cache
def _opposites() -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Return for each word the kind of opposites it belongs to, their place, and its side."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for group, (kind, sides) in enumerate(lex.OPPOSITES):
        for member, words in enumerate(sides):
            for word in words.split():
                found.setdefault(word, []).append((kind, group, member))
    return {word: tuple(entries) for word, entries in found.items()}


def compare(recommendation: Claim, statement: Claim) -> Comparison:
    """Compare the claim of a statement with that of the recommendation it is about. Never fails; pure."""
    pair = _Comparing(recommendation, statement)
    pair.quantities()
    pair.categories()
    pair.words()
    pair.opposites()
    pair.drugs()
    found = sorted(pair.mismatches, key=lambda entry: entry[0])
    if found:
        pair.put("has_mismatch", 1.0)
    unique = tuple(dict.fromkeys(mismatch for _, _, mismatch in found))
    return Comparison(tuple(pair.features), unique, found[0][1] if found else None)
