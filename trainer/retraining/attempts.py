"""The retrainings of a run, numbered, and how each ended.

An attempt that has no `outcome.json` was killed: the next call goes on with it, with the decisions that it had. One
whose champion is no longer in use is closed as superseded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from monitor.package import ModelPackage
from trainer.artifacts import write_json
from trainer.retraining import decisions
from trainer.retraining.decisions import Part

_ATTEMPT, _OUTCOME, _EXPORT = "attempt.json", "outcome.json", "export.jsonl"


class Ended(StrEnum):
    """How an attempt ended."""

    PROMOTED = "promoted"
    PASSED = "passed"  # the gate; promotion was not asked for
    REFUSED = "refused"  # by the gate
    DISAGREED = "disagreed"  # in the shadow
    SUPERSEDED = "superseded"  # another champion took over while it was at work, or something else was asked for
    UNUSABLE = "unusable"  # no decision was left to learn from


@dataclass(frozen=True)
class Attempt:
    """One retraining's folder."""

    root: Path

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How it ended; None where it has not."""
        file = self.root / _OUTCOME
        return json.loads(file.read_text()) if file.exists() else None

    @property
    def champion(self) -> str:
        """Name and version of the champion that it is held against."""
        return str(json.loads((self.root / _ATTEMPT).read_text())["champion"])

    @property
    def given(self) -> dict[str, str | None]:
        """What it was begun with besides decisions: a candidate, a new version of the guideline."""
        return dict(json.loads((self.root / _ATTEMPT).read_text())["given"])

    def end(self, how: Ended, **facts: Any) -> None:
        """Note how it ended; the copy of the champion's weights is not needed any more."""
        shutil.rmtree(self.root / "start", ignore_errors=True)
        write_json(self.root / _OUTCOME, {"outcome": how, "at": datetime.now(UTC).isoformat(), **facts})

    def parts(self) -> dict[str, Part]:
        """Return the part that each of its decisions served, by id."""
        file = self.root / "decisions.jsonl"
        return {s.id: s.part for s in decisions.load(file)} if file.exists() else {}


def model_name(package: ModelPackage) -> str:
    """Return name and version of a package in one word."""
    return f"{package.reference.name}@{package.reference.version}"


class Attempts:
    """All attempts of a run folder."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "retraining"

    def __iter__(self) -> Iterator[Attempt]:
        return (Attempt(file.parent) for file in sorted(self._folder.glob(f"[0-9]*/{_ATTEMPT}")))

    def unfinished(self) -> Attempt | None:
        """Return the last attempt, where it was not ended."""
        last = next(reversed(list(self)), None)
        return last if last is not None and last.outcome is None else None

    def before(self, attempt: Attempt) -> dict[str, Part]:
        """Return what decisions served in the attempts before one, the latest word counting; left-out ones are new."""
        found: dict[str, Part] = {}
        for earlier in self:
            if earlier.root.name < attempt.root.name:
                found |= {name: part for name, part in earlier.parts().items() if part is not Part.LEFT_OUT}
        return found

    def known(self) -> set[str]:
        """Return the ids of all decisions that an attempt which came to its end has taken account of."""
        ended = (a for a in self if a.outcome is not None and a.outcome["outcome"] != Ended.SUPERSEDED)
        return {name for a in ended for name in a.parts()}

    def begin(self, champion: ModelPackage, profile: str, export: Path, given: Mapping[str, str | None]) -> Attempt:
        """Open a new attempt with these decisions, and what else it is given."""
        numbers = [int(a.root.name) for a in self]
        root = self._folder / f"{max(numbers, default=0) + 1:04d}"
        # What a process left that was killed before the attempt was noted is nobody's.
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        export.replace(root / _EXPORT)
        write_json(
            root / _ATTEMPT,
            {
                "champion": model_name(champion),
                "profile": profile,
                "given": dict(given),
                "begun": datetime.now(UTC).isoformat(),
            },
        )
        return Attempt(root)
