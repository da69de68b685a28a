"""A summary says only what its passages say, names them, and says who wrote it and why; what fails is kept apart."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from monitor.text import normalise
from trainer.artifacts import RunFolder, read_json_lines, write_rows
from trainer.errors import StageMissing
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, SourceSpec, extract
from trainer.guideline.retrieval import HybridIndex, passages, read_passages, sentences_of
from trainer.guideline.summaries import (
    EXTRACTIVE,
    CitedSentence,
    Summary,
    SummaryAnswer,
    SummarySentence,
    context_for,
    derived_questions,
    read_summaries,
    rejected_file,
    run_summaries,
    search_query,
    unsupported,
)
from trainer.llm.port import Completion, Request, Status, response_schema
from trainer.types import Passage, Recommendation

SOURCE = SourceSpec(path="guideline.md", title="Guideline", version="1")
DOCUMENT = """# Zolamide for mumbles

## 1. Dose
Adults receive a loading dose of 200 mg on day 1, then 100 mg once daily. It must not be given twice daily.
Zolamide may be added when fever persists.

## 2. Kidney
No dose adjustment is needed in renal impairment. Zolamide is recommended for adults who do not need oxygen, and
prednisone is not.

## 3. Uses that are not recommended
- Prevention of mumbles
- Treatment of neonates

## 4. Duration
The course is 5 days for outpatients. It can be extended to 10 days in severe illness.
"""
ASK = "How long is the course of zolamide?"


def hashed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts as hashed bags of words."""
    result = np.zeros((len(texts), 512), dtype=np.float32)
    for row, text in zip(result, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 512] += 1
    return result


@dataclass
class Scripted:
    """A completer that answers what it is told to."""

    answers: Sequence[Completion]
    model: str = "scripted"
    requests: list[Request] = field(default_factory=list)

    def complete(
        self, requests: Sequence[Request], advance: Callable[[int], None] = lambda _: None
    ) -> list[Completion]:
        self.requests += requests
        advance(len(requests))
        return list(self.answers)


def said(*sentences: tuple[str, list[str]]) -> Completion:
    answer = SummaryAnswer(sentences=[CitedSentence(text=text, passages=names) for text, names in sentences])
    return Completion(Status.OK, answer, answer.model_dump_json(), "scripted", 1, 1)


def unusable(status: Status, reason: str) -> Completion:
    return Completion(status, None, "", "scripted", 1, 1, reason)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    result = RunFolder(tmp_path)
    write_rows(result.passages, passages([(SOURCE, DOCUMENT)]))
    return result


def summarise(
    folder: RunFolder,
    questions: Sequence[str],
    completer: Scripted | None = None,
    subject: tuple[str, str] = ("zolamide", "mumbles"),
) -> tuple[list[Summary], list[dict], dict]:
    progress = Progress(console=Console(file=io.StringIO()))
    outcome = run_summaries(questions, *subject, folder, hashed, progress, completer)
    assert progress.finished
    return read_summaries(folder), list(read_json_lines(rejected_file(folder))), outcome


def why_not(text: str, *cited: str) -> str | None:
    own = [p for p in passages([(SOURCE, DOCUMENT)]) if p.section in cited]
    return unsupported(text, own, treatment="zolamide", condition="mumbles")


# Verification


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("Adults receive a loading dose of 200 mg of zolamide on day 1.", "1"),
        ("Zolamide must not be given twice a day.", "1"),
        ("Zolamide may be added if fever persists.", "1"),
        ("In renal impairment the dose needs no adjustment.", "2"),
        ("Prednisone is not recommended for adults.", "2"),
        ("For outpatients the course is five days.", "4"),
    ],
)
def test_what_the_passages_say_in_other_words_stands(text: str, section: str) -> None:
    assert why_not(text, section) is None


@pytest.mark.parametrize(
    ("text", "section", "reason"),
    [
        ("Adults receive a loading dose of 300 mg on day 1.", "1", "do not say 300 mg"),
        ("Adults receive a loading dose of 200 g on day 1.", "1", "do not say 200 g"),
        ("Adults receive a loading dose of 100 mg on day 1.", "1", "another clause"),
        ("The course is 10 days for outpatients.", "4", "another clause"),
        ("Outpatients take a course of five weeks.", "4", "do not say five weeks"),
        ("Zolamide must be given twice daily.", "1", "affirms what its passages deny"),
        ("Zolamide may not be added when fever persists.", "1", "denies what its passages affirm"),
        ("A dose adjustment is needed in renal impairment.", "2", "affirms what its passages deny"),
        ("Prednisone is recommended.", "2", "affirms what its passages deny"),
        ("Zolamide is not recommended.", "2", "denies what its passages affirm"),
        ("Prevention of mumbles is recommended.", "3", "affirms what its passages deny"),
        ("Zolamide must be added when fever persists.", "2", "do not say 'must'"),
        ("The course is always 5 days.", "4", "do not say 'always'"),
        ("Nausea and headache are common with zolamide.", "1", "% of its words"),
        ("Zolamide is not used in children without a catheter.", "4", "of its words"),
        ("It can be extended to 10 days in severe illness.", "4", "without the sentence before it"),
        ("Of the.", "4", "says nothing"),
        ("The course is 5 days for outpatients.", "none", "cites no passage"),
    ],
)
def test_what_they_do_not_say_falls_with_the_reason(text: str, section: str, reason: str) -> None:
    assert reason in str(why_not(text, section))


