"""Verification of LLM-written statements: is each what its label claims?

In: statements as `trainer.statements.corpus` loads them, recorded or just generated. Out: those that can be believed,
and the others with the reason. In this order:

1. *Rules* (here): an unsafe statement changes something of its safe parent, a safe one changes no number and no
   negation of its recommendation, and nothing stands there with both labels.
2. *Judge* (`trainer.statements.judge`), where its judgements are given.
3. *Near-duplicates* (`trainer.statements.duplicates`), and 4. *contamination* of evaluation by training
   (`trainer.statements.leakage`).

The rules reject only what is wrong for certain: their reading is shallow, and a good statement lost is a loss too. What
they merely find odd is kept and marked *suspicious*; those are the statements to show a reviewer first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainer.statements.claims import Claim, changes, difference, numeral, read_claim
from trainer.statements.corpus import Rejected, file_of
from trainer.statements.duplicates import Duplicate, DuplicateSettings, Embed, near_duplicates
from trainer.statements.judge import JudgeOutcome
from trainer.statements.leakage import Contaminated, LeakageReport, LeakageSettings, bag_of_words_audit, decontaminate
from trainer.types import Difficulty, Example, Label, Quantity, Recommendation, Split


@dataclass(frozen=True)
class RuleSettings:
    """Where a rule calls a statement suspicious."""

    #: A hard variant keeps at least this share of the words of its parent (Jaccard similarity of multisets).
    hard_overlap: float = 0.30
    #: Styles that tell of made-up patients; their numbers are the patient's own.
    vignette_styles: tuple[str, ...] = ("e",)


@dataclass(frozen=True, slots=True)
class Check:
    """What the rules say of one statement.

    `rule` names the rule that found something: where `ok` is false the statement is rejected by it, else it is only
    suspicious. `changed` names the kinds of change from the safe parent (see `trainer.statements.claims.changes`), for
    an unsafe statement whose parent is there.
    """

    id: str
    ok: bool
    rule: str | None
    reason: str | None
    changed: tuple[str, ...] = ()

    @property
    def suspicious(self) -> bool:
        """Whether a reviewer should look at it, though it is kept."""
        return self.ok and self.rule is not None


class _Numbers:
    """The numbers of some text of a guideline."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        found = [q for claim in claims for q in claim.quantities]
        self.pairs = {(q.value, q.unit) for q in found}
        self._numerals = {numeral(q) for q in found}
        self._bare = {numeral(q) for q in found if not q.unit}

    def add_sums(self) -> None:
        """Add what comes of adding or subtracting two quantities of one unit: "400 mg in all", "five days sooner"."""
        twos = [(a, b, unit) for a, unit in self.pairs for b, other in self.pairs if unit == other]
        self.pairs |= {(round(value, 6), unit) for a, b, unit in twos for value in (a + b, a - b)}

    def missing(self, claim: Claim) -> list[Quantity]:
        """Return the quantities of a claim that are none of these.

        The unit of one number of a pair may be left out: "10 days against 15" has the numbers of "10 against 15 days".
        """
        return [
            q
            for q in claim.quantities
            if (q.value, q.unit) not in self.pairs and numeral(q) not in (self._bare if q.unit else self._numerals)
        ]


@dataclass(frozen=True)
class _Guideline:
    """A recommendation as the rules read it: its claim, its numbers, those of its section."""

    claim: Claim
    own: _Numbers
    section: _Numbers


def _read_guideline(recommendations: Sequence[Recommendation], names: Sequence[str]) -> dict[str, _Guideline]:
    claims = {r.id: read_claim(r.text, names) for r in recommendations}
    by_section: dict[tuple[str, str], list[Claim]] = defaultdict(list)
    for r in recommendations:
        by_section[r.source, r.section] += [claims[r.id], read_claim(r.quote, names)]
    sections = {key: _Numbers(each) for key, each in by_section.items()}
    for numbers in sections.values():
        numbers.add_sums()
    return {
        r.id: _Guideline(claims[r.id], _Numbers([claims[r.id]]), sections[r.source, r.section]) for r in recommendations
    }


def _of_a_patient(claim: Claim) -> bool:
    """Tell whether the statement speaks of one patient: with an age, a body weight or laboratory values."""
    return bool({q.unit for q in claim.quantities} & {"kg", "months", "u/l", "mmol/l", "umol/l", "g/l", "mg/dl", "bpm"})


def _check_unsafe(
    example: Example, claim: Claim, parent: Claim | None, guideline: _Guideline, settings: RuleSettings
) -> Check:
    def verdict(ok: bool, rule: str | None = None, reason: str | None = None) -> Check:
        return Check(example.id, ok, rule, reason, changed)

    changed = changes(parent, claim) if parent else ()
    if parent and claim.tokens == parent.tokens:
        return verdict(False, "same-as-parent", f"unsafe, but says the same as its safe parent {example.family}")
    if claim.tokens == guideline.claim.tokens:
        return verdict(False, "same-as-recommendation", "unsafe, but says the same as its recommendation")
    if parent and example.difficulty is Difficulty.HARD:
        both, either = parent.counts & claim.counts, parent.counts | claim.counts
        overlap = both.total() / max(either.total(), 1)
        if overlap < settings.hard_overlap:
            return verdict(True, "far-from-parent", f"hard, but shares only {overlap:.0%} of the words of its parent")
    return verdict(True)


