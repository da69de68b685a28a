"""A changed guideline: which statements stay to the byte, which go, which are written again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.progress import Progress

from tests.trainer.test_generation import Fake
from trainer.artifacts import RunFolder
from trainer.errors import CorpusError
from trainer.guideline.guidelines import Pack
from trainer.llm.port import Request, Status
from trainer.retraining import guideline
from trainer.retraining.corpus import Base
from trainer.retraining.guideline import Revised
from trainer.statements.corpus import load_split
from trainer.statements.generation import GenerationSettings, SafeStatements
from trainer.types import Label, Split

WHO = ["nurses", "sailors", "bakers", "farmers", "smiths", "tailors", "weavers", "millers"]
SMALL = GenerationSettings(
    safe_per_recommendation_and_style=8, unsafe_easy=0, unsafe_medium=0, unsafe_hard=8, styles=("a", "b")
)


def answer(request: Request) -> dict[str, Any]:
    """Write about 40 mg in the voice that is asked for, and of unsafe ones 20 mg."""
    safe = request.response is SafeStatements
    voice = "Kindly note that" if "1-dose" not in request.user and len(request.user) % 2 else "We were told that"
    mg = 40 if safe else 20
    rows = [
        {"category": "dose", "text": f"{voice} for {who} the dose of zolamide is {mg} mg once daily."} for who in WHO
    ]
    if not safe:
        rows = [row | {"original": n, "change": "40 mg -> 20 mg"} for n, row in enumerate(rows, 1)]
    return {"statements": rows}


@pytest.fixture
def new_pack(tmp_path: Path, make_pack: Callable[[Path], Path]) -> Pack:
    """The toy guideline with another dose, without its sentence on pregnancy, and one sentence more."""
    path = make_pack(tmp_path / "new")
    document = path.with_name("guideline.md")
    text = document.read_text().replace("20 mg once daily", "40 mg once daily")
    document.write_text(text[: text.index("## 3.")])
    rows = [json.loads(line) for line in path.with_name("recommendations.jsonl").read_text().splitlines()]
    rows = [row | {"text": row["text"].replace("20 mg", "40 mg")} for row in rows if row["id"] != "3-pregnancy"]
    path.with_name("recommendations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Pack.load(path)


def revise(toy: SimpleNamespace, pack: Pack, root: Path, own: Fake) -> Revised:
    base = Base(toy.folder, toy.pack, True)
    with Progress(disable=True) as progress:
        return guideline.revise(base, pack, root, own, SMALL, progress, toy.settings.corpus)


def lines(folder: RunFolder) -> dict[str, str]:
    return {json.loads(line)["id"]: line for line in folder.statements.read_text().splitlines()}


def test_only_what_changed_is_written_again(toy_run: SimpleNamespace, new_pack: Pack, tmp_path: Path) -> None:
    asked: list[Request] = []

    def noted(request: Request) -> dict[str, Any]:
        asked.append(request)
        return answer(request)

    done = revise(toy_run, new_pack, tmp_path / "revised", Fake(noted))
    counts = done.counts
    assert (counts["unchanged recommendations"], counts["changed"], counts["withdrawn"]) == (1, 1, 1)
    assert asked
    assert all("40 mg" in request.user for request in asked)
    before, after = lines(toy_run.folder), lines(done.base.folder)
    kept = before.keys() & after.keys()
    # To the byte, and just those on the recommendation that stayed or on none.
    assert all(before[i] == after[i] for i in kept)
    assert {json.loads(before[i])["recommendation"] for i in kept} == {"2-duration", None}
    assert {json.loads(before[i])["recommendation"] for i in before.keys() - kept} == {"1-dose", "3-pregnancy"}
    assert counts["dropped"] == len(before) - len(kept)
    # On the side that they were on.
    old, new = load_split(toy_run.folder), load_split(done.base.folder)
    for part in Split:
        assert [e for e in old[part] if e.id in kept] == [e for e in new[part] if e.id in kept]
    written = [e for own in new.values() for e in own if e.id not in before]
    assert len(written) == counts["written"] + counts["outdated"]
    assert {e.recommendation for e in written} == {"1-dose"}
    assert {e.label for e in written} == {Label.SAFE, Label.UNSAFE}
    # What used to be true is unsafe now, and is learnt from only.
    stale = [e for e in written if e.id.startswith("stale-")]
    assert counts["outdated"] == len(stale) > 0
    assert {e.label for e in stale} == {Label.UNSAFE}
    assert {e.id for e in stale} <= {e.id for e in new[Split.TRAIN]}


def test_it_is_not_written_twice(toy_run: SimpleNamespace, new_pack: Pack, tmp_path: Path) -> None:
    first = revise(toy_run, new_pack, tmp_path / "revised", Fake(answer))
    content = first.base.folder.statements.read_bytes()

    def never(request: Request) -> Status:
        raise AssertionError("asked again")

    again = revise(toy_run, new_pack, tmp_path / "revised", Fake(never))
    assert again.counts == first.counts
    assert again.base.folder.statements.read_bytes() == content


def test_without_answers_it_says_who_is_to_give_them(toy_run: SimpleNamespace, new_pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="--provider"):
        revise(toy_run, new_pack, tmp_path / "revised", Fake(lambda _: Status.FAILED))


def test_the_same_guideline_changes_nothing(toy_run: SimpleNamespace, tmp_path: Path) -> None:
    done = revise(toy_run, toy_run.pack, tmp_path / "revised", Fake(lambda _: Status.FAILED))
    assert done.base.folder.statements.read_bytes() == toy_run.folder.statements.read_bytes()
    assert (done.counts["dropped"], done.counts["written"]) == (0, 0)
