"""Recorded completions -> statements whose form is right -> splits without leakage; `assembly` runs the stage.

The corpus folder holds what language models wrote from the guideline, one file per style. Each row is checked (known
recommendation, label, parent; a text that is really there) and rejected with the reason where it fails; a text that
occurs twice with two labels is rejected both times. Splits keep families whole: a safe statement, the unsafe variants
made from it, and every family that shares a text with them lie on one side. Two styles are held out entirely, so that
evaluation says what voices do that training never heard.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monitor.text import normalise
from trainer.artifacts import RunFolder, read_json_lines, read_rows
from trainer.errors import CorpusError
from trainer.types import Difficulty, Example, Label, Recommendation, Split

STATEMENT_FILES = "llm_style_*.jsonl"
OUT_OF_SCOPE_FILE = "out_of_scope.jsonl"
OTHER_TOPICS = "general/*.jsonl"
#: Statements taken of each other topic; all of them would outnumber the guideline's own.
_PER_TOPIC = 24
_OTHER = "general"  # their style
MESSAGE_FILES = "messages*.jsonl"


@dataclass(frozen=True)
class SplitSettings:
    """How statements are divided."""

    held_out_styles: tuple[str, ...] = ("g", "l")  # explaining and correcting; nurse and pharmacist work
    validation: float = 0.10  # share of the families of the other styles
    test: float = 0.10
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Rejected:
    """A corpus row that was not taken, and why."""

    id: str
    file: str
    reason: str
    text: str


def _problem(row: Mapping[str, Any], known: set[str]) -> str | None:
    """Return why a row cannot be used, or None."""
    if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
        return "id or text is missing or not a string"
    if not any(map(str.isalnum, row["text"])):
        return "no letters in the text"
    for name in ("label", "recommendation", "category", "difficulty", "parent"):
        if not isinstance(row.get(name), str | None):
            return f"{name} is not a string"
    label = row.get("label")
    if label not in {*Label}:
        return f"unknown label {label!r}"
    if row.get("difficulty") not in ({*Difficulty} if label == Label.UNSAFE else {None}):
        return "difficulty does not fit the label"
    if label == Label.OUT_OF_SCOPE:
        return "an out-of-scope statement names a recommendation" if row.get("recommendation") else None
    if row.get("recommendation") not in known:
        return f"unknown recommendation {row.get('recommendation')!r}"
    if not isinstance(row.get("category"), str):
        return "category is missing"
    return None


def _example(row: Mapping[str, Any], style: str) -> Example:
    return Example(
        id=row["id"],
        text=normalise(row["text"]),
        label=Label(row["label"]),
        recommendation=row.get("recommendation"),
        category=row.get("category"),
        difficulty=Difficulty(row["difficulty"]) if row.get("difficulty") else None,
        family=row.get("parent") or row["id"],
        style=style,
    )


def _other_topics(corpus: Path, rejected: list[Rejected]) -> Iterator[Example]:
    """Yield statements about other treatments and illnesses, as out of scope; a topic is a family."""
    taken: Counter[str] = Counter()
    for file in sorted(corpus.glob(OTHER_TOPICS)):
        for number, row in enumerate(read_json_lines(file), 1):
            topic, text = row.get("topic"), row.get("statement")
            identifier = f"general-{file.stem}-{number}"
            if not isinstance(topic, str) or not isinstance(text, str) or not any(map(str.isalnum, text)):
                name = file.relative_to(corpus).as_posix()
                rejected.append(Rejected(identifier, name, "topic or statement is missing or not a string", str(text)))
                continue
            # Every third row: a topic's statements come in groups of nine on one rule.
            if number % 3 or taken[topic] >= _PER_TOPIC:
                continue
            taken[topic] += 1
            yield Example(identifier, normalise(text), Label.OUT_OF_SCOPE, None, None, None, f"topic:{topic}", _OTHER)


def load(corpus: Path, recommendations: Sequence[Recommendation]) -> tuple[list[Example], list[Rejected]]:
    """Read and check every statement of a corpus folder.

    Raises:
        CorpusError: no statement files there, or a line that is not JSON.
    """
    files = sorted(corpus.glob(STATEMENT_FILES))
    if not files:
        raise CorpusError(f"{corpus}: no {STATEMENT_FILES} there: a corpus has a file of statements per style")
    known = {r.id for r in recommendations}
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for file in [*files, corpus / OUT_OF_SCOPE_FILE]:
        if not file.exists():
            continue
        style = file.stem.removeprefix("llm_style_")
        for row in read_json_lines(file):
            if reason := _problem(row, known):
                rejected.append(Rejected(str(row.get("id")), file.name, reason, str(row.get("text"))))
            else:
                examples.append(_example(row, style))
    examples += _other_topics(corpus, rejected)
    return _consistent(examples, rejected)


def _roots(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with the family of their first ancestor, so that variants of variants stay with them."""
    parent = {e.id: e.family for e in examples}

    def root(family: str) -> str:
        seen: list[str] = []
        while parent.get(family, family) != family:
            if family in seen:  # variants of each other
                return min(seen[seen.index(family) :])
            seen.append(family)
            family = parent[family]
        return family

    return [replace(e, family=root(e.family)) for e in examples]