def _check_safe(example: Example, claim: Claim, guideline: _Guideline, settings: RuleSettings) -> Check:
    changed = set(changes(guideline.claim, claim))
    other = guideline.own.missing(claim)
    if changed and changed <= {"number", "unit"} and other:
        reason = f"safe, but its only difference from its recommendation is {_written(other)}"
        return Check(example.id, False, "number-of-recommendation", reason)
    if changed == {"polarity"}:
        words = sorted(word for side in difference(guideline.claim, claim) for word in side)
        reason = f"safe, but its only difference from its recommendation is {', '.join(map(repr, words))}"
        return Check(example.id, False, "polarity-of-recommendation", reason)
    # Only of the kinds that the recommendation counts in: what else a statement counts, the rules know nothing of.
    counted = {q.unit for q in guideline.claim.quantities if q.unit}
    foreign = [q for q in guideline.section.missing(claim) if q.unit in counted]
    if foreign and example.style not in settings.vignette_styles and not _of_a_patient(claim):
        reason = f"safe, with {_written(foreign)}, which is nowhere in its section of the guideline"
        return Check(example.id, True, "foreign-number", reason)
    return Check(example.id, True, None, None)


def _written(quantities: Iterable[Quantity]) -> str:
    return ", ".join(q.text for q in quantities)


def _with_both_labels(rows: Iterable[Example], claims: Mapping[str, Claim]) -> dict[str, str]:
    """Return id -> id of a statement that says the same of the same recommendation with the other label."""
    first: dict[tuple[str | None, tuple[str, ...]], dict[Label, str]] = defaultdict(dict)
    rows = [e for e in rows if e.label is not Label.OUT_OF_SCOPE]
    for example in rows:
        first[example.recommendation, claims[example.id].tokens].setdefault(example.label, example.id)
    return {
        e.id: twin
        for e in rows
        for label, twin in first[e.recommendation, claims[e.id].tokens].items()
        if label is not e.label
    }


def check(
    rows: Sequence[Example],
    recommendations: Sequence[Recommendation],
    settings: RuleSettings = RuleSettings(),
    names: Sequence[str] = (),
    claims: Mapping[str, Claim] | None = None,
) -> list[Check]:
    """Return what the rules say of each statement, in order. Statements out of scope claim nothing and always pass.

    `names` are the one-word names of the treatment in lower case, read as the same. `claims` (by id) spares reading.
    A statement on an unknown recommendation is rejected.
    """
    claims = claims or {e.id: read_claim(e.text, names) for e in rows}
    guidelines = _read_guideline(recommendations, names)
    safe = {e.id for e in rows if e.label is Label.SAFE}
    result = []
    for example in rows:
        claim = claims[example.id]
        guideline = guidelines.get(example.recommendation or "")
        if example.label is Label.OUT_OF_SCOPE:
            result.append(Check(example.id, True, None, None))
        elif guideline is None:
            reason = f"unknown recommendation {example.recommendation!r}"
            result.append(Check(example.id, False, "unknown-recommendation", reason))
        elif example.label is Label.SAFE:
            result.append(_check_safe(example, claim, guideline, settings))
        else:
            parent = claims[example.family] if example.family in safe else None
            result.append(_check_unsafe(example, claim, parent, guideline, settings))
    # Of what is wrong by itself nothing follows for the statement that it equals.
    ambiguous = _with_both_labels([e for e, found in zip(rows, result, strict=True) if found.ok], claims)
    return [
        replace(found, ok=False, rule="both-labels", reason=f"says the same as {twin}, which has the other label")
        if (twin := ambiguous.get(found.id))
        else found
        for found in result
    ]


def _without(rows: Iterable[Example], reasons: Mapping[str, str]) -> tuple[list[Example], list[Rejected]]:
    kept: list[Example] = []
    rejected: list[Rejected] = []
    for example in rows:
        if reason := reasons.get(example.id):
            rejected.append(Rejected(example.id, file_of(example), reason, example.text))
        else:
            kept.append(example)
    return kept, rejected


def _orphans(rows: Sequence[Example], lost: Collection[str]) -> dict[str, str]:
    """Return the variants of rejected statements: what they were to contradict cannot be believed itself."""
    return {e.id: f"parent {e.family} was rejected" for e in rows if e.family in lost and e.id != e.family}


def _reunited(rows: Sequence[Example], duplicates: Sequence[Duplicate]) -> list[Example]:
    """Let what is left of a duplicate's family join the family of the statement that it repeats.

    They say nearly the same, so they have to lie on one side of every split.
    """
    family = {e.id: e.family for e in rows}
    joins: dict[str, str] = {}

    def find(name: str) -> str:
        while name in joins:
            name = joins[name]
        return name

    for duplicate in duplicates:
        mine, theirs = find(family[duplicate.id]), find(family[duplicate.of])
        if mine != theirs:
            joins[mine] = theirs
    return [replace(e, family=find(e.family)) for e in rows]