def shipped() -> list[Passage]:
    pack = Pack.load(DEFAULT_PACK)
    source = pack.spec.sources[0]
    return passages([(source, pack.resolve(source.path).read_text(encoding="utf-8"))])


SHIPPED = shipped()


@settings(max_examples=50)
@given(st.sampled_from(SHIPPED), st.data())
def test_a_number_that_the_passage_does_not_have_never_stands(passage: Passage, data: st.DataObject) -> None:
    start, end = data.draw(st.sampled_from(sentences_of(passage.text)))
    sentence = normalise(passage.text[start:end])
    numbers = list(re.finditer(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.])", sentence))
    if not numbers:
        return
    chosen = data.draw(st.sampled_from(numbers))
    other = data.draw(st.integers(200, 10_000).filter(lambda n: str(n) not in f"{passage.heading} {passage.text}"))
    changed = sentence[: chosen.start()] + str(other) + sentence[chosen.end() :]
    assert unsupported(changed, [passage], treatment="remdesivir", condition="COVID-19") is not None


@pytest.mark.parametrize("passage", SHIPPED, ids=lambda passage: passage.id)
def test_the_guidelines_own_sentences_stand(passage: Passage) -> None:
    for start, end in sentences_of(passage.text):
        sentence = normalise(passage.text[start:end])
        reason = unsupported(sentence, [passage], treatment="remdesivir", condition="COVID-19")
        assert reason in (None, "cannot be read without the sentence before it"), sentence


def test_most_curated_recommendations_stand_on_the_passages_they_were_taken_from() -> None:
    def problem(r: Recommendation) -> str | None:
        cited = [p for p in SHIPPED if p.start < r.end and r.start < p.end]
        return unsupported(r.text, cited, treatment="remdesivir", condition="COVID-19")

    recommendations = extract(Pack.load(DEFAULT_PACK))
    assert sum(problem(r) is None for r in recommendations) >= 0.9 * len(recommendations)


# With a language model


def test_verified_sentences_are_kept_with_their_passages_and_the_others_with_their_reasons(folder: RunFolder) -> None:
    right = "The course of zolamide is 5 days for outpatients."
    completer = Scripted(
        [
            said(
                (right, ["[4-p1]"]),
                ("The course of zolamide is 7 days for outpatients.", ["4-p1"]),
                ("The course of zolamide is 5 days for outpatients.", ["4-p1"]),
                ("In severe illness zolamide can be extended to 10 days.", ["9-p9"]),
            )
        ]
    )
    summaries, rejected, outcome = summarise(folder, [ASK], completer)
    assert summaries == [Summary(ASK, (SummarySentence(right, ("4-p1",)),), right, "scripted")]
    assert [(row["question"], row["writer"]) for row in rejected] == [(ASK, "scripted")] * 3
    assert [row["reason"] for row in rejected] == [
        "its passages do not say 7 days",
        "is said twice",
        "cites '9-p9', which it was not given",
    ]
    assert (outcome["sentences"], outcome["rejected"], outcome["extractive"]) == (1, 3, 0)


@pytest.mark.parametrize(
    ("completion", "fallback"),
    [
        (unusable(Status.REFUSED, "policy"), "refused: policy"),
        (unusable(Status.MALFORMED, "cut off"), "malformed: cut off"),
        (unusable(Status.FAILED, "no network"), "failed: no network"),
        (said(("Zolamide cures everything.", ["4-p1"])), "no sentence passed the checks"),
    ],
)
def test_the_twin_takes_the_place_of_an_answer_that_cannot_be_used(
    folder: RunFolder, completion: Completion, fallback: str
) -> None:
    summaries, _, outcome = summarise(folder, [ASK], Scripted([completion]))
    assert (summaries[0].writer, summaries[0].fallback) == (EXTRACTIVE, fallback)
    assert summaries[0].sentences
    assert outcome.get(completion.status.value, 0) == (completion.status is not Status.OK)


def test_an_answer_without_sentences_stands(folder: RunFolder) -> None:
    summaries, _, outcome = summarise(folder, [ASK], Scripted([said()]))
    assert summaries == [Summary(ASK, (), "", "scripted")]
    assert outcome["unanswered"] == 1


def test_the_request_holds_question_and_passages_and_asks_for_a_schema(folder: RunFolder) -> None:
    completer = Scripted([said(), said()])
    summarise(folder, [ASK, "Is it safe?", ASK], completer)
    assert len(completer.requests) == 2  # a question is asked once
    request = completer.requests[0]
    assert request.prompt == "summarise"
    assert ASK in request.user
    assert "[4-p1] (section 4, Duration)\nThe course is 5 days" in request.user
    assert response_schema(request.response)["required"] == ["sentences"]


