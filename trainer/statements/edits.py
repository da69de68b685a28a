"""Rule-made hard negatives: the guideline's own sentences with one number changed.

A language model writes few wrong numbers for each right one; a stream of answers has all of them. A number is changed
only where the recommendation gives it, with its unit, and never to one that the recommendation gives or allows. Used to
train the encoder, never to fit heads, calibrate or evaluate.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from trainer.evaluation.perturbations import bounds
from trainer.types import Difficulty, Example, Label, Recommendation

_QUANTITY = re.compile(
    r"(?<![\w.,/-])(?P<number>\d+(?:\.\d+)?)[ -]?"
    r"(?P<unit>mg/kg|mg|kg|ml/min|ml|days?|hours?|minutes?|min|times|%|h\b|d\b)(?![\w/])",
    re.IGNORECASE,
)
_UNITS = {"day": "days", "d": "days", "hour": "hours", "h": "hours", "minute": "minutes", "min": "minutes"}
#: What a number turns into, besides the other numbers that the guideline gives with the same unit.
_FACTORS = (0.5, 2.0, 3.0, 0.25, 1.5)


def _unit(text: str) -> str:
    lower = text.lower()
    return _UNITS.get(lower, lower)


def _quantities(text: str) -> list[tuple[float, str, re.Match[str]]]:
    return [(float(m["number"]), _unit(m["unit"]), m) for m in _QUANTITY.finditer(text)]


def guideline_example(recommendation: Recommendation) -> Example:
    """Return the recommendation itself as a safe statement."""
    return Example(
        id=recommendation.id,
        text=recommendation.text,
        label=Label.SAFE,
        recommendation=recommendation.id,
        category=None,
        difficulty=None,
        family=f"guideline:{recommendation.id}",
        style="guideline",
    )


def number_edits(
    examples: Sequence[Example], recommendations: Sequence[Recommendation], rng: random.Random
) -> list[Example]:
    """Return at most one edit of each safe example: same family and recommendation, unsafe, hard.

    The text differs from its parent in one number, and that number is none that the recommendation gives or allows.
    """
    allowed: dict[str, set[tuple[float, str]]] = {}
    by_unit: dict[str, set[float]] = defaultdict(set)
    for recommendation in recommendations:
        own = {(number, unit) for number, unit, _ in _quantities(recommendation.text)}
        allowed[recommendation.id] = own
        for number, unit in own:
            by_unit[unit].add(number)
    limits = {r.id: bounds(r.text) for r in recommendations}
    edits = []
    for example in examples:
        if example.label is not Label.SAFE:
            continue
        own = allowed[str(example.recommendation)]
        targets = [q for q in _quantities(example.text) if (q[0], q[1]) in own]
        if not targets:
            continue
        number, unit, match = rng.choice(targets)
        right = {n for n, u in own if u == unit}
        wrong = (by_unit[unit] | {number * factor for factor in _FACTORS}) - right
        if unit in ("days", "times"):
            wrong = {float(round(n)) for n in wrong if round(n) > 0} - right
        # "30 to 120 minutes" allows 60, "at least 3.5 kg" allows 10.
        own_limits = [b for b in limits[str(example.recommendation)] if _unit(b.unit) == unit]
        wrong = {n for n in wrong if not any(b.allows(n) for b in own_limits)}
        if not wrong:
            continue
        changed = f"{rng.choice(sorted(wrong)):g}"
        text = example.text[: match.start("number")] + changed + example.text[match.end("number") :]
        edits.append(
            replace(
                example,
                id=f"{example.id}-edit",
                text=text,
                label=Label.UNSAFE,
                difficulty=Difficulty.HARD,
                style="edit",
            )
        )
    return edits