@dataclass(frozen=True)
class CheckSettings:
    """All of them."""

    rules: RuleSettings = field(default_factory=RuleSettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    leakage: LeakageSettings = field(default_factory=LeakageSettings)
    seed: int = 20


@dataclass(frozen=True)
class ChecksOutcome:
    """What the checks leave of a corpus.

    `splits` holds the ids of `kept` by split, without the training statements that evaluation knows; those are in
    `rejected`, like everything else that was not kept. `report` is ready for JSON.
    """

    kept: list[Example]
    rejected: list[Rejected]
    splits: dict[Split, list[str]]
    checks: list[Check]
    report: dict[str, Any]


def run_checks(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    split: Callable[[Sequence[Example]], Mapping[Split, Sequence[str]]],
    embed: Embed | None = None,
    answers: Sequence[str] = (),
    judged: JudgeOutcome | None = None,
    names: Sequence[str] = (),
    settings: CheckSettings = CheckSettings(),
) -> ChecksOutcome:
    """Run every check on a corpus and split what is left.

    `split` divides statements (`trainer.statements.corpus.split`); it is called once, after everything but
    decontamination. `answers` are the sentences of whole answers that evaluation uses. `embed` gives embeddings;
    without it duplicates are found by MinHash alone. Deterministic; raises nothing for a bad statement.
    """
    rejected: list[Rejected] = []

    def drop(rows: Sequence[Example], reasons: Mapping[str, str]) -> list[Example]:
        kept, lost = _without(rows, reasons)
        rejected.extend(lost)
        return kept

    claims = {e.id: read_claim(e.text, names) for e in examples}
    checks = check(examples, recommendations, settings.rules, names, claims)
    wrong = {c.id: f"{c.rule}: {c.reason}" for c in checks if not c.ok}
    if judged is not None:
        wrong = judged.rejected | wrong
    kept = drop(examples, _orphans(examples, wrong) | wrong)
    duplicates = near_duplicates(kept, embed, settings.duplicates, claims)
    kept = drop(_reunited(kept, duplicates), {d.id: d.reason for d in duplicates})
    audit = bag_of_words_audit(kept, settings.seed, settings.leakage)
    splits = {part: list(ids) for part, ids in split(kept).items()}
    contaminated = _contaminated(kept, splits, recommendations, answers, settings.leakage, claims, names)
    gone = {c.id: c.reason for c in contaminated}
    kept = drop(kept, gone)
    splits = {part: [i for i in ids if i not in gone] for part, ids in splits.items()}
    report = {
        "statements": len(examples),
        "kept": len(kept),
        "rejected": dict(sorted(Counter(_kind(r.reason) for r in rejected).items())),
        "suspicious": dict(sorted(Counter(str(c.rule) for c in checks if c.suspicious).items())),
        "changed": dict(Counter(kind for c in checks for kind in c.changed).most_common()),
        "judge": judged.summary() if judged else None,
        "duplicates": [asdict(d) for d in duplicates],
        "leakage": _audit_report(audit),
        "contaminated": dict(sorted(Counter(f"{c.evaluation}: {c.method}" for c in contaminated).items())),
        "embeddings": embed is not None,
        "settings": asdict(settings),
    }
    return ChecksOutcome(kept, rejected, splits, checks, report)


def _contaminated(
    kept: Sequence[Example],
    splits: Mapping[Split, Sequence[str]],
    recommendations: Sequence[Recommendation],
    answers: Sequence[str],
    settings: LeakageSettings,
    claims: Mapping[str, Claim],
    names: Sequence[str],
) -> list[Contaminated]:
    by_id = {e.id: e for e in kept}
    # Validation chooses thresholds and hyperparameters, so training must not know it either.
    evaluation = {
        part.value: [by_id[i].text for i in splits.get(part, ())]
        for part in (Split.TEST_ID, Split.TEST_OOD, Split.VALIDATION)
    } | {"answers": list(answers)}
    guideline = [text for r in recommendations for text in (r.text, r.quote)]
    train = [by_id[i] for i in splits.get(Split.TRAIN, ())]
    return decontaminate(train, evaluation, guideline, settings, claims, names)


def _audit_report(audit: LeakageReport | None) -> dict[str, Any] | None:
    return None if audit is None else asdict(audit) | {"passed": audit.passed}


_KINDS = {"near-duplicate of": "near-duplicate", "in evaluation set": "contamination", "parent ": "parent rejected"}


def _kind(reason: str) -> str:
    """Return what kind of reason it is, for counting."""
    return next((kind for start, kind in _KINDS.items() if reason.startswith(start)), reason.partition(":")[0])


def reason_counts(rejected: Iterable[Rejected]) -> Iterator[tuple[str, int]]:
    """Yield kinds of reasons and how often each occurs, the most frequent first."""
    yield from Counter(_kind(r.reason) for r in rejected).most_common()
