"""The run folder: files that appear whole, rows that come back equal, stamps that notice every change."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.artifacts import (
    RunFolder,
    digest,
    fingerprint,
    fresh_folder,
    read_json_lines,
    read_rows,
    write_json,
    write_rows,
)
from trainer.errors import CorpusError
from trainer.types import Difficulty, Example, Label, Recommendation

SAFE = Example("a-1", "200 mg, für “alle”", Label.SAFE, "r1", "dose", None, "a-1", "a")
UNSAFE = Example("a-2", "400 mg", Label.UNSAFE, "r1", "dose", Difficulty.HARD, "a-1", "a")
OUTSIDE = Example("n-1", "Rain.", Label.OUT_OF_SCOPE, None, None, None, "n-1", "out_of_scope")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    assert write_rows(path, [SAFE, UNSAFE, OUTSIDE]) == 3
    back = read_rows(path, Example)
    assert back == [SAFE, UNSAFE, OUTSIDE]
    assert back[1].difficulty is Difficulty.HARD
    assert back[0].label is Label.SAFE
    assert back[0].difficulty is None


def test_rows_may_be_dictionaries_and_have_fields_that_nobody_knows(tmp_path: Path) -> None:
    row = {"id": "r", "section": "1", "heading": "h", "text": "t", "source": "s", "version": "v", "quote": "q"}
    write_rows(tmp_path / "r.jsonl", [row | {"start": 0, "end": 1, "reviewer": "B"}])
    assert read_rows(tmp_path / "r.jsonl", Recommendation) == [Recommendation("r", "1", "h", "t", "s", "v", "q", 0, 1)]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    rows, value = tmp_path / "rows.jsonl", tmp_path / "value.json"
    write_rows(rows, [SAFE])
    write_json(value, {"old": 1})

    def breaks():
        yield UNSAFE
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError):
        write_rows(rows, breaks())
    with pytest.raises(TypeError):
        write_json(value, {("a", "tuple"): 1})
    assert read_rows(rows, Example) == [SAFE]
    assert json.loads(value.read_text()) == {"old": 1}


@pytest.mark.parametrize(
    ("line", "says"), [("{broken", "not JSON"), ("[1]", "expected a JSON object"), ("", "not JSON")]
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": 1}}\n{line}\n')
    with pytest.raises(CorpusError, match=says) as caught:
        list(read_json_lines(path))
    assert f"{path}:2:" in str(caught.value)


@pytest.mark.parametrize("row", [{"id": "a-1"}, {"label": "neither"}])
def test_a_row_that_is_none_of_its_kind_is_named(tmp_path: Path, row: dict[str, str]) -> None:
    write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(CorpusError, match=r"rows\.jsonl:1: not a row of Example"):
        read_rows(tmp_path / "rows.jsonl", Example)


def test_digest_sees_content_name_place_and_absence(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    before = digest(folder)
    assert digest(folder) == before
    seen = {before, digest(tmp_path / "nothing")}
    (folder / "a").write_text("3")
    seen.add(digest(folder))
    (folder / "a").write_text("1")
    assert digest(folder) == before
    (folder / "a").rename(folder / "c")
    seen.add(digest(folder))
    (folder / "c").rename(folder / "sub" / "a")
    seen.add(digest(folder))
    (folder / "sub" / "a").unlink()
    seen.add(digest(folder))
    assert len(seen) == 6


def test_fingerprint_counts_dataclasses_by_their_fields() -> None:
    @dataclass(frozen=True)
    class Settings:
        rate: float = 0.1

    assert fingerprint("encoder", Settings()) == fingerprint("encoder", Settings(0.1))
    assert fingerprint("encoder", Settings()) != fingerprint("encoder", Settings(0.2))
    assert fingerprint("encoder", Settings()) != fingerprint("corpus", Settings())


def test_a_stage_is_current_until_inputs_or_artefacts_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_current("corpus", "f")
    write_rows(folder.statements, [SAFE])
    write_json(folder.splits, {"train": ["a-1"]})
    folder.finish("corpus", "f", [folder.statements, folder.splits], 1.23)
    assert folder.is_current("corpus", "f")
    assert not folder.is_current("corpus", "other inputs")
    assert not folder.is_current("extract", "f")
    write_rows(folder.statements, [UNSAFE])
    assert not folder.is_current("corpus", "f")
    write_rows(folder.statements, [SAFE])
    assert folder.is_current("corpus", "f")
    folder.splits.unlink()
    assert not folder.is_current("corpus", "f")


def test_a_run_folder_may_be_moved(tmp_path: Path) -> None:
    here = RunFolder(tmp_path / "here")
    write_rows(here.statements, [SAFE])
    here.finish("corpus", "f", [here.statements], 0)
    here.root.rename(tmp_path / "there")
    assert RunFolder(tmp_path / "there").is_current("corpus", "f")


def test_a_broken_stamp_means_not_current(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.finish("corpus", "f", [], 0)
    folder.stamp("corpus").write_text('{"fingerprint": "f", "arti')
    assert not folder.is_current("corpus", "f")


def test_fresh_folder_empties(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "a" / "b")
    (folder / "old").write_text("x")
    assert list(fresh_folder(folder).iterdir()) == []
