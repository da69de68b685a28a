"""Reviewers' labels: a blind sample out, their file in, agreement, and the figures on what they confirmed.

The corpus is labelled by construction. A clinician who reads a sample without seeing those labels says how far they can
be trusted. The file that goes out and comes back is CSV (or JSON lines) with these fields:

    statement       key of the statement in the sample, or its id in the corpus; may be left out where `text` is given
    text            the statement
    recommendation  what the guideline says (for the reader; ignored when read back)
    reviewer        who judged
    label           safe, unsafe, out_of_scope; empty where not judged yet
    note            free text

The key is a digest of the text: ids of the corpus number a safe statement and its unsafe variant in a row, which would
give the label away. For the same reason a sample has at most one statement of a family, and its order is shuffled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from monitor.text import normalise
from trainer.artifacts import RunFolder, write_text
from trainer.errors import CorpusError
from trainer.evaluation.measures import Judged, draws, estimate, kappa, score_rows, share
from trainer.settings import EvaluationSettings
from trainer.types import Example, Label, Metric, Recommendation

FIELDS = ("statement", "text", "recommendation", "reviewer", "label", "note")
#: Name that stands for the label by construction among the raters.
CORPUS = "corpus"
#: Problems of a file that are spelled out; the rest is counted.
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Review:
    """One reviewer's label of one statement of the corpus."""

    example: Example
    reviewer: str
    label: Label
    note: str = ""


@dataclass(frozen=True)
class Reviews:
    """A file of reviews that was read; `unjudged` rows had no label yet."""

    given: list[Review]
    unjudged: int

    def by_statement(self) -> dict[str, list[Review]]:
        """Return the reviews of each statement, by its id."""
        result: dict[str, list[Review]] = defaultdict(list)
        for review in self.given:
            result[review.example.id].append(review)
        return dict(result)

    def confirmed(self) -> set[str]:
        """Return the ids of statements to which every reviewer who judged them gave the corpus' label."""
        return {i for i, own in self.by_statement().items() if all(r.label is r.example.label for r in own)}


def key(text: str) -> str:
    """Return what stands for a statement in a blind sample: 12 hex digits of the SHA-256 of its normalised text."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:12]


def file_of(folder: RunFolder) -> Path | None:
    """Return the file of reviews that a run has, if any: `reviews.csv` or `reviews.jsonl` beside its statements."""
    return next((f for name in ("reviews.csv", "reviews.jsonl") if (f := folder.root / name).is_file()), None)


def _csv_lines(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    header = content.partition("\n")[0]
    # Spreadsheets write semicolons or tabs where the comma is a decimal mark.
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    names = {name.strip().lower() for name in reader.fieldnames or () if name}
    if missing := {"reviewer", "label"} - names:
        raise CorpusError(f"{path}:1: no column {', '.join(sorted(missing))}: the columns are {', '.join(FIELDS)}")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(f"{path}:{reader.line_num}: not CSV: {error}") from error
        line = reader.line_num - sum(v.count("\n") for v in row.values() if isinstance(v, str))
        if None in row:
            raise CorpusError(f"{path}:{line}: more cells than columns: quote cells that hold {delimiter!r}")
        yield line, {name.strip().lower(): value for name, value in row.items()}


def _json_lines(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):  # U+2028 may stand in a text
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise CorpusError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}:{number}: expected a JSON object")
        yield number, row


class _Finder:
    """Finds the statement that a row means, by id, key or text."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._by_id = {e.id: e for e in examples}
        self._by_key = {key(e.text): e for e in examples}

    def find(self, name: str, text: str) -> Example | None:
        if name:
            return self._by_id.get(name) or self._by_key.get(name)
        # An apostrophe in front is what `export` adds before a bullet.
        return self._by_key.get(key(text)) or self._by_key.get(key(text.removeprefix("'"))) if text else None


