"""From recorded completions to splits: the shipped corpus in full, each reason for rejection, no leak."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monitor.scope import ScopeGate
from trainer.errors import CorpusError
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract, scope_terms
from trainer.statements.corpus import Rejected, SplitSettings, groups, load, split
from trainer.types import Difficulty, Example, Label, Recommendation, Split

RECOMMENDATION = Recommendation("r1", "1", "Dose", "Give 20 mg.", "g.md", "1", "Give 20 mg.", 0, 11)
SAFE = {"id": "a-1", "text": "Give 20 mg.", "label": "safe", "recommendation": "r1", "category": "dose"}
UNSAFE = SAFE | {"id": "a-2", "text": "Give 40 mg.", "label": "unsafe", "difficulty": "hard", "parent": "a-1"}


@pytest.fixture(scope="module")
def shipped() -> tuple[Pack, list[Recommendation], list[Example], list[Rejected]]:
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    return pack, recommendations, *load(pack.corpus, recommendations)


@pytest.fixture
def take(tmp_path: Path, write_lines: Callable[[Path, list[dict]], None]) -> Callable:
    """Return a function that loads a corpus of the given rows: one list a style."""

    def load_rows(**styles: list[dict]) -> tuple[list[Example], list[Rejected]]:
        for style, rows in styles.items():
            name = "out_of_scope" if style == "out_of_scope" else f"llm_style_{style}"
            write_lines(tmp_path / "corpus" / f"{name}.jsonl", rows)
        return load(tmp_path / "corpus", [RECOMMENDATION])

    return load_rows


# The corpus that is shipped


def test_every_shipped_row_is_taken(shipped: tuple) -> None:
    _, _, examples, rejected = shipped
    assert rejected == []
    own = [e for e in examples if e.style != "general"]
    assert len(own) == 17501
    assert sum(e.label is not Label.OUT_OF_SCOPE for e in own) == 15720
    assert {e.style for e in own} == {*"abcdefghijklmorstuvwyz", "out_of_scope"}


def test_shipped_other_topics_are_out_of_scope(shipped: tuple) -> None:
    others = [e for e in shipped[2] if e.style == "general"]
    assert Counter(Counter(e.family for e in others).values()) == {24: 80}
    assert {(e.label, e.recommendation, e.category, e.difficulty) for e in others} == {
        (Label.OUT_OF_SCOPE, None, None, None)
    }


def test_shipped_ids_are_unique_and_no_text_has_two_labels(shipped: tuple) -> None:
    examples = shipped[2]
    assert len({e.id for e in examples}) == len(examples)
    labels = defaultdict(set)
    for example in examples:
        labels[example.text.lower()].add(example.label)
    assert [text for text, own in labels.items() if len(own) > 1] == []


def test_shipped_families_have_a_safe_root_and_one_recommendation(shipped: tuple) -> None:
    _, recommendations, examples, _ = shipped
    by_id = {e.id: e for e in examples}
    for example in (e for e in examples if e.style != "general"):
        root = by_id[example.family]
        assert root.family == root.id, example.id
        if example.id != root.id:
            assert (example.label, root.label) == (Label.UNSAFE, Label.SAFE), example.id
            assert example.recommendation == root.recommendation, example.id
    assert {e.recommendation for e in examples} - {None} == {r.id for r in recommendations}


def test_shipped_splits_share_no_family_and_no_text(shipped: tuple) -> None:
    examples = shipped[2]
    by_id = {e.id: e for e in examples}
    parts = split(examples, SplitSettings())
    families, texts = defaultdict(set), defaultdict(set)
    for part, ids in parts.items():
        for i in ids:
            families[by_id[i].family].add(part)
            texts[by_id[i].text.lower()].add(part)
    assert [f for f, where in families.items() if len(where) > 1] == []
    assert [t for t, where in texts.items() if len(where) > 1] == []
    everything = [i for ids in parts.values() for i in ids]
    assert len(everything) == len(set(everything))


def test_shipped_held_out_voices_are_in_test_ood_only(shipped: tuple) -> None:
    examples = shipped[2]
    style = {e.id: e.style for e in examples}
    parts = split(examples, SplitSettings())
    assert {style[i] for i in parts[Split.TEST_OOD]} == {"g", "l"}
    for part in (Split.TRAIN, Split.VALIDATION, Split.TEST_ID):
        assert not {style[i] for i in parts[part]} & {"g", "l"}
        assert {style[i] for i in parts[part]} == {*"abcdefhijkmorstuvwyz", "out_of_scope", "general"}


def test_shipped_splits_have_the_sizes_that_were_asked_for(shipped: tuple) -> None:
    parts = split(shipped[2], SplitSettings())
    heard = sum(len(parts[p]) for p in (Split.TRAIN, Split.VALIDATION, Split.TEST_ID))
    assert len(parts[Split.VALIDATION]) / heard == pytest.approx(0.10, abs=0.02)
    assert len(parts[Split.TEST_ID]) / heard == pytest.approx(0.10, abs=0.02)
    assert len(parts[Split.TEST_OOD]) > 1300
    assert heard + len(parts[Split.TEST_OOD]) > 0.99 * len(shipped[2])


def test_shipped_training_split_has_both_labels_of_every_recommendation(shipped: tuple) -> None:
    _, recommendations, examples, _ = shipped
    by_id = {e.id: e for e in examples}
    train = [by_id[i] for i in split(examples, SplitSettings())[Split.TRAIN]]
    classes = {(e.recommendation, e.label) for e in train}
    assert classes == {(r.id, x) for r in recommendations for x in (Label.SAFE, Label.UNSAFE)} | {
        (None, Label.OUT_OF_SCOPE)
    }


def test_shipped_statements_pass_the_scope_gate(shipped: tuple) -> None:
    pack, recommendations, examples, _ = shipped
    gate = ScopeGate(scope_terms(pack, recommendations), pack.spec.language)
    scoped = [e for e in examples if e.label is not Label.OUT_OF_SCOPE]
    missed = [e.id for e in scoped if not gate.concerns(e.text)]
    assert len(missed) <= 0.005 * len(scoped), missed[:20]


def test_shipped_splits_are_the_same_every_time_and_another_seed_gives_others(shipped: tuple) -> None:
    examples = shipped[2]
    assert split(examples, SplitSettings()) == split(examples, SplitSettings())
    assert split(examples, SplitSettings()) != split(examples, SplitSettings(seed=21))


# Other topics


def test_other_topics_are_a_sample_of_each_topic(
    tmp_path: Path, write_lines: Callable[[Path, list[dict]], None]
) -> None:
    write_lines(tmp_path / "llm_style_a.jsonl", [SAFE])
    rows = [{"topic": "gout", "statement": f"Rest **{i}**."} for i in range(1, 100)]
    write_lines(tmp_path / "general" / "01.jsonl", rows)
    write_lines(tmp_path / "general" / "02.jsonl", [{"topic": "flu", "statement": None}, *rows[:5], {"topic": 3}])
    examples, rejected = load(tmp_path, [RECOMMENDATION])
    others = [e for e in examples if e.id != "a-1"]
    assert [(r.id, r.file) for r in rejected] == [
        ("general-02-1", "general/02.jsonl"), ("general-02-7", "general/02.jsonl"),
    ]  # fmt: skip
    assert [e.text for e in others] == [f"Rest {i}." for i in range(3, 75, 3)]
    assert {(e.label, e.recommendation, e.family, e.style) for e in others} == {
        (Label.OUT_OF_SCOPE, None, "topic:gout", "general")
    }


def test_a_text_of_another_topic_that_has_another_label_is_rejected(
    tmp_path: Path, write_lines: Callable[[Path, list[dict]], None]
) -> None:
    write_lines(tmp_path / "llm_style_a.jsonl", [SAFE, SAFE | {"id": "a-2", "text": "The dose is 20 mg."}])
    topic = {"topic": "gout", "statement": "Give 20 mg."}
    write_lines(tmp_path / "general" / "01.jsonl", [topic] * 3 + [{"topic": "gout", "statement": "Rest."}] * 3)
    examples, rejected = load(tmp_path, [RECOMMENDATION])
    assert [e.text for e in examples] == ["The dose is 20 mg.", "Rest."]
    assert [(r.id, r.file, r.reason) for r in rejected] == [
        ("a-1", "llm_style_a.jsonl", "the same text has two labels"),
        ("general-01-3", "general/01.jsonl", "the same text has two labels"),
    ]


def test_a_rejected_row_of_another_topic_names_a_file_with_a_hyphen(
    tmp_path: Path, write_lines: Callable[[Path, list[dict]], None]
) -> None:
    write_lines(tmp_path / "llm_style_a.jsonl", [SAFE])
    write_lines(tmp_path / "general" / "gout-2.jsonl", [{"topic": "gout", "statement": "Give 20 mg."}] * 3)
    _, rejected = load(tmp_path, [RECOMMENDATION])
    assert [r.file for r in rejected] == ["llm_style_a.jsonl", "general/gout-2.jsonl"]


# What is rejected, and why


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id or text is missing or not a string"),
        ({"id": 7}, "id or text is missing or not a string"),
        ({"text": ["Give"]}, "id or text is missing or not a string"),
        ({"text": ""}, "no letters in the text"),
        ({"text": " \u200b -- !"}, "no letters in the text"),
        ({"label": "wrong"}, "unknown label 'wrong'"),
        ({"label": None}, "unknown label None"),
        ({"recommendation": "r2"}, "unknown recommendation 'r2'"),
        ({"recommendation": None}, "unknown recommendation None"),
        ({"category": None}, "category is missing"),
        ({"difficulty": "hard"}, "difficulty does not fit the label"),
        ({"label": "unsafe"}, "difficulty does not fit the label"),
        ({"label": "unsafe", "difficulty": "extreme"}, "difficulty does not fit the label"),
        ({"parent": "a-99"}, "parent a-99 is not there"),
    ],
)
def test_a_row_is_rejected_with_its_reason(take: Callable, change: dict, reason: str) -> None:
    good = SAFE | {"id": "a-0", "text": "The dose is 20 mg."}
    examples, rejected = take(a=[good, SAFE | change])
    assert [e.id for e in examples] == ["a-0"]
    assert [r.reason for r in rejected] == [reason]


def test_a_field_that_is_absent_is_rejected(take: Callable) -> None:
    for field in ("id", "text", "label", "recommendation", "category"):
        row = dict(SAFE)
        del row[field]
        examples, rejected = take(a=[row])
        assert examples == []
        assert len(rejected) == 1, field


@pytest.mark.parametrize("label", ["safe", "out_of_scope"])
def test_an_unknown_difficulty_of_a_row_that_needs_none_is_rejected(take: Callable, label: str) -> None:
    examples, rejected = take(a=[SAFE | {"label": label, "difficulty": "extreme"}])
    assert examples == []
    assert [r.reason for r in rejected] == ["difficulty does not fit the label"]


@pytest.mark.parametrize("field", ["label", "recommendation", "category", "difficulty", "parent"])
@pytest.mark.parametrize("value", [["x"], {}, 7, True])
def test_a_value_that_is_no_string_is_rejected(take: Callable, field: str, value: object) -> None:
    examples, rejected = take(a=[UNSAFE | {"parent": None} | {field: value}])
    assert examples == []
    assert [r.reason for r in rejected] == [f"{field} is not a string"]


def test_an_out_of_scope_row_is_about_no_recommendation(take: Callable) -> None:
    outside = SAFE | {"id": "n-1", "text": "Rain.", "label": "out_of_scope"}
    examples, rejected = take(a=[SAFE], out_of_scope=[outside, outside | {"id": "n-2", "recommendation": None}])
    assert [e.id for e in examples] == ["a-1", "n-2"]
    assert [(r.id, r.file, r.reason) for r in rejected] == [
        ("n-1", "out_of_scope.jsonl", "an out-of-scope statement names a recommendation")
    ]


def test_an_id_that_occurs_twice_counts_once(take: Callable) -> None:
    examples, rejected = take(a=[SAFE], b=[SAFE | {"text": "The dose is 20 mg."}])
    assert [(e.id, e.style) for e in examples] == [("a-1", "a")]
    assert [(r.id, r.reason) for r in rejected] == [("a-1", "id occurs twice")]


def test_a_text_with_two_labels_is_rejected_both_times(take: Callable) -> None:
    twin = UNSAFE | {"id": "b-1", "text": "GIVE **20**  mg.", "parent": None}
    examples, rejected = take(a=[SAFE], b=[twin])
    assert examples == []
    assert {(r.id, r.reason) for r in rejected} == {
        ("a-1", "the same text has two labels"),
        ("b-1", "the same text has two labels"),
    }


def test_variants_of_a_rejected_parent_are_rejected(take: Callable) -> None:
    second = UNSAFE | {"id": "a-3", "text": "Give 80 mg.", "parent": "a-2"}
    twin = UNSAFE | {"id": "b-1", "text": "Give 20 mg.", "parent": None}
    examples, rejected = take(a=[SAFE, UNSAFE, second], b=[twin])
    assert examples == []
    assert [(r.id, r.reason) for r in rejected] == [
        ("a-1", "the same text has two labels"),
        ("b-1", "the same text has two labels"),
        ("a-2", "parent a-1 is not there"),
        ("a-3", "parent a-2 is not there"),
    ]


def test_variants_of_a_parent_that_fails_the_checks_are_rejected(take: Callable) -> None:
    examples, rejected = take(a=[SAFE | {"label": "wrong"}, UNSAFE])
    assert examples == []
    assert [(r.id, r.reason) for r in rejected] == [
        ("a-1", "unknown label 'wrong'"),
        ("a-2", "parent a-1 is not there"),
    ]


def test_every_rejection_names_its_file(take: Callable) -> None:
    outside = {"id": "n-1", "text": "Rain.", "label": "out_of_scope"}
    rows = [SAFE, SAFE, SAFE | {"id": "a-3", "label": "wrong"}, SAFE | {"id": "a-4", "text": "5 mg.", "parent": "a-9"}]
    _, rejected = take(a=rows, out_of_scope=[outside, outside, outside | {"id": "n-2", "text": ""}])
    assert sorted((r.id, r.file) for r in rejected) == [
        ("a-1", "llm_style_a.jsonl"),
        ("a-3", "llm_style_a.jsonl"),
        ("a-4", "llm_style_a.jsonl"),
        ("n-1", "out_of_scope.jsonl"),
        ("n-2", "out_of_scope.jsonl"),
    ]


def test_variants_of_variants_are_of_the_family_of_the_root(take: Callable) -> None:
    second = UNSAFE | {"id": "a-3", "text": "Give 80 mg.", "parent": "a-2"}
    third = UNSAFE | {"id": "a-4", "text": "Give 90 mg.", "parent": "a-3"}
    examples, rejected = take(a=[third, SAFE, second, UNSAFE], b=[SAFE | {"id": "b-1", "text": "20 mg."}])
    assert rejected == []
    assert {e.id: e.family for e in examples} == {
        "a-1": "a-1", "a-2": "a-1", "a-3": "a-1", "a-4": "a-1", "b-1": "b-1",
    }  # fmt: skip


@pytest.mark.parametrize("length", [2, 3])
def test_rows_that_are_variants_of_each_other_are_of_one_family(take: Callable, length: int) -> None:
    rows = [
        UNSAFE | {"id": f"a-{i}", "text": f"Give {i} kg.", "parent": f"a-{(i + 1) % length}"} for i in range(length)
    ]
    examples, rejected = take(a=rows)
    assert len({e.family for e in examples}) == 1 or len(rejected) == length


def test_what_is_taken_is_normalised_and_typed(take: Callable) -> None:
    row = UNSAFE | {"text": "Give\u00a0**40**\u200b mg \u2013 now", "kind": "extra"}
    outside = {"id": "n-1", "text": "Rain.", "label": "out_of_scope", "kind": "weather"}
    examples, rejected = take(a=[SAFE, row], out_of_scope=[outside])
    assert rejected == []
    assert examples == [
        Example("a-1", "Give 20 mg.", Label.SAFE, "r1", "dose", None, "a-1", "a"),
        Example("a-2", "Give 40 mg - now", Label.UNSAFE, "r1", "dose", Difficulty.HARD, "a-1", "a"),
        Example("n-1", "Rain.", Label.OUT_OF_SCOPE, None, None, None, "n-1", "out_of_scope"),
    ]


def test_a_folder_without_statements_is_refused(tmp_path: Path) -> None:
    (tmp_path / "messages.jsonl").write_text("{}\n")
    with pytest.raises(CorpusError, match="no llm_style_"):
        load(tmp_path, [RECOMMENDATION])


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "llm_style_a.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(CorpusError, match=r"llm_style_a\.jsonl:2: not JSON"):
        load(tmp_path, [RECOMMENDATION])


# Splits of made-up families


def example(identifier: str, text: str, family: str, style: str = "a") -> Example:
    return Example(identifier, text, Label.SAFE, "r1", "dose", None, family, style)


def test_families_that_share_a_text_are_one_group() -> None:
    rows = [
        example("1", "x", "f1"), example("2", "y", "f2"), example("3", "X", "f3"),
        example("4", "y", "f3"), example("5", "z", "f4"),
    ]  # fmt: skip
    group_of = groups(rows)
    assert group_of["f1"] == group_of["f2"] == group_of["f3"]
    assert group_of["f4"] != group_of["f1"]


def test_a_text_that_heard_and_held_out_voices_share_goes_nowhere() -> None:
    rows = [
        example("1", "x", "f1", "a"), example("2", "x", "f2", "g"), example("3", "other", "f2", "g"),
        example("4", "y", "f3", "g"), example("5", "z", "f4", "a"),
    ]  # fmt: skip
    parts = split(rows, SplitSettings(validation=0, test=0))
    assert parts == {Split.TRAIN: ["5"], Split.VALIDATION: [], Split.TEST_ID: [], Split.TEST_OOD: ["4"]}


def test_the_order_of_rows_does_not_move_a_family() -> None:
    rows = [example(str(i), f"text {i}", f"f{i // 2}") for i in range(60)]
    one, other = split(rows, SplitSettings()), split(rows[::-1], SplitSettings())
    assert {p: set(ids) for p, ids in one.items()} == {p: set(ids) for p, ids in other.items()}


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8), st.sampled_from("abgl")), min_size=1, max_size=40),
    st.integers(0, 5),
)
def test_no_family_and_no_text_ever_spans_two_splits(rows: list, seed: int) -> None:
    examples = [example(str(i), f"text {t}", f"f{f}", style) for i, (t, f, style) in enumerate(rows)]
    by_id = {e.id: e for e in examples}
    parts = split(examples, SplitSettings(validation=0.3, test=0.3, seed=seed))
    families, texts = defaultdict(set), defaultdict(set)
    for part, ids in parts.items():
        for i in ids:
            families[by_id[i].family].add(part)
            texts[by_id[i].text].add(part)
            assert (by_id[i].style in "gl") == (part is Split.TEST_OOD)
    assert all(len(where) == 1 for where in [*families.values(), *texts.values()])
