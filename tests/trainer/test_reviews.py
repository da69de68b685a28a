"""A blind sample out, reviewers' labels in: what is refused and why, agreement, and what was confirmed."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.artifacts import RunFolder
from trainer.errors import CorpusError
from trainer.evaluation import reviews
from trainer.evaluation.measures import Judged
from trainer.evaluation.reviews import FIELDS, Review, Reviews, export, key, load, sample
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Label, Recommendation, Split

SETTINGS = EvaluationSettings(bootstrap=50, seed=3)
RULES = [Recommendation(f"r{i}", str(i), "", f"The rule {i}.", "s", "v", quote="", start=0, end=0) for i in range(4)]


def corpus(families: int = 40) -> list[Example]:
    """Twins on four rules, and one statement that no rule is about."""
    examples = []
    for f in range(families):
        for label in (Label.SAFE, Label.UNSAFE):
            own = Difficulty.HARD if label is Label.UNSAFE else None
            identifier = f"a-{len(examples):04d}"
            text = f"Statement {len(examples)}, of family {f}."
            examples.append(Example(identifier, text, label, f"r{f % 4}", "dose", own, f"f{f}", "a"))
    return [*examples, Example("o-1", "The weather is fine.", Label.OUT_OF_SCOPE, None, None, None, "o-1", "o")]


EXAMPLES = corpus()


def write(path: Path, *rows: dict[str, str], name: str = "reviews.csv", delimiter: str = ",") -> Path:
    file = path / name
    if name.endswith(".jsonl"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, FIELDS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return file


def row(statement: str = "a-0000", label: str = "safe", reviewer: str = "ann", **others: str) -> dict[str, str]:
    return {"statement": statement, "label": label, "reviewer": reviewer, **others}


# Reading


@pytest.mark.parametrize(("name", "delimiter"), [("r.csv", ","), ("r.csv", ";"), ("r.tsv", "\t"), ("r.jsonl", ",")])
def test_reviews_are_read_by_id_key_or_text(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [
        row(),
        row(key(EXAMPLES[1].text), "Unsafe", note="one number, wrong"),
        row("", " out of scope", text=EXAMPLES[2].text),
        row("a-0003", ""),
    ]
    found = load(write(tmp_path, *rows, name=name, delimiter=delimiter), EXAMPLES)
    assert found == Reviews(
        [
            Review(EXAMPLES[0], "ann", Label.SAFE),
            Review(EXAMPLES[1], "ann", Label.UNSAFE, "one number, wrong"),
            Review(EXAMPLES[2], "ann", Label.OUT_OF_SCOPE),
        ],
        unjudged=1,
    )


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(label="saef"), "unknown label 'saef': one of safe, unsafe, out_of_scope"),
        (row("zz"), "statement 'zz' is not in the corpus"),
        (row("", text="Never seen."), "text 'Never seen.' is not in the corpus"),
        (row(""), "neither statement nor text"),
        (row(reviewer=""), "reviewer is missing"),
        (row(reviewer="Corpus"), "cannot be called"),
    ],
)
@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_row_that_is_not_usable_is_named_with_its_line(tmp_path: Path, bad: dict, why: str, name: str) -> None:
    line = 3 if name == "r.csv" else 2  # a CSV has a header
    with pytest.raises(CorpusError, match=rf"{name}: .*\n  line {line}: .*{why}"):
        load(write(tmp_path, row("a-0001"), bad, name=name), EXAMPLES)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    file = write(tmp_path, row(note="a note\nof two lines"), row(label="maybe"))
    with pytest.raises(CorpusError, match="line 4: unknown label"):
        load(file, EXAMPLES)


def test_a_reviewer_judges_a_statement_once(tmp_path: Path) -> None:
    file = write(tmp_path, row(), row(reviewer="bob"), row(key(EXAMPLES[0].text), "unsafe"))
    with pytest.raises(CorpusError, match="line 4: ann judged this statement on line 2 already"):
        load(file, EXAMPLES)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"line 11: .*\n  and 15 more$"):
        load(write(tmp_path, *(row(label="?") for _ in range(25))), EXAMPLES)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("r.csv", b"", ":1: no column label, reviewer"),
        ("r.csv", b"statement,label\na-0000,safe\n", ":1: no column reviewer"),
        ("r.csv", b"statement,reviewer,label\na-0000,ann,safe,more\n", ":2: more cells than columns"),
        ("r.csv", b'statement,reviewer,label\n"a-0000,ann,safe\n', "not CSV"),
        ("r.csv", b"statement,reviewer,label\na-0000,ann,\n", "no row has a label"),
        ("r.csv", b"\xff\xfe\x00", "cannot be read as UTF-8"),
        ("r.jsonl", b'{"statement": "a-0000"', ":1: not JSON"),
        ("r.jsonl", b"[1]\n", ":1: expected a JSON object"),
        ("r.jsonl", b'\n{"statement": 7, "label": "safe", "reviewer": "ann"}\n', "line 2: statement is not a string"),
        ("r.jsonl", b"", "no row has a label"),
    ],
)
def test_a_file_that_is_not_usable_says_why(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=why):
        load(tmp_path / name, EXAMPLES)
    with pytest.raises(CorpusError, match="cannot be read"):
        load(tmp_path / "nothing.csv", EXAMPLES)


@given(st.binary(max_size=80))
def test_no_file_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for name in ("r.csv", "r.jsonl"):
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes(b"statement,label,reviewer\n" + content if name == "r.csv" else content)
        with pytest.raises(CorpusError):
            load(file, EXAMPLES)


# Agreement and what was confirmed


def judge(reviewer: str, labels: dict[int, Label]) -> list[Review]:
    return [Review(EXAMPLES[i], reviewer, label) for i, label in labels.items()]


def test_agreement_of_every_pair_by_hand() -> None:
    safe, unsafe = Label.SAFE, Label.UNSAFE
    given_ = [
        *judge("ann", {0: safe, 1: unsafe, 2: safe, 3: safe}),  # the corpus says safe, unsafe, safe, unsafe
        *judge("bob", {0: safe, 1: unsafe, 2: unsafe}),
        *judge("cy", {4: safe}),
    ]
    rows = {(r.model, r.metric): (r.value, r.n) for r in reviews.agreement_rows(Reviews(given_, 0), SETTINGS)}
    assert rows == {
        ("ann, corpus", "agreement"): (0.75, 4),
        ("ann, corpus", "Cohen's kappa"): (0.5, 4),
        ("bob, corpus", "agreement"): (0.6667, 3),
        ("bob, corpus", "Cohen's kappa"): (0.4, 3),
        ("cy, corpus", "agreement"): (1.0, 1),  # one label only: no kappa
        ("ann, bob", "agreement"): (0.6667, 3),
        ("ann, bob", "Cohen's kappa"): (0.4, 3),
    }


def test_confirmed_is_what_everybody_confirmed() -> None:
    safe, unsafe = Label.SAFE, Label.UNSAFE
    given_ = [*judge("ann", {0: safe, 1: unsafe, 2: unsafe}), *judge("bob", {0: safe, 1: safe})]
    assert Reviews(given_, 0).confirmed() == {"a-0000"}


def test_figures_are_those_of_the_confirmed_statements() -> None:
    """The model is wrong on the disputed family only, so on the confirmed ones it is right throughout."""
    judged = [
        Judged(e, Split.TEST_OOD, {"m": 0.9 if (e.label is Label.UNSAFE) is not (e.family == "f0") else 0.1}, "r0")
        for e in EXAMPLES[:40]
    ]
    labels = {i: e.label for i, e in enumerate(EXAMPLES[:40])} | {0: Label.UNSAFE, 1: Label.SAFE}
    rows = reviews.rows(Reviews(judge("ann", labels), 0), judged, SETTINGS)
    reviewed = {(r.model, r.split, r.stratum, r.metric): (r.value, r.n) for r in rows if r.suite == "reviewed"}
    assert reviewed["m", "test_ood", "all", "F1"] == (1.0, 38)
    assert reviewed["m", "test_ood", "hard", "AUC"] == (1.0, 38)
    assert {r.suite for r in rows} == {"reviews", "reviewed"}


def test_nothing_confirmed_is_no_figure() -> None:
    judged = [Judged(e, Split.TEST_ID, {"m": 0.5}, "r0") for e in EXAMPLES[:4]]
    rows = reviews.rows(Reviews(judge("ann", {0: Label.UNSAFE}), 0), judged, SETTINGS)
    assert {r.suite for r in rows} == {"reviews"}


# The sample


def test_a_sample_is_stratified_and_has_no_twins() -> None:
    chosen = sample(EXAMPLES, 24, seed=1)
    assert Counter((e.recommendation, e.label) for e in chosen) == {
        (f"r{i}", label): 3 for i in range(4) for label in (Label.SAFE, Label.UNSAFE)
    }
    assert len({e.family for e in chosen}) == 24
    assert chosen == sample(EXAMPLES[::-1], 24, seed=1) != sample(EXAMPLES, 24, seed=2)


@given(st.integers(1, 60), st.integers(0, 1000))
def test_a_sample_has_as_many_as_there_are_families(n: int, seed: int) -> None:
    chosen = sample(EXAMPLES, n, seed)
    assert len(chosen) == min(n, 40)
    assert len({e.family for e in chosen}) == len(chosen)
    assert all(e.label is not Label.OUT_OF_SCOPE for e in chosen)


def test_the_exported_sample_does_not_give_the_label_away(tmp_path: Path) -> None:
    file = tmp_path / "sample.csv"
    chosen = sample(EXAMPLES, 10, seed=1)
    export(chosen, RULES, file)
    content = file.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content)))
    assert [r["text"] for r in rows] == [e.text for e in chosen]
    assert all(r["recommendation"] == f"The rule {e.recommendation[1]}." for r, e in zip(rows, chosen, strict=True))
    assert {(r["label"], r["reviewer"], r["note"]) for r in rows} == {("", "", "")}
    for e in chosen:
        assert e.id not in content
    assert not {"safe", "unsafe"} & set(content.replace(",", " ").replace('"', " ").split())


def test_a_sample_that_was_filled_in_comes_back(tmp_path: Path) -> None:
    bullet = Example("a-9", "- 200 mg on day 1, “once”.", Label.SAFE, "r1", "dose", None, "f-9", "a")
    file = tmp_path / "sample.csv"
    export([bullet, *sample(EXAMPLES, 5, seed=1)], RULES, file)
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    assert rows[0]["text"].startswith("'-")  # no formula
    for r in rows:
        r |= {"label": "safe", "reviewer": "ann"}
    for without_key in (False, True):
        given_ = [r | {"statement": ""} for r in rows] if without_key else rows
        found = load(write(tmp_path, *given_, name="back.csv"), [bullet, *EXAMPLES])
        assert [r.example.text for r in found.given] == [bullet.text, *(r["text"] for r in rows[1:])]


def test_the_file_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert reviews.file_of(folder) is None
    (tmp_path / "reviews.jsonl").touch()
    assert reviews.file_of(folder) == tmp_path / "reviews.jsonl"


def test_random_labels_agree_by_chance_only() -> None:
    rng = np.random.default_rng(1)
    labels = {i: Label.SAFE if rng.random() < 0.5 else Label.UNSAFE for i in range(80)}
    rows = {r.metric: r for r in reviews.agreement_rows(Reviews(judge("ann", labels), 0), SETTINGS)}
    assert rows["Cohen's kappa"].low < 0 < rows["Cohen's kappa"].high
