"""Hand-written minimal pairs: for each recommendation a right statement and its smallest wrong edit, and the reverse.

`start` says which of the two was written first; the other is the smallest edit of it. They were written for this test
and are nobody's training data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("minimal_pairs.jsonl")


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two statements on one recommendation that differ in as little as makes one of them wrong."""

    recommendation: str
    start: str  # right or wrong
    right: str
    wrong: str


def load_pairs(path: Path = _FILE) -> list[MinimalPair]:
    """Read the pairs."""
    return [MinimalPair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def both_right(pairs: list[MinimalPair], flagged: dict[str, bool], start: str) -> list[str]:
    """Return recommendations of which a pair with this start has its wrong statement flagged and its right one not."""
    return sorted({p.recommendation for p in pairs if p.start == start and flagged[p.wrong] and not flagged[p.right]})
