"""Pairs of a recommendation (premise) and a statement (hypothesis): what a verifier is trained and tested on.

The relation is that of natural-language inference (Bowman et al., EMNLP 2015, arXiv:1508.05326) with the names of the
corpora: *consistent* (agrees with the recommendation or applies it rightly), *contradicts*, *neutral* (is about
something else). A *twin* is a consistent and a contradicting statement that differ in one small edit.
"""

from __future__ import annotations

import gzip
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from monitor.text import normalise
from trainer.artifacts import read_json_lines
from trainer.errors import CorpusError


class Relation(StrEnum):
    """What a statement is to a recommendation; the order is that of the verifier's outputs."""

    CONSISTENT = "consistent"
    CONTRADICTS = "contradicts"
    NEUTRAL = "neutral"


RELATIONS = tuple(Relation)


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair. Pairs of one `group` (a topic, a guideline) lie on one side of every split; those of one `twin` differ
    in one edit of the statement, or are None's.
    """

    premise: str
    hypothesis: str
    relation: Relation
    group: str
    source: str
    twin: str | None = None
    difficulty: str | None = None


def _relation(row: dict[str, Any], where: str) -> Relation:
    try:
        return Relation(row["label"])
    except (KeyError, ValueError) as error:
        raise CorpusError(f"{where}: label {row.get('label')!r} is none of {', '.join(RELATIONS)}") from error


def read_topics(folder: Path, source: str) -> list[Pair]:
    """Read LLM-written pairs: `{topic, recommendation, statement, label, edits?, difficulty? or distance?}` a line.

    Raises:
        CorpusError: a row lacks a field, or the folder holds no rows.
    """
    pairs = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, row in enumerate(read_json_lines(file), 1):
            where = f"{file}:{number}"
            if not all(isinstance(row.get(name), str) for name in ("topic", "recommendation", "statement")):
                raise CorpusError(f"{where}: topic, recommendation and statement must be texts")
            premise, hypothesis = normalise(row["recommendation"]), normalise(row["statement"])
            # The consistent statement names the twin, whichever of the two a row holds.
            edited = row.get("edits") or (row["statement"] if row["label"] == Relation.CONSISTENT else None)
            pairs.append(
                Pair(
                    premise,
                    hypothesis,
                    _relation(row, where),
                    group=f"{source}:{row['topic']}",
                    source=source,
                    twin=f"{premise}|{normalise(edited)}" if edited else None,
                    difficulty=row.get("distance") or row.get("difficulty"),
                )
            )
    if not pairs:
        raise CorpusError(f"{folder}: no pairs there")
    return _with_twins(pairs)


def _with_twins(pairs: Sequence[Pair]) -> list[Pair]:
    """Forget twins whose other half is not there."""
    sides: dict[str, set[Relation]] = defaultdict(set)
    for pair in pairs:
        if pair.twin:
            sides[pair.twin].add(pair.relation)
    return [
        pair
        if pair.twin is None or len(sides[pair.twin]) > 1
        else Pair(pair.premise, pair.hypothesis, pair.relation, pair.group, pair.source, None, pair.difficulty)
        for pair in pairs
    ]


def read_evidence(file: Path) -> list[Pair]:
    """Read evidence pairs such as VitaminC's: `{premise, hypothesis, label, group}` a line, gzip or plain.

    Schuster, Fisch, Barzilay, "Get Your Vitamin C! Robust Fact Verification with Contrastive Evidence", NAACL 2021
    (arXiv:2103.08541); its data are CC BY-SA and are not part of this project.

    Raises:
        CorpusError: a line is not such a row.
    """
    pairs = []
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}:{number}"
            try:
                row = orjson.loads(line)
                premise, hypothesis = normalise(row["premise"]), normalise(row["hypothesis"])
                relation, group = _relation(row, where), str(row["group"])
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise CorpusError(
                    f"{where}: not an evidence pair (premise, hypothesis, label, group): {error}"
                ) from error
            pairs.append(Pair(premise, hypothesis, relation, f"evidence:{group}", "evidence"))
    return pairs


def held_out(pairs: Iterable[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return (rest, held out): whole groups, about `share` of those of each source."""
    pairs = list(pairs)
    groups: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        groups[pair.source].add(pair.group)
    chosen: set[str] = set()
    for source in sorted(groups):
        names = sorted(groups[source])
        random.Random(f"{seed}-{source}").shuffle(names)
        chosen |= set(names[: round(share * len(names))])
    return [p for p in pairs if p.group not in chosen], [p for p in pairs if p.group in chosen]


def between_twins(pairs: Sequence[Pair]) -> list[Pair]:
    """Return pairs that compare the two statements of each twin with each other: nearly equal texts, exact truth.

    A statement contradicts its twin and agrees with itself. What a small model learns first is to compare words across
    two texts; these are for that.
    """
    sides: dict[str, dict[Relation, Pair]] = defaultdict(dict)
    for pair in pairs:
        if pair.twin:
            sides[pair.twin][pair.relation] = pair
    result = []
    for name, own in sides.items():
        if not {Relation.CONSISTENT, Relation.CONTRADICTS} <= own.keys():
            continue
        right, wrong = own[Relation.CONSISTENT], own[Relation.CONTRADICTS]
        for premise, other in ((right, wrong), (wrong, right)):
            twin = f"between:{premise.hypothesis}|{name}"
            for hypothesis, relation in ((premise, Relation.CONSISTENT), (other, Relation.CONTRADICTS)):
                result.append(
                    Pair(premise.hypothesis, hypothesis.hypothesis, relation, premise.group, "between twins", twin)
                )
    return result
