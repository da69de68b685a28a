"""The nouns of the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Label(StrEnum):
    """What a statement of the corpus is, by construction."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    OUT_OF_SCOPE = "out_of_scope"


class Difficulty(StrEnum):
    """How far an unsafe statement lies from its safe parent: hard ones differ in one number, qualifier or negation."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


class Split(StrEnum):
    """Which part of the work a statement serves; a family never spans two."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST_ID = "test_id"
    TEST_OOD = "test_ood"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a recommendation with its unit, as `trainer.guideline.quantities` reads them.

    `days`, `hours`, `years` are durations and ages, `day` counts ("day 1"), `per day` is a frequency, `year` a date;
    the unit is empty where the number counts things.
    """

    value: float
    unit: str
    text: str  # as written, "3.5 kg"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One atomic rule of a guideline, and where its document says so.

    `quote` is `text[start:end]` of the document as `trainer.guideline.documents` reads it. What a guideline does not
    state is None: page (from 1; PDF only), strength, grade of evidence, population, action, validity (ISO dates).
    """

    id: str
    section: str
    heading: str
    text: str
    source: str
    version: str
    quote: str
    start: int
    end: int
    page: int | None = None
    strength: str | None = None
    grade: str | None = None
    population: str | None = None
    action: str | None = None
    numbers: tuple[Quantity, ...] = ()
    valid_from: str | None = None
    valid_to: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a guideline document that retrieval can return: `text` is `document[start:end]`."""

    id: str
    source: str
    version: str
    section: str
    heading: str
    text: str
    start: int
    end: int
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled statement. `family` is shared by a safe statement and the unsafe variants made from it."""

    id: str
    text: str
    label: Label
    recommendation: str | None
    category: str | None
    difficulty: Difficulty | None
    family: str
    style: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of `metrics.json`; `low` and `high` bound the 95% bootstrap interval over families."""

    suite: str
    model: str
    split: str
    stratum: str
    metric: str
    value: float
    low: float
    high: float
    n: int
