"""Two versions of a guideline: what was added, changed and withdrawn, and what that makes of the corpus.

Advice that was true is the most plausible wrong advice there is. So a recommendation that was withdrawn, or whose
numbers or direction changed, is turned into statements labelled unsafe: its own old text, and the paraphrases of it
that the corpus has as safe. Statements that the new version still supports are left out, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from monitor.text import normalise
from trainer.artifacts import write_rows
from trainer.guideline.guidelines import Pack, extract
from trainer.guideline.polarity import (
    Clause,
    Number,
    binds,
    bounds,
    clauses,
    closest,
    contradiction,
    is_reversed,
    replaced,
)
from trainer.guideline.wording import content_words
from trainer.statements import corpus
from trainer.types import Difficulty, Example, Label, Recommendation

STALE = "stale_advice"  # category of the statements made here
#: Two texts of one section that share this share of their words (Dice) are versions of one recommendation.
SAME_RULE = 0.6
#: Share of the words of a text that a recommendation must have to say the same.
_STILL_SAID = 0.9
_RETRACTS = re.compile(r"\b(?:outdated|obsolete|superseded|withdrawn|no longer)\b", re.IGNORECASE)


class What(StrEnum):
    """In what a recommendation changed."""

    NUMBER = "number"
    POLARITY = "polarity"
    POPULATION = "population"
    STRENGTH = "strength"
    WORDING = "wording"


@dataclass(frozen=True, slots=True)
class Change:
    """A recommendation before and after; `what` is in order of gravity, never empty."""

    old: Recommendation
    new: Recommendation
    what: tuple[What, ...]


@dataclass(frozen=True, slots=True)
class Revision:
    """What became of the recommendations of a guideline; `unchanged` are those of the new version."""

    added: tuple[Recommendation, ...]
    changed: tuple[Change, ...]
    withdrawn: tuple[Recommendation, ...]
    unchanged: tuple[Recommendation, ...]

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.added or self.changed or self.withdrawn)


@dataclass(frozen=True, slots=True)
class StaleStatement:
    """A row of the corpus, made from advice of an older version; `reason` says what became of that advice.

    `recommendation` is that of the new version which it contradicts, as far as one can tell: the changed one, or the
    most similar. `parent` is the safe statement that it repeats, where the new version still has its recommendation.
    """

    id: str
    recommendation: str | None
    category: str
    text: str
    label: Label
    difficulty: Difficulty
    parent: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class NotStale:
    """A statement of an outdated recommendation that was not turned, and why."""

    id: str
    text: str
    reason: str


def _similarity(one: str, other: str) -> float:
    """Return the Dice coefficient of the content words of two texts."""
    a, b = content_words(one), content_words(other)
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else 0.0


def _what(old: Recommendation, new: Recommendation) -> tuple[What, ...]:
    """Return in what two versions of a recommendation differ; quantities are compared across units (48 h, 2 days).

    Where it is not certain that a number or the polarity changed, the wording did.
    """
    what = []
    if replaced(old.text, new.text):
        what.append(What.NUMBER)
    if is_reversed(old.text, new.text):
        what.append(What.POLARITY)
    if content_words(old.population or "") != content_words(new.population or ""):
        what.append(What.POPULATION)
    if (old.strength, old.grade) != (new.strength, new.grade):
        what.append(What.STRENGTH)
    if _plain(old) != _plain(new):
        what.append(What.WORDING)
    return tuple(what)


def _plain(recommendation: Recommendation) -> str:
    return normalise(recommendation.text).casefold()


#: What two versions of one recommendation may have in common, surest first.
_KEYS: tuple[Callable[[Recommendation], object], ...] = (lambda r: (r.id, _plain(r)), _plain, lambda r: r.id)


def _pairs(
    old: Sequence[Recommendation], new: Sequence[Recommendation]
) -> Iterator[tuple[Recommendation, Recommendation]]:
    """Yield versions of one recommendation: of one id and text, one text, one id, or alike and in one section."""
    left = {r.id: r for r in old}
    right = {r.id: r for r in new}
    # Text before id: the ordinal in the id of a rule that was extracted moves when another is inserted before it.
    for key in _KEYS:
        by_key = {key(r): r.id for r in right.values()}
        for recommendation in list(left.values()):
            if identifier := by_key.pop(key(recommendation), ""):
                yield left.pop(recommendation.id), right.pop(identifier)
    sections: dict[str, list[Recommendation]] = {}
    for recommendation in right.values():
        sections.setdefault(recommendation.section, []).append(recommendation)
    alike = [
        (share, before.id, after.id)
        for before in left.values()
        for after in sections.get(before.section, [])
        if (share := _similarity(before.text, after.text)) >= SAME_RULE
    ]
    for _, before_id, after_id in sorted(alike, key=lambda pair: -pair[0]):
        if before_id in left and after_id in right:
            yield left.pop(before_id), right.pop(after_id)


def diff(old: Sequence[Recommendation], new: Sequence[Recommendation]) -> Revision:
    """Compare two versions of a guideline; ids are unique in each.

    Recommendations are matched by their text, then by id, then by similarity within a section. Where they stand in the
    document, version and validity are no changes.
    """
    pairs = list(_pairs(old, new))
    before = {o.id for o, _ in pairs}
    after = {n.id: (o, n) for o, n in pairs}
    changed, unchanged = [], []
    for recommendation in new:
        if recommendation.id in after:
            earlier, later = after[recommendation.id]
            what = _what(earlier, later)
            if what:
                changed.append(Change(earlier, later, what))
            else:
                unchanged.append(later)
    return Revision(
        tuple(r for r in new if r.id not in after),
        tuple(changed),
        tuple(r for r in old if r.id not in before),
        tuple(unchanged),
    )


def affected(revision: Revision, examples: Iterable[Example]) -> list[str]:
    """Return the ids of the statements, safe and unsafe, whose recommendation changed or was withdrawn."""
    touched = {change.old.id for change in revision.changed} | {r.id for r in revision.withdrawn}
    return [example.id for example in examples if example.recommendation in touched]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What of a text counts when it is asked whether another says the same."""

    clauses: tuple[Clause, ...]
    words: frozenset[str]
    quantities: frozenset[Number]
    bounds: frozenset[str]
    retracts: bool  # "the advice to avoid it is outdated" does not say to avoid it

    @staticmethod
    def of(text: str) -> _Reading:
        parts = tuple(clauses(text))
        words = frozenset(word for clause in parts for word in clause.words)
        quantities = frozenset(number for clause in parts for number in clause.quantities)
        return _Reading(parts, words, quantities, bounds(text), _RETRACTS.search(text) is not None)

    def says(self, other: _Reading) -> bool:
        """Tell whether this text says what the other one does, in nearly its words, perhaps among more."""
        return (
            self.retracts == other.retracts
            and other.quantities <= self.quantities
            and other.bounds <= self.bounds
            and len(other.words & self.words) >= _STILL_SAID * max(len(other.words), 1)
            and contradiction(other.clauses, self.clauses) is None
            and all(not (near := closest(c, self.clauses)) or binds(near, c.quantities) for c in other.clauses)
        )