def file_of(example: Example) -> str:
    """Return the corpus file that a statement came from, relative to the folder."""
    if example.style == _OTHER:
        return f"general/{example.id.removeprefix('general-').rpartition('-')[0]}.jsonl"
    return OUT_OF_SCOPE_FILE if example.style == "out_of_scope" else f"llm_style_{example.style}.jsonl"


def _consistent(examples: list[Example], rejected: list[Rejected]) -> tuple[list[Example], list[Rejected]]:
    """Reject ids that repeat, texts that have two labels, and variants whose parent is not there or was rejected."""
    labels = defaultdict(set)
    for example in examples:
        labels[example.text.lower()].add(example.label)
    kept: dict[str, Example] = {}
    seen: set[str] = set()
    for example in examples:
        reason = None
        if example.id in seen:
            reason = "id occurs twice"
        elif len(labels[example.text.lower()]) > 1:
            reason = "the same text has two labels"
        seen.add(example.id)
        if reason:
            rejected.append(Rejected(example.id, file_of(example), reason, example.text))
        else:
            kept[example.id] = example
    while orphans := [e for e in kept.values() if e.family not in kept and e.style != _OTHER]:
        for example in orphans:
            reason = f"parent {example.family} is not there"
            rejected.append(Rejected(example.id, file_of(example), reason, example.text))
            del kept[example.id]
    return _roots(list(kept.values())), rejected


def groups(examples: Iterable[Example]) -> dict[str, str]:
    """Return, for each family, the group it is split with: families that share a text belong together (union-find)."""
    parent: dict[str, str] = {}

    def find(family: str) -> str:
        while parent[family] != family:
            parent[family] = parent[parent[family]]
            family = parent[family]
        return family

    by_text: dict[str, str] = {}
    for example in examples:
        parent.setdefault(example.family, example.family)
        first = by_text.setdefault(example.text.lower(), example.family)
        parent[find(example.family)] = find(first)
    return {family: find(family) for family in parent}


def split(examples: Sequence[Example], settings: SplitSettings) -> dict[Split, list[str]]:
    """Return the ids of each split. Deterministic; a group never spans two splits."""
    group_of = groups(examples)
    styles: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        styles[group_of[example.family]].add(example.style)
    held_out = set(settings.held_out_styles)
    side: dict[str, Split | None] = {}
    seen_voices = sorted(group for group, names in styles.items() if not names & held_out)
    random.Random(settings.seed).shuffle(seen_voices)
    n_validation = round(settings.validation * len(seen_voices))
    n_test = round(settings.test * len(seen_voices))
    for i, group in enumerate(seen_voices):
        side[group] = (
            Split.VALIDATION if i < n_validation else Split.TEST_ID if i < n_validation + n_test else Split.TRAIN
        )
    for group, names in styles.items():
        if names & held_out:
            # A text that a held-out and a heard voice share is evidence of neither; it goes nowhere.
            side[group] = Split.TEST_OOD if names <= held_out else None
    result: dict[Split, list[str]] = {part: [] for part in Split}
    for example in examples:
        part = side[group_of[example.family]]
        if part is not None:
            result[part].append(example.id)
    return result


def load_answers(corpus: Path) -> list[dict[str, Any]]:
    """Return the whole answers of a corpus folder with their labels and spans; none where it has no such files."""
    return [row for file in sorted(corpus.glob(MESSAGE_FILES)) for row in read_json_lines(file)]


def span_agreement(flags: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many marked spans of one answer overlap a flag, and how many flags overlap a span."""

    def touched(these: Sequence[tuple[int, int]], those: Sequence[tuple[int, int]]) -> int:
        return sum(any(a < end and start < b for start, end in those) for a, b in these)

    return touched(spans, flags), touched(flags, spans)


def load_split(folder: RunFolder) -> dict[Split, list[Example]]:
    """Read the statements of a run by split."""
    by_id = {example.id: example for example in read_rows(folder.statements, Example)}
    ids = json.loads(folder.splits.read_text())
    return {part: [by_id[i] for i in ids[part]] for part in Split}
