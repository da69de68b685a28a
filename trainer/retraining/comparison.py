"""Champion and challenger on the same frozen sets, through the monitor's own path at each package's own thresholds.

The sets are drawn once from the run and do not depend on either model:

    voices heard        statements of the test split in styles that training heard
    voices never heard  statements in the styles that were held out
    out of scope        statements about nothing that the guideline says
    minimal pairs       a right statement and its twin with one number, negation or population changed
    whole answers       answers as platforms send them
    recent decisions    settled decisions that no retraining has learnt from
    learnt decisions    those of the training part: whether they were learnt, nothing else

What a model makes of them is one row an item, so that differences are paired.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from monitor.package import ModelPackage
from monitor.policy import judge
from monitor.types import StatementScore, Verdict
from trainer.artifacts import fingerprint, read_json_lines, write_rows
from trainer.evaluation import perturbations
from trainer.evaluation.measures import strata
from trainer.evaluation.stage import ServedModel
from trainer.guideline.guidelines import Pack
from trainer.retraining.settings import FrozenSettings
from trainer.statements import vignettes
from trainer.statements.corpus import load_answers
from trainer.types import Example, Label, Recommendation, Split

Answer = TypeVar("Answer")
#: Statements scored between two steps of the progress bar.
_SLICE = 128


class Suite(StrEnum):
    """The sets, in the order of the tables."""

    HEARD = "voices heard"
    UNHEARD = "voices never heard"
    OUTSIDE = "out of scope"
    PAIRS = "minimal pairs"
    ANSWERS = "whole answers"
    RECENT = "recent decisions"
    LEARNT = "learnt decisions"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is judged: a statement, a pair, an answer or a decision.

    `texts` is one text, or the right and the wrong one of a pair; `unsafe` the truth (of a pair: that it has a wrong
    twin); `strata` names what it belongs to besides "all".
    """

    suite: Suite
    id: str
    family: str
    texts: tuple[str, ...]
    unsafe: bool
    strata: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a model made of an item: probability of unsafe (of a pair: of its wrong twin), flagged?, decided right?"""

    p: float
    flagged: bool
    right: bool


@dataclass(frozen=True)
class FrozenSets:
    """All items, in a fixed order."""

    items: tuple[Item, ...]

    def of(self, suite: Suite) -> list[int]:
        """Return the places of a suite's items."""
        return [i for i, item in enumerate(self.items) if item.suite is suite]

    @property
    def key(self) -> str:
        """A digest of them."""
        return fingerprint([[i.suite, i.id, i.texts, i.unsafe] for i in self.items])


def _some(examples: Sequence[Example], most: int | None, seed: int) -> list[Example]:
    """Return whole families up to about `most` statements, the same ones each time."""
    if most is None or len(examples) <= most:
        return list(examples)
    names = sorted({e.family for e in examples})
    random.Random(seed).shuffle(names)
    size = dict.fromkeys(names, 0)
    for example in examples:
        size[example.family] += 1
    kept: set[str] = set()
    total = 0
    for name in names:
        if total >= most:
            break
        kept.add(name)
        total += size[name]
    return [e for e in examples if e.family in kept]


def _statements(suite: Suite, examples: Sequence[Example]) -> list[Item]:
    belongs: list[list[str]] = [[] for _ in examples]
    for name, rows in strata(examples).items():
        for i in rows if name != "all" else ():
            belongs[i].append(name)
    return [
        Item(suite, e.id, e.family, (e.text,), e.label is Label.UNSAFE, tuple(own))
        for e, own in zip(examples, belongs, strict=True)
    ]


def _pairs(
    pack: Pack, recommendations: Sequence[Recommendation], tests: Sequence[Example], settings: FrozenSettings
) -> list[Item]:
    made = perturbations.suites(
        recommendations,
        tests,
        [*pack.spec.synonyms, *pack.spec.brand_names],
        settings.seed,
        contrasts=vignettes.load_contrasts(pack, recommendations),
    )
    items = []
    for kind, pairs in made.items():
        own = [p for p in pairs if p.unsafe_text is not None]
        if settings.pairs is not None and len(own) > settings.pairs:
            own = random.Random(f"{settings.seed}:{kind}").sample(own, settings.pairs)
        items += [
            Item(Suite.PAIRS, f"{kind}-{i}", p.recommendation, (p.safe_text, str(p.unsafe_text)), True, (kind,))
            for i, p in enumerate(own)
        ]
    return items


def _answers(pack: Pack, most: int | None, seed: int) -> list[Item]:
    rows = load_answers(pack.corpus) if pack.spec.corpus else []
    if most is not None and len(rows) > most:
        rows = random.Random(seed).sample(rows, most)
    return [
        Item(Suite.ANSWERS, r["id"], r["id"], (r["text"],), r["label"] == Label.UNSAFE, (f"answer: {r['label']}",))
        for r in rows
    ]