def _field(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is not a string")
    return (value or "").strip()


def _review(row: dict[str, Any], finder: _Finder) -> Review | None:
    """Return the review of a row, None where it is not judged yet.

    Raises:
        TypeError: a field is not a string.
        ValueError: a field is missing or wrong; the message says which.
    """
    name, text, reviewer, label = (_field(row, f) for f in ("statement", "text", "reviewer", "label"))
    example = finder.find(name, text)
    if example is None:
        what = f"statement {name!r}" if name else f"text {text[:60]!r}" if text else "neither statement nor text"
        raise ValueError(f"{what} is not in the corpus of this run" if name or text else what)
    if not label:
        return None
    label = label.lower().replace(" ", "_").replace("-", "_")
    if label not in {*Label}:
        raise ValueError(f"unknown label {label!r}: one of {', '.join(Label)}, or empty")
    if not reviewer:
        raise ValueError("reviewer is missing")
    if reviewer.lower() == CORPUS:
        raise ValueError(f"a reviewer cannot be called {CORPUS!r}: that is the label by construction")
    return Review(example, reviewer, Label(label), _field(row, "note"))


def load(path: Path, examples: Sequence[Example]) -> Reviews:
    """Read a file of reviews: JSON lines where it ends on `.jsonl`, else CSV (comma, semicolon or tab; UTF-8).

    Args:
        path: the file.
        examples: all statements of the run.

    Raises:
        CorpusError: it cannot be read, or rows are not usable; the message names each line (the first ten) and why.
            Nothing is taken from such a file.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    rows = _json_lines(path, content) if path.suffix == ".jsonl" else _csv_lines(path, content)
    finder = _Finder(examples)
    given: list[Review] = []
    first: dict[tuple[str, str], int] = {}
    problems: list[str] = []
    unjudged = 0
    for line, row in rows:
        try:
            review = _review(row, finder)
        except (TypeError, ValueError) as error:
            problems.append(f"line {line}: {error}")
            continue
        if review is None:
            unjudged += 1
            continue
        before = first.setdefault((review.example.id, review.reviewer), line)
        if before != line:
            problems.append(f"line {line}: {review.reviewer} judged this statement on line {before} already")
        given.append(review)
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise CorpusError("\n  ".join([f"{path}: not usable, mend these lines:", *problems[:_SHOWN], *more]))
    if not given:
        raise CorpusError(f"{path}: no row has a label: fill in the column `label` ({', '.join(Label)})")
    return Reviews(given, unjudged)


def agreement_rows(reviews: Reviews, settings: EvaluationSettings) -> list[Metric]:
    """Return agreement of every two reviewers, and of each with the corpus: share and Cohen's kappa.

    `Metric.model` names the pair, `n` the statements that both judged. Kappa is left out where both gave all of them
    one and the same label: it is not defined then.
    """
    labels: dict[str, dict[str, Label]] = defaultdict(dict)
    families: dict[str, str] = {}
    for review in reviews.given:
        labels[review.reviewer][review.example.id] = review.label
        labels[CORPUS][review.example.id] = review.example.label
        families[review.example.id] = review.example.family
    raters = sorted(labels.keys() - {CORPUS})
    rows: list[Metric] = []
    for a, b in [*((name, CORPUS) for name in raters), *itertools.combinations(raters, 2)]:
        both = sorted(labels[a].keys() & labels[b].keys())
        if not both:
            continue
        first, second = [labels[a][i] for i in both], [labels[b][i] for i in both]
        counts = draws([families[i] for i in both], settings)
        same = np.array([x is y for x, y in zip(first, second, strict=True)], dtype=bool)
        for metric, values in (("agreement", share(same, counts)), ("Cohen's kappa", kappa(first, second, counts))):
            if found := estimate(values):
                rows.append(
                    Metric("reviews", f"{a}, {b}", "all", "all", metric, found.value, found.low, found.high, len(both))
                )
    return rows


def rows(reviews: Reviews, judged: Sequence[Judged], settings: EvaluationSettings) -> list[Metric]:
    """Return the suites `reviews` (agreement) and `reviewed` (metrics on the confirmed statements of the test splits).

    A split of whose statements none, or only those of one label, were confirmed has no `reviewed` rows.
    """
    confirmed = reviews.confirmed()
    result = agreement_rows(reviews, settings)
    for split in sorted({j.split for j in judged}):
        own = [j for j in judged if j.split is split and j.example.id in confirmed]
        for model in own[0].p if own else ():
            p = np.array([j.p[model] for j in own], dtype=np.float64)
            result += score_rows(
                [j.example for j in own], p, model=model, split=split, settings=settings, suite="reviewed", fine=False
            )
    return result


def sample(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """Return up to n statements on the guideline for review, stratified by recommendation and label, shuffled.

    At most one of a family, so that nobody sees a statement beside its twin. Every stratum gives one before any gives
    two. Statements out of scope are left out: without a recommendation beside them they would not be blind.
    """
    rng = random.Random(seed)
    pools: dict[tuple[str, Label], list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: e.id):
        if example.recommendation is not None:
            pools[example.recommendation, example.label].append(example)
    for pool in pools.values():
        rng.shuffle(pool)
    taken: list[Example] = []
    used: set[str] = set()
    queue = sorted(pools)
    rng.shuffle(queue)
    while queue and len(taken) < n:
        again = []
        for stratum in queue:
            pool = pools[stratum]
            while pool and pool[-1].family in used:
                pool.pop()
            if pool and len(taken) < n:
                taken.append(pool.pop())
                used.add(taken[-1].family)
                again.append(stratum)
        queue = again
    rng.shuffle(taken)
    return taken


def export(examples: Sequence[Example], recommendations: Sequence[Recommendation], path: Path) -> None:
    """Write a sample as CSV for reviewers: text and recommendation, label empty. UTF-8 with a mark, as Excel wants it.

    A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, as a bullet does. Such cells get an
    apostrophe in front; rows are found again by `statement`.
    """
    texts = {r.id: r.text for r in recommendations}
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, FIELDS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for example in examples:
        rule = texts.get(example.recommendation or "", "")
        writer.writerow(
            dict.fromkeys(FIELDS, "")
            | {"statement": key(example.text), "text": _cell(example.text), "recommendation": _cell(rule)}
        )
    write_text(path, "\ufeff" + buffer.getvalue())


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
