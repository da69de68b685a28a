"""Passages keep their offsets; the index finds what words or meaning say; recall is what can be counted by hand."""

import hashlib
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from trainer.artifacts import RunFolder, write_rows
from trainer.errors import CorpusError, PackError, StageMissing
from trainer.guideline.documents import sections
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, SourceSpec, extract
from trainer.guideline.retrieval import (
    RRF_K,
    HybridIndex,
    measure_recall,
    overlaps,
    passages,
    ranks,
    read_passages,
    reciprocal_rank_fusion,
    run_passages,
    s_stem,
    sentences_of,
    tokenize,
)
from trainer.model.encoder import Embedder, load_pretrained
from trainer.settings import DEFAULT_ENCODER, EvaluationSettings
from trainer.types import Example, Label, Passage, Recommendation

SOURCE = SourceSpec(path="guideline.md", title="Guideline", version="1")
DOCUMENT = """# Zolamide

## 1. Dose
The dose of zolamide is 20 mg once daily. It is given q24h with 200mL of water.
The dose is halved when eGFR is below 30 mL/min.

## 2. Duration
Adults take zolamide for 5 days. Children take it for 3 days. Nobody takes it longer. Stopping early is safe.

## 3. Pregnancy
Zolamide is not given in pregnancy.
"""


