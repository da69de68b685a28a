"""Pairs, generated edits and small vocabularies: what a verifier is trained on says what it claims to say."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import ConfigurationError
from trainer.errors import CorpusError
from trainer.verifier import crossencoder, edits
from trainer.verifier.edits import Edit, change_number, change_polarity, change_word, contradict, edited_pairs, reword
from trainer.verifier.pairs import Pair, Relation, between_twins, held_out, read_evidence, read_topics
from trainer.verifier.pretraining import DATA, Curriculum, read_all, split, stream
from trainer.verifier.training import batched, repeat, twin_groups
from trainer.verifier.vocabulary import count_tokens, trim

RULE = "In adults, give 200 mg of the drug intravenously on day 1, then 100 mg once daily for 4 days."


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "01.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(**changes: object) -> dict[str, object]:
    own = {"topic": "t", "recommendation": RULE, "statement": "Give 200 mg.", "label": "consistent", "edits": None}
    return own | changes


def test_shipped_pairs_are_of_three_relations_and_whole_topics_are_held_out() -> None:
    pairs = read_all(DATA, None)
    assert len(pairs) > 20_000
    assert {p.relation for p in pairs} == {*Relation}
    rest, test = split(pairs)
    assert {p.group for p in rest}.isdisjoint({p.group for p in test})
    assert len(rest) + len(test) == len(pairs)
    assert {p.source for p in test} == {"general", "graded", "further"}


def test_twins_are_found_whichever_row_names_the_other(tmp_path: Path) -> None:
    wrong = row(statement="Give 400 mg.", label="contradicts", edits="Give 200 mg.")
    alone = row(statement="Never give it.", label="contradicts", edits="Not there.")
    right, other, single = read_topics(write(tmp_path / "x", [row(), wrong, alone]), "x")
    assert right.twin == other.twin is not None
    assert single.twin is None


@pytest.mark.parametrize("changes", [{"label": "maybe"}, {"topic": None}, {"statement": 3}])
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(CorpusError, match=r"01\.jsonl:2"):
        read_topics(write(tmp_path / "x", [row(), row(**changes)]), "x")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no pairs"):
        read_topics(tmp_path, "x")


def test_evidence_is_read_plain_and_compressed(tmp_path: Path) -> None:
    line = json.dumps({"premise": "a b", "hypothesis": "c", "label": "neutral", "group": 7})
    (tmp_path / "plain.jsonl").write_text(line + "\n")
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write(line + "\n")
    plain, packed = (read_evidence(tmp_path / name) for name in ("plain.jsonl", "packed.jsonl.gz"))
    assert plain == packed == [Pair("a b", "c", Relation.NEUTRAL, "evidence:7", "evidence")]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"premise": "a"}', '{"premise": 1, "hypothesis": "b", "label": "neutral"}']
)
def test_a_bad_line_of_evidence_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "e.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=r"e\.jsonl:1"):
        read_evidence(tmp_path / "e.jsonl")


def test_between_twins_each_statement_agrees_with_itself_and_contradicts_the_other() -> None:
    right = Pair(RULE, "It takes 5 days.", Relation.CONSISTENT, "g", "s", "t")
    wrong = Pair(RULE, "It takes 9 days.", Relation.CONTRADICTS, "g", "s", "t")
    found = between_twins([right, wrong])
    assert {(p.premise, p.hypothesis): p.relation for p in found} == {
        (a.hypothesis, b.hypothesis): Relation.CONSISTENT if a is b else Relation.CONTRADICTS
        for a in (right, wrong)
        for b in (right, wrong)
    }


def test_held_out_takes_groups_of_every_source() -> None:
    pairs = [Pair("p", f"h{i}", Relation.NEUTRAL, f"{s}{i}", s) for s in "ab" for i in range(10)]
    rest, test = held_out(pairs, 0.2, 1)
    assert sorted(p.source for p in test) == ["a", "a", "b", "b"]
    assert len(rest) == 16


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t, r: change_number(t, r), RULE),
        (lambda t, r: change_word(t, r), RULE),
        (lambda t, r: change_polarity(t, r), "The drug should not be given to children."),
        (lambda t, r: change_polarity(t, r), "Offer the vaccine to all adults."),
    ],
)
def test_an_edit_changes_one_thing(change: object, text: str) -> None:
    for seed in range(20):
        edit = change(text, random.Random(seed))  # type: ignore[operator]
        assert isinstance(edit, Edit)
        assert edit.text != text
        before, after = text.lower().split(), edit.text.lower().split()
        assert len(set(before) ^ set(after)) <= 6


def test_what_holds_nothing_to_change_is_left_out() -> None:
    assert contradict("Mumble mumble.", random.Random(0)) is None
    assert edited_pairs([("g", "Mumble mumble.")], random.Random(0)) == []


@given(st.integers(0, 10_000))
def test_rewording_keeps_the_numbers_that_it_does_not_convert(seed: int) -> None:
    text = reword("Give 37.5 mg/kg over 45 minutes to adults with an eGFR of 250 mL/min.", random.Random(seed))
    assert "37.5 mg/kg" in text
    assert "250" in text


@pytest.mark.parametrize(("text", "same"), [("for 48 hours", "for 2 days"), ("for 2 weeks", "for 14 days")])
def test_time_spans_are_converted_exactly(text: str, same: str) -> None:
    assert same in {edits._respell_span(text, random.Random(seed)) for seed in range(30)}


def test_edited_twins_share_a_premise_and_differ() -> None:
    pairs = edited_pairs([("g", RULE)] * 20, random.Random(3))
    for right, wrong in zip(pairs[::2], pairs[1::2], strict=True):
        assert (right.relation, wrong.relation) == (Relation.CONSISTENT, Relation.CONTRADICTS)
        assert right.premise == wrong.premise == RULE
        assert right.twin == wrong.twin
        assert right.hypothesis != wrong.hypothesis


def test_batches_hold_twins_whole_and_an_epoch_holds_every_pair() -> None:
    pairs = [
        Pair("p", f"{t}{i}", Relation.NEUTRAL, "g", "s", f"t{t}" if t < 8 else None) for t in range(12) for i in (0, 1)
    ]
    groups = twin_groups(pairs)
    batches = list(batched(groups, 5))
    assert sorted(p.hypothesis for b in batches for p in b) == sorted(p.hypothesis for p in pairs)
    where = {p.hypothesis: i for i, b in enumerate(batches) for p in b}
    assert all(where[f"{t}0"] == where[f"{t}1"] for t in range(8))
    endless = repeat(pairs, random.Random(0))
    epoch = [p for _ in range(len(groups)) for p in next(endless)]
    assert sorted(p.hypothesis for p in epoch) == sorted(p.hypothesis for p in pairs)


def test_the_curriculum_moves_from_edits_to_topics() -> None:
    curriculum = Curriculum()
    first, last = curriculum.shares(0.0), curriculum.shares(1.0)
    assert first["between twins"] > last["between twins"]
    assert first["topics"] < last["topics"]
    for done in (0.0, 0.05, 0.1, 0.5, 1.0):
        assert sum(curriculum.shares(done).values()) == pytest.approx(1)


def test_the_stream_is_the_same_for_the_same_seed_and_needs_no_evidence() -> None:
    pairs = read_topics(DATA / "further", "further")
    one, two = (list(stream(pairs, Curriculum(), 5, 16, 9)) for _ in range(2))
    assert one == two
    assert len(one) == 5
    assert all(len(batch) >= 16 for batch in one)


def test_a_trimmed_vocabulary_spells_what_it_lacks_and_embeds_what_it_keeps_alike() -> None:
    encoder, tokenizer = crossencoder.load("all-MiniLM-L6-v2")
    before = encoder.model.get_input_embeddings().weight.detach().clone()
    whole = tokenizer.encode("remdesivir on day 1").ids
    small = trim(encoder.model, tokenizer, count_tokens(tokenizer, ["on day 1"]))  # type: ignore[arg-type]
    assert small.get_vocab_size() < 2000
    text = small.encode("Pharmacist, remdesivir on day 1!")
    assert "[UNK]" not in text.tokens
    assert (text.tokens[0], text.tokens[-1]) == ("[CLS]", "[SEP]")
    table = encoder.model.get_input_embeddings().weight
    piece = small.token_to_id("day")
    assert piece is not None
    assert table[piece].equal(before[tokenizer.token_to_id("day")])
    assert len(whole) <= len(small.encode("remdesivir on day 1").ids)


def test_other_vocabularies_are_refused() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    encoder, _ = crossencoder.load("all-MiniLM-L6-v2")
    with pytest.raises(ConfigurationError, match="WordPiece"):
        trim(encoder.model, Tokenizer(BPE()), [])  # type: ignore[arg-type]