def stale_statements(revision: Revision, examples: Sequence[Example]) -> tuple[list[StaleStatement], list[NotStale]]:
    """Return unsafe statements of advice that the new version withdrew or certainly changed in number or direction.

    They are the old recommendation's own text and its safe paraphrases in the corpus. A paraphrase that does not state
    what changed, or that the new version still supports, comes back as not stale, with the reason; so do all of a
    recommendation that the new version still states, be it within another one.
    """
    current = [*revision.added, *(change.new for change in revision.changed), *revision.unchanged]
    said = [(r.id, _Reading.of(r.text)) for r in current]
    seen: set[str] = set()
    stale: list[StaleStatement] = []
    left_out: list[NotStale] = []
    outdated: list[tuple[Recommendation, Change | None]] = [(r, None) for r in revision.withdrawn]
    outdated += [(c.old, c) for c in revision.changed if What.NUMBER in c.what or What.POLARITY in c.what]
    for old, change in outdated:
        against = change.new if change else _nearest(old, current)
        kept = _still_said(_Reading.of(old.text), said)
        texts = [(old.id, old.text)]
        texts += [(e.id, e.text) for e in examples if e.recommendation == old.id and e.label is Label.SAFE]
        for ordinal, (identifier, text) in enumerate(texts):
            reason = "it repeats another one" if normalise(text).casefold() in seen else None
            if reason := reason or kept or _still_right(text, change, said):
                left_out.append(NotStale(identifier, text, reason))
                continue
            seen.add(normalise(text).casefold())
            known = against is not None and against.id == old.id
            stale.append(
                StaleStatement(
                    id=f"stale-{identifier}",
                    recommendation=against.id if against else None,
                    category=STALE,
                    text=text,
                    label=Label.UNSAFE,
                    difficulty=Difficulty.HARD,
                    parent=identifier if ordinal and known else None,
                    reason=_became(old, change),
                )
            )
    return stale, left_out


