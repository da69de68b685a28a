"""The stage `corpus`: folders read together, vignettes for training only, a data card of all of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from trainer.artifacts import RunFolder, read_json_lines, read_rows
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.settings import CorpusSettings
from trainer.statements import assembly
from trainer.statements.corpus import load_split
from trainer.types import Example, Split

WriteLines = Callable[[Path, list[dict]], None]


@pytest.fixture
def pack(tmp_path: Path, write_lines: WriteLines) -> Pack:
    """The shipped guideline with a corpus of twelve families on two of its recommendations."""
    shipped = Pack.load(DEFAULT_PACK)
    places = ["ward", "clinic", "hospice", "theatre", "nursery", "ambulance"]
    rows = []
    for i, place in enumerate(places):
        for name, right, wrong in (
            ("2.1-loading-dose", "200 mg", "400 mg"),
            ("2.4-infusion-time", "1 hour", "5 hours"),
        ):
            row = {"recommendation": name, "category": "dose", "label": "safe"}
            rows.append(row | {"id": f"{name}-{i}", "text": f"In the {place} they give {right} of it, as planned {i}."})
            unsafe = {"label": "unsafe", "difficulty": "hard", "parent": f"{name}-{i}"}
            rows.append(row | unsafe | {"id": f"{name}-{i}u", "text": f"At the {place} {i} {wrong} suit everyone."})
    write_lines(tmp_path / "corpus" / "llm_style_a.jsonl", rows)
    return Pack(shipped.path, shipped.spec.model_copy(update={"corpus": str(tmp_path / "corpus")}))


def run(pack: Pack, folder: RunFolder, **settings: float) -> dict:
    own = CorpusSettings(embedding_duplicates=False, **settings)
    with Progress(disable=True) as progress:
        return assembly.run(pack, extract(pack), folder, own, lambda texts: np.ones((len(texts), 2)), progress)


def test_an_id_that_the_pack_has_is_not_taken_again_nor_is_what_contradicts_it(
    tmp_path: Path, pack: Pack, write_lines: WriteLines
) -> None:
    folder = RunFolder(tmp_path / "run")
    row = {"recommendation": "2.1-loading-dose", "category": "dose", "label": "safe", "model": "m"}
    unsafe = {"label": "unsafe", "difficulty": "hard"}
    write_lines(
        folder.generated / "llm_style_z.jsonl",
        [
            row | {"id": "2.1-loading-dose-0", "text": "First comes one vial."},
            row | unsafe | {"id": "z-1u", "text": "First come nine vials.", "parent": "2.1-loading-dose-0"},
            row | {"id": "z-2", "text": "Bring two vials to begin with."},
        ],
    )
    run(pack, folder)
    reasons = {r["id"]: r["reason"] for r in read_json_lines(folder.rejected)}
    assert reasons["2.1-loading-dose-0"] == reasons["z-1u"] == "an id, or a parent's, that another statement has"
    kept = {e.id: e.style for e in read_rows(folder.statements, Example)}
    assert (kept["2.1-loading-dose-0"], kept["z-2"]) == ("a", "z")
    assert "z-1u" not in kept


def test_vignettes_are_trained_on_and_nothing_else_and_stand_on_the_card(tmp_path: Path, pack: Pack) -> None:
    folder = RunFolder(tmp_path / "run")
    said = run(pack, folder, vignettes=1.0)
    parts = load_split(folder)
    drawn = {e.id for e in parts[Split.TRAIN] if e.style == "vignette"}
    assert len(drawn) == said["vignettes"] > 4
    assert not any(e.style == "vignette" for p, rows in parts.items() if p is not Split.TRAIN for e in rows)
    card = (folder.root / "DATACARD.md").read_text()
    half = len(drawn) // 2
    assert f"| vignette | rules of the pack, with computed truth | {half} | {half} | 0 |" in card
    assert "a, vignette |" in card


def test_a_row_that_is_wrong_in_form_is_counted_on_the_card(
    tmp_path: Path, pack: Pack, write_lines: WriteLines
) -> None:
    write_lines(pack.corpus / "llm_style_b.jsonl", [{"id": "b-1", "text": "Give it.", "label": "nice"}])
    folder = RunFolder(tmp_path / "run")
    said = run(pack, folder)
    card = (folder.root / "DATACARD.md").read_text()
    assert f"In all {said['rejected']} rows were rejected" in card
    assert "unknown label 'nice'" in card