def hashed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts as hashed bags of words."""
    result = np.zeros((len(texts), 64), dtype=np.float32)
    for row, text in zip(result, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1
    return result


def progress() -> Progress:
    return Progress(console=Console(file=io.StringIO()))


def recommendation(name: str, quote: str, text: str | None = None) -> Recommendation:
    start = DOCUMENT.index(quote)
    return Recommendation(
        name, "1", "Dose", text or quote, SOURCE.path, SOURCE.version, quote, start, start + len(quote)
    )


def example(name: str, text: str, about: str | None, label: Label = Label.SAFE, family: str | None = None) -> Example:
    return Example(name, text, label, about, "dose", None, family or name, "a")


@pytest.fixture
def found() -> list[Passage]:
    return passages([(SOURCE, DOCUMENT)])


# Passages

_SENTENCE = st.sampled_from(
    ["Give 2.5 mg/kg on day 1.", "Stop it e.g. in shock.", "- an item", "a line that goes on\nin the next.", "Ünïcode?"]
)
_PART = st.one_of(_SENTENCE, st.sampled_from(["## 1. Title", "### Untitled", "", "| a | b |", "```", "x" * 700]))


@given(st.one_of(st.lists(_PART).map("\n".join), st.text()))
def test_passages_are_pieces_of_the_document_and_hold_all_its_sentences(document: str) -> None:
    found = passages([(SOURCE, document)])
    assert all(p.text == document[p.start : p.end] for p in found)
    assert len({p.id for p in found}) == len(found)
    for section in sections(document):
        for start, end in sentences_of(section.body):
            assert any(p.start <= section.start + start and section.start + end <= p.end for p in found)


def test_neighbouring_sentences_are_in_one_passage(found: list[Passage]) -> None:
    texts = [p.text for p in found if p.section == "2"]
    assert len(texts) == 2
    for pair in ("5 days. Children", "3 days. Nobody", "longer. Stopping"):
        assert any(pair in text for text in texts), pair


def test_a_long_section_is_cut_and_no_passage_lies_in_another() -> None:
    document = "# 1. Long\n" + " ".join(f"Sentence number {i} is about the dose of zolamide." for i in range(20))
    found = passages([(SOURCE, document)])
    assert len(found) > 5
    assert all(a.start < b.start < a.end < b.end for a, b in itertools.pairwise(found))


def test_several_documents_have_ids_and_pages_of_their_own() -> None:
    other = SourceSpec(path="other.pdf", title="Other", version="2")
    found = passages([(SOURCE, DOCUMENT), (other, DOCUMENT)], lambda ordinal, offset: 10 * ordinal + (offset > 60))
    assert len({p.id for p in found}) == len(found)
    assert found[0].id == "d1:1-p1"
    assert {(p.source, p.version, p.page) for p in found} == {
        ("guideline.md", "1", 0),
        ("guideline.md", "1", 1),
        ("other.pdf", "2", 10),
        ("other.pdf", "2", 11),
    }


# Ranking


def test_tokens_keep_numbers_units_and_names() -> None:
    assert tokenize(["Give 200mg q24h (eGFR < 30 mL/min); 5 mg/kg of CYP3A4 inhibitors, 0.9%"])[0] == [
        "give", "200", "mg", "q24h", "egfr", "30", "ml/min", "5", "mg/kg", "cyp3a4", "inhibitor", "0.9", "%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "stem"),
    [("doses", "dose"), ("studies", "study"), ("days", "day"), ("virus", "virus"), ("illness", "illness"), ("s", "s")],
)
def test_plurals_meet_their_singular(word: str, stem: str) -> None:
    assert s_stem(word) == stem


_SCORES = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.integers(0, 4))


@given(_SCORES)
def test_ranks_order_scores_and_equal_ones_by_position(scores: NDArray[np.float32]) -> None:
    ranked = ranks(scores)
    for own, rank in zip(scores, ranked, strict=True):
        assert list(np.argsort(rank)) == sorted(range(len(own)), key=lambda i: (-own[i], i))
        assert sorted(rank) == list(range(1, len(own) + 1))
    assert (np.isinf(ranks(scores, above=0)) == (scores <= 0)).all()


@given(st.lists(st.permutations(range(1, 7)), min_size=1, max_size=4), st.integers(0, 5), st.data())
def test_fusion_rewards_every_better_rank(rankings: list[list[int]], item: int, data: st.DataObject) -> None:
    arrays = [np.array([r], dtype=np.float64) for r in rankings]
    fused = reciprocal_rank_fusion(arrays)
    assert (fused > 0).all()
    assert (fused <= len(arrays) / (RRF_K + 1)).all()
    assert reciprocal_rank_fusion(arrays[::-1]) == pytest.approx(fused)
    chosen = data.draw(st.integers(0, len(arrays) - 1))
    changed = [a.copy() for a in arrays]
    changed[chosen][0, item] = data.draw(st.integers(1, rankings[chosen][item]))
    assert reciprocal_rank_fusion(changed)[0, item] >= fused[0, item]
    changed[chosen][0, item] = np.inf
    others = reciprocal_rank_fusion([a for i, a in enumerate(arrays) if i != chosen] or [np.full((1, 6), np.inf)])
    assert reciprocal_rank_fusion(changed)[0, item] == pytest.approx(others[0, item])


def test_what_both_rankings_put_first_is_first(found: list[Passage]) -> None:
    hit = HybridIndex(found, hashed).search("zolamide in pregnancy", k=1)[0]
    assert hit.passage.section == "3"
    assert (hit.lexical_rank, hit.dense_rank) == (1, 1)
    assert hit.score == pytest.approx(2 / (RRF_K + 1))


def test_meaning_finds_what_no_word_of_the_query_says(found: list[Passage]) -> None:
    def by_topic(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1.0, 0] if re.search("pregnan|expecting", t) else [0, 1.0] for t in texts], dtype=np.float32)

    first = HybridIndex(found, by_topic).search("expecting mothers", k=1)[0]
    assert first.passage.section == "3"
    assert first.lexical_rank is None


def test_words_find_what_embeddings_cannot_tell_apart(found: list[Passage]) -> None:
    flat = HybridIndex(found, lambda texts: np.ones((len(texts), 2), dtype=np.float32))
    assert "q24h" in flat.search("q24h", k=1)[0].passage.text
    assert "eGFR" in flat.search("kidneys with an egfr under 30", k=1)[0].passage.text


def test_headings_are_searched(found: list[Passage]) -> None:
    assert HybridIndex(found, hashed).search("duration", k=1)[0].passage.section == "2"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=30), max_size=5), st.integers(0, 9))
def test_a_batch_gives_what_single_searches_give(queries: list[str], k: int) -> None:
    index = HybridIndex(passages([(SOURCE, DOCUMENT)]), hashed)
    batch = index.search_batch(queries, k)
    assert batch == [index.search(query, k) for query in queries]
    assert all(len(hits) == min(k, len(index.passages)) for hits in batch)


def test_an_index_of_nothing_or_of_stop_words_finds_nothing_by_words() -> None:
    assert HybridIndex([], hashed).search("dose") == []
    only = HybridIndex(passages([(SOURCE, "To be or not to be.")]), hashed)
    assert [hit.lexical_rank for hit in only.search("to be")] == [None]


# Recall


def measured(examples: Sequence[Example], recommendations: Sequence[Recommendation]) -> dict[tuple[str, ...], float]:
    rows = measure_recall(
        examples,
        recommendations,
        passages([(SOURCE, DOCUMENT)]),
        hashed,
        split="validation",
        settings=EvaluationSettings(bootstrap=50),
    )
    assert all(r.suite == "retrieval" and r.split == "validation" and r.low <= r.value <= r.high for r in rows)
    return {(r.model, r.stratum, r.metric): r.value for r in rows}


RECOMMENDATIONS = [
    recommendation("dose", "The dose of zolamide is 20 mg once daily."),
    recommendation("kidney", "The dose is halved when eGFR is below 30 mL/min."),
    recommendation("duration", "Adults take zolamide for 5 days."),
    recommendation("pregnancy", "Zolamide is not given in pregnancy."),
]


def test_recall_is_the_share_of_statements_whose_recommendation_is_found() -> None:
    examples = [
        example("a", "Pregnancy: not given", "pregnancy"),
        example("b", "Adults take it for 50 days", "duration", Label.UNSAFE),
        example("c", "In pregnancy it is not given", "duration"),  # finds the wrong one first, whatever ranks
        example("d", "The weather is fine", None, Label.OUT_OF_SCOPE),
    ]
    values = measured(examples, RECOMMENDATIONS)
    for model in ("bm25", "dense", "hybrid"):
        for target in ("recommendations", "passages"):
            assert values[model, f"{target}, all", "recall@1"] == pytest.approx(2 / 3, abs=1e-4)
            assert values[model, f"{target}, safe", "recall@1"] == 0.5
            assert values[model, f"{target}, unsafe", "recall@1"] == 1.0
    assert values["hybrid", "recommendations, all", "recall@10"] == 1.0


def test_an_interval_is_wide_where_one_family_decides() -> None:
    one = [example(f"w{i}", "Pregnancy: not given", "duration", family="wrong") for i in range(20)]
    many = [example(f"r{i}", "Pregnancy: not given", "pregnancy", family=f"right{i}") for i in range(20)]
    row = measure_recall(
        [*one, *many], RECOMMENDATIONS, [], hashed, split="test_ood", settings=EvaluationSettings(bootstrap=200)
    )[0]
    assert (row.value, row.n) == (0.5, 40)
    assert row.low < 0.3  # the family of twenty was drawn twice or more
    assert row.high == 1.0  # or not at all


def test_recall_of_nothing_has_no_rows_and_an_unknown_recommendation_is_an_error() -> None:
    assert measured([example("d", "Fine weather", None, Label.OUT_OF_SCOPE)], RECOMMENDATIONS) == {}
    with pytest.raises(CorpusError, match=r"d: about 'gone'.*guideline does not have"):
        measured([example("d", "Fine weather", "gone")], RECOMMENDATIONS)


# The stage


def test_stage_writes_passages_and_says_what_the_index_finds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    write_rows(folder.recommendations, RECOMMENDATIONS)
    summary = run_passages([(SOURCE, DOCUMENT)], hashed, folder, progress())
    assert read_passages(folder) == passages([(SOURCE, DOCUMENT)])
    assert summary == {"passages": 4, "recommendations found at 5": "4 of 4"}
    assert capfd.readouterr() == ("", "")  # bm25s draws no bars of its own


def test_stage_says_what_is_missing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(StageMissing, match="guardline train passages"):
        read_passages(folder)
    with pytest.raises(StageMissing, match="guardline train extract"):
        run_passages([(SOURCE, DOCUMENT)], hashed, folder, progress())
    write_rows(folder.recommendations, RECOMMENDATIONS)
    with pytest.raises(PackError, match=r"guideline\.md: no sentence"):
        run_passages([(SOURCE, "# 1. Only a heading\n")], hashed, folder, progress())
    assert not folder.passages.exists()


def test_shipped_recommendations_find_their_own_passages_with_the_shipped_encoder(tmp_path: Path) -> None:
    pack = Pack.load(DEFAULT_PACK)
    source = pack.spec.sources[0]
    document = pack.resolve(source.path).read_text(encoding="utf-8")
    folder = RunFolder(tmp_path)
    recommendations = extract(pack)
    write_rows(folder.recommendations, recommendations)
    embedder = Embedder(*load_pretrained(DEFAULT_ENCODER), max_length=256, sub_batch=32)
    summary = run_passages([(source, document)], embedder.embed, folder, progress())
    found, _, of = str(summary["recommendations found at 5"]).split()
    assert of == "50"
    assert int(found) >= 48  # 49 or 50, as the arithmetic of the machine has it
    assert all(any(overlaps(p, r) for p in read_passages(folder)) for r in recommendations)