def _nearest(old: Recommendation, current: Sequence[Recommendation]) -> Recommendation | None:
    """Return the recommendation that a withdrawn one most likely contradicts now: of its section, else of all."""
    near = [r for r in current if r.section == old.section] or current
    return max(near, key=lambda r: _similarity(r.text, old.text), default=None)


def _still_said(text: _Reading, current: Sequence[tuple[str, _Reading]]) -> str | None:
    """Return which recommendation of the new version says what a text does, as the reason to leave it out, or None."""
    return next((f"the new version still says it: {name}" for name, said in current if said.says(text)), None)


def _still_right(text: str, change: Change | None, current: Sequence[tuple[str, _Reading]]) -> str | None:
    """Return why a statement of an outdated recommendation is not outdated itself, or None."""
    own = _Reading.of(text)
    if reason := _still_said(own, current):
        return reason
    if change is None or replaced(change.old.text, change.new.text) & own.quantities:
        return None
    if What.POLARITY in change.what:
        agrees = contradiction(own.clauses, clauses(change.old.text)) is None
        if agrees and contradiction(own.clauses, clauses(change.new.text)):
            return None
    return "it does not state what changed"


def _became(old: Recommendation, change: Change | None) -> str:
    if change is None:
        return f"version {old.version} said it, a later one withdrew it: {old.text}"
    return f"{change.what[0]} changed from version {old.version} to {change.new.version}: {change.new.text}"


def _text(revision: Revision) -> Iterator[str]:
    """Yield the lines that a person reads."""
    for r in revision.withdrawn:
        yield f"- {r.id}: {r.text}"
    for r in revision.added:
        yield f"+ {r.id}: {r.text}"
    for change in revision.changed:
        renamed = f" -> {change.new.id}" if change.new.id != change.old.id else ""
        yield f"~ {change.old.id}{renamed} ({', '.join(change.what)})"
        yield f"    was {change.old.text}"
        yield f"    is  {change.new.text}"


@click.command(name="guideline-diff")
@click.argument("old_pack", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new_pack", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--corpus",
    "corpus_",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of statements made from the old version.  [default: the old pack's own, if it names one]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--stale",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the statements that have become outdated advice here, as rows of the corpus labelled unsafe.",
)
@click.pass_context
def command(
    ctx: click.Context, old_pack: Path, new_pack: Path, corpus_: Path | None, as_json: bool, stale: Path | None
) -> None:
    """Compare two versions of a guideline: recommendations added (+), changed (~) and withdrawn (-).

    Says which statements of the corpus are affected: judge those again or take them out. Exit codes: 0 both versions
    say the same, 1 they differ, 2 a pack cannot be read.
    """
    before, after = Pack.load(old_pack), Pack.load(new_pack)
    old = extract(before)
    revision = diff(old, extract(after))
    folder = corpus_ or (before.corpus if before.spec.corpus else None)
    examples, unusable = corpus.load(folder, old) if folder else ([], [])
    if unusable:
        first = f"{unusable[0].id}: {unusable[0].reason}"
        click.echo(f"{folder}: {len(unusable)} rows are not judged, the first: {first}", err=True)
    touched = affected(revision, examples)
    statements, left_out = stale_statements(revision, examples)
    if stale:
        write_rows(stale, statements)
    if as_json:
        content: dict[str, Any] = {
            "added": [asdict(r) for r in revision.added],
            "changed": [asdict(c) for c in revision.changed],
            "withdrawn": [asdict(r) for r in revision.withdrawn],
            "unchanged": [r.id for r in revision.unchanged],
            "affected": touched,
            "stale": [asdict(s) for s in statements],
            "not_stale": [asdict(s) for s in left_out],
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for line in _text(revision):
            click.echo(line)
        click.echo(
            f"{len(revision.added)} added, {len(revision.changed)} changed, {len(revision.withdrawn)} withdrawn, "
            f"{len(revision.unchanged)} unchanged; {len(touched)} statements affected, "
            f"{len(statements)} outdated ones made, {len(left_out)} left out"
        )
    ctx.exit(1 if revision else 0)