@settings(max_examples=8)
@given(st.lists(st.tuples(st.sampled_from([*SHIPPED, None]), st.lists(st.sampled_from(["1.1-p1", "x", "2.1-p1"])))))
def test_every_sentence_of_a_summary_cites_passages_that_exist(
    tmp_path_factory: pytest.TempPathFactory, answer: list[tuple[Passage | None, list[str]]]
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    write_rows(folder.passages, SHIPPED)
    sentences = [
        (p.text, [p.id, *names]) if p and i % 2 else (p.text if p else "", names) for i, (p, names) in enumerate(answer)
    ]
    summaries, rejected, _ = summarise(folder, ["Which dose do adults receive?"], Scripted([said(*sentences)]))
    known = {p.id for p in SHIPPED}
    assert all(s.passages and set(s.passages) <= known for s in summaries[0].sentences)
    if summaries[0].writer != EXTRACTIVE:
        assert len(summaries[0].sentences) + len(rejected) == len(sentences)


# Without


def test_the_twin_answers_in_the_guidelines_own_words(folder: RunFolder) -> None:
    write_rows(folder.passages, SHIPPED)
    summaries, rejected, outcome = summarise(folder, [], subject=("remdesivir", "COVID-19"))
    by_id = {p.id: p for p in SHIPPED}
    assert rejected == []
    assert outcome["extractive"] == outcome["summaries"] == len(summaries) == 18
    for summary in summaries:
        assert 1 <= len(summary.sentences) <= 4
        for sentence in summary.sentences:
            assert all(sentence.text in normalise(by_id[name].text) for name in sentence.passages)
            assert sentence.text in summary.text


def test_a_sentence_that_begins_with_a_pronoun_comes_with_the_one_before(folder: RunFolder) -> None:
    (summary,), _, _ = summarise(folder, ["Can it be extended in severe illness?"])
    extended = [s.text for s in summary.sentences if "extended" in s.text]
    assert extended == ["The course is 5 days for outpatients. It can be extended to 10 days in severe illness."]


def test_items_under_a_heading_that_denies_carry_it(folder: RunFolder) -> None:
    (summary,), _, _ = summarise(folder, ["Neonates?"])
    assert "Uses that are not recommended: Treatment of neonates" in [s.text for s in summary.sentences]
    assert "neonates." in summary.text


def test_headings_ask_where_the_pack_does_not(folder: RunFolder) -> None:
    asked = derived_questions(read_passages(folder), "zolamide", "mumbles")
    assert asked[0] == "What does the guideline say on Dose of zolamide for mumbles?"
    assert len(asked) == 4
    assert derived_questions(passages([(SOURCE, "Take it.")]), "zolamide", "mumbles") == [
        "What does the guideline say on zolamide for mumbles?"
    ]


@pytest.mark.parametrize(
    ("question", "query"),
    [
        ("What does the guideline say on Children under 40 kg of zolamide for mumbles?", "Children under 40 kg"),
        ("Which dose do adults with mumbles receive?", "dose do adults receive"),
        ("When must zolamide be stopped?", "be stopped"),
        ("What is zolamide?", "What is zolamide?"),  # nothing else is asked
    ],
)
def test_a_search_leaves_out_what_all_passages_are_about(question: str, query: str) -> None:
    assert search_query(question, "zolamide", "mumbles") == query


def test_summaries_need_passages(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="guardline train passages"):
        summarise(RunFolder(tmp_path), [])
    with pytest.raises(StageMissing, match="guardline train summaries"):
        read_summaries(RunFolder(tmp_path))


# What a writer of statements reads


def test_context_begins_with_the_recommendations_own_passage(folder: RunFolder) -> None:
    summaries, _, _ = summarise(folder, [])
    quote = "The course is 5 days for outpatients."
    start = DOCUMENT.index(quote)
    own = Recommendation(
        "4-course", "4", "Duration", quote, SOURCE.path, SOURCE.version, quote, start, start + len(quote)
    )
    context = context_for(own, HybridIndex(read_passages(folder), hashed), summaries)
    lines = context.splitlines()
    assert lines[:2] == [
        "Passages of the guideline:",
        "[4-p1] Duration: The course is 5 days for outpatients. It can be extended to 10 days in severe illness.",
    ]
    cited = lines[lines.index("Summary:") + 1 :]
    assert cited[0].endswith("[4-p1]")
    assert len(cited) == len(set(cited)) <= 6
    shown = set(re.findall(r"^\[(.+?)\]", context, re.MULTILINE))
    assert all(set(re.search(r"\[([^]]+)\]$", line)[1].split(", ")) <= shown for line in cited)  # type: ignore[index]
    assert "Summary" not in context_for(own, HybridIndex(read_passages(folder), hashed), [])