def draw(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    parts: Mapping[Split, Sequence[Example]],
    recent: Sequence[Example],
    learnt: Sequence[Example],
    settings: FrozenSettings,
) -> FrozenSets:
    """Return what both models are measured on. Deterministic.

    Args:
        pack: names the whole answers and the populations that pairs contrast.
        recommendations: of the guideline.
        parts: statements of the champion's corpus by split.
        recent: decisions kept for evaluation.
        learnt: decisions of the training part.
        settings: how much of each.
    """
    items: list[Item] = []
    for suite, split in ((Suite.HEARD, Split.TEST_ID), (Suite.UNHEARD, Split.TEST_OOD)):
        scoped = [e for e in parts[split] if e.recommendation is not None]
        items += _statements(suite, _some(scoped, settings.statements, settings.seed))
    outside = [e for split in (Split.TEST_ID, Split.TEST_OOD) for e in parts[split] if e.recommendation is None]
    items += [
        Item(Suite.OUTSIDE, e.id, e.family, (e.text,), False)
        for e in _some(outside, settings.statements, settings.seed)
    ]
    tests = [*parts[Split.TEST_ID], *parts[Split.TEST_OOD]]
    items += _pairs(pack, recommendations, tests, settings)
    items += _answers(pack, settings.answers, settings.seed)
    for suite, own in ((Suite.RECENT, recent), (Suite.LEARNT, learnt)):
        items += [Item(suite, e.id, e.family, (e.text,), e.label is Label.UNSAFE, (f"decided {e.label}",)) for e in own]
    return FrozenSets(tuple(items))


async def _judged(served: ServedModel, sets: FrozenSets, advance: Callable[[int], None]) -> list[Judgement]:
    limits = served.thresholds(served.served)
    whole = {Suite.ANSWERS, Suite.RECENT, Suite.LEARNT}
    texts = list(dict.fromkeys(t for item in sets.items if item.suite not in whole for t in item.texts))
    scores: dict[str, StatementScore] = {}
    for start in range(0, len(texts), _SLICE):
        part = texts[start : start + _SLICE]
        scores.update(zip(part, await served.score(part), strict=True))
        advance(len(part))
    messages = [item for item in sets.items if item.suite in whole]
    verdicts: dict[tuple[Suite, str], Verdict] = {}
    for start in range(0, len(messages), _SLICE):
        part_ = messages[start : start + _SLICE]
        rows = [{"id": m.id, "text": m.texts[0], "label": "", "spans": []} for m in part_]
        for item, outcome in zip(part_, await served.judge(rows), strict=True):
            verdicts[item.suite, item.id] = outcome.verdict
        advance(len(part_))

    def flagged(text: str) -> bool:
        return judge(scores[text], limits) is Verdict.UNSAFE

    result = []
    for item in sets.items:
        if item.suite in whole:
            hit = verdicts[item.suite, item.id] is Verdict.UNSAFE
            result.append(Judgement(float(hit), hit, hit is item.unsafe))
            continue
        hit = flagged(item.texts[-1])
        # Of a pair: the right one passes and the wrong one is flagged.
        right = hit and not flagged(item.texts[0]) if item.suite is Suite.PAIRS else hit is item.unsafe
        result.append(Judgement(scores[item.texts[-1]].p_unsafe, hit, right))
    return result


@dataclass(frozen=True)
class Compared:
    """What both made of every item."""

    sets: FrozenSets
    champion: list[Judgement]
    challenger: list[Judgement]


def asked(package: ModelPackage, question: Callable[[ServedModel], Awaitable[Answer]]) -> Answer:
    """Ask a package as it is served; its sessions last for one question."""

    async def run() -> Answer:
        served = ServedModel(package)
        try:
            return await question(served)
        finally:
            await served.close()

    return asyncio.run(run())


def load(file: Path) -> list[Judgement]:
    """Read judgements back."""
    return [Judgement(row["p"], row["flagged"], row["right"]) for row in read_json_lines(file)]


def size(sets: FrozenSets) -> int:
    """Return how many texts `judged` works through, for a progress bar."""
    whole = {Suite.ANSWERS, Suite.RECENT, Suite.LEARNT}
    texts = {t for item in sets.items if item.suite not in whole for t in item.texts}
    return len(texts) + sum(item.suite in whole for item in sets.items)


def judged(package: ModelPackage, sets: FrozenSets, file: Path, advance: Callable[[int], None]) -> list[Judgement]:
    """Return what a package makes of the sets; written to `file`, and read from there where it is of the same sets.

    The file's name has to say which package and which sets.
    """
    if file.exists() and len(known := load(file)) == len(sets.items):
        advance(size(sets))
        return known
    found = asked(package, lambda served: _judged(served, sets, advance))
    write_rows(
        file,
        (
            {"suite": i.suite, "id": i.id, "p": round(j.p, 6), "flagged": j.flagged, "right": j.right}
            for i, j in zip(sets.items, found, strict=True)
        ),
    )
    return load(file)
