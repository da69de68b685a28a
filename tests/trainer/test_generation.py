"""Stage `generate`: plans, prompts, rows, rejections, and the whole of it against the local API server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress

from tests.trainer.openai_server import KEY, Fault, OpenAIServer, local
from trainer.artifacts import RunFolder, read_json_lines, write_rows
from trainer.llm.completions import CompletionCache, RecordedCompleter
from trainer.llm.costs import estimate
from trainer.llm.openai_completer import OpenAICompleter
from trainer.llm.port import Completion, Request, Status, ignore
from trainer.statements import corpus, generation
from trainer.statements.generation import (
    BRIEFS,
    Context,
    GenerationSettings,
    SafeStatements,
    UnsafeStatements,
    forecast,
    plan_safe,
    plan_unsafe,
    preview,
)
from trainer.types import Difficulty, Label, Recommendation

SMALL = GenerationSettings(
    safe_per_recommendation_and_style=4, unsafe_easy=1, unsafe_medium=1, unsafe_hard=2, styles=("a", "k")
)
CONTEXT = Context("COVID-19", "remdesivir", {"r1": ["A loading dose of 200 mg on day 1 is usual."]})


def recommendation(identifier: str, text: str) -> Recommendation:
    return Recommendation(identifier, "2", "Dose", text, "g", "1", text, 0, len(text))


RECOMMENDATIONS = [
    recommendation("r1", "Adults receive a single loading dose of 200 mg on day 1."),
    recommendation("r2", "Remdesivir is given for 5 days."),
]


class Fake:
    """A completer that answers from functions; None: no answer."""

    model = "fake"

    def __init__(self, answer: Callable[[Request], Any]) -> None:
        self.answer = answer

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        advance(len(requests))
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion:
        answer = self.answer(request)
        if isinstance(answer, Status):
            return Completion(answer, None, "raw text", "fake", 1, 1, "it did not work")
        return Completion(Status.OK, request.response.model_validate(answer), "", "fake", 1, 1)


def safe_and_unsafe(request: Request) -> dict[str, Any]:
    number = request.max_tokens  # any number that the request has
    if request.response is SafeStatements:
        return {"statements": [{"category": "dose", "text": f"{request.user[-200:]} {n}"[-80:]} for n in range(4)]}
    originals = [line for line in request.user[request.user.index("Originals") :].splitlines() if line[:1].isdigit()]
    return {
        "statements": [
            {"original": n, "category": "dose", "change": "x -> y", "text": f"wrong {number} {line}"[:90]}
            for n, line in enumerate(originals, 1)
        ]
    }


def run(folder: Path, answer: Callable[[Request], Any], wanted: GenerationSettings = SMALL) -> RunFolder:
    own = RunFolder(folder)
    with Progress(disable=True) as progress:
        generation.run(RECOMMENDATIONS, CONTEXT, own, Fake(answer), wanted, progress)
    return own


def test_briefs_cover_the_styles_and_categories_of_the_shipped_corpus() -> None:
    files = list((Path(corpus.__file__).parents[1] / "data" / "corpus").glob("llm_style_*.jsonl"))
    assert {file.stem.removeprefix("llm_style_") for file in files} == set(BRIEFS.styles)
    assert {row["category"] for file in files for row in read_json_lines(file)} == set(BRIEFS.categories)
    assert set(BRIEFS.difficulties) == set(Difficulty)


def test_plan_asks_each_recommendation_in_each_style_and_twice_the_same() -> None:
    tasks = plan_safe(RECOMMENDATIONS, CONTEXT, SMALL)
    assert [(t.recommendation, t.style) for t in tasks] == [("r1", "a"), ("r1", "k"), ("r2", "a"), ("r2", "k")]
    assert tasks == plan_safe(RECOMMENDATIONS, CONTEXT, SMALL)
    assert RECOMMENDATIONS[0].text in tasks[0].request.user
    assert "A loading dose of 200 mg on day 1 is usual." in tasks[0].request.user
    assert "What the guideline says around it" not in tasks[2].request.user
    assert BRIEFS.styles["k"].brief in tasks[1].request.user


@settings(max_examples=30)
@given(st.integers(0, 9), st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(0, 5))
def test_unsafe_plan_deals_all_parents_before_one_twice(safe: int, counts: list[int], seed: int) -> None:
    easy, medium, hard = counts
    own = replace(SMALL, unsafe_easy=easy, unsafe_medium=medium, unsafe_hard=hard, seed=seed, styles=("a",))
    parents = [{"id": f"p{n}", "recommendation": "r1", "style": "a", "text": f"statement {n}"} for n in range(safe)]
    tasks = plan_unsafe(RECOMMENDATIONS, CONTEXT, parents, own)
    assert tasks == plan_unsafe(RECOMMENDATIONS, CONTEXT, parents[::-1], own)
    for task in tasks:
        assert task.difficulty
        assert len(set(task.parents)) == task.wanted == min(own.unsafe(task.difficulty), safe)
    times = Counter(parent for task in tasks for parent in task.parents)
    dealt = sum(times.values())
    if safe and dealt:
        assert max(times.values()) - min((*times.values(), dealt // safe)) <= 1


def test_rows_are_corpus_rows_with_their_origin(tmp_path: Path) -> None:
    folder = run(tmp_path, safe_and_unsafe)
    rows = [row for style in SMALL.styles for row in read_json_lines(folder.generated / f"llm_style_{style}.jsonl")]
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows) == 32
    assert Counter(row["label"] for row in rows) == {Label.SAFE: 16, Label.UNSAFE: 16}
    for row in rows:
        assert len(row["prompt_sha256"]) == 64
        assert row["model"] == "fake"
        if row["label"] == Label.UNSAFE:
            parent = by_id[row["parent"]]
            assert parent["label"] == Label.SAFE
            assert parent["recommendation"] == row["recommendation"]
    examples, rejected = corpus.load(folder.generated, RECOMMENDATIONS)
    assert len(examples) == 32
    assert not rejected
    assert not list(read_json_lines(folder.generated / "rejected.jsonl"))


def test_nothing_that_cannot_be_used_is_dropped(tmp_path: Path) -> None:
    long = "long " * 100

    def answer(request: Request) -> Any:
        if request.response is UnsafeStatements:
            item = {"category": "dose", "change": "a -> b"}
            return {
                "statements": [
                    {**item, "original": 1, "text": "First of all."},  # the parent itself
                    {**item, "original": 9, "text": "There is no such original."},
                    {**item, "original": 1, "text": "A good variant."},
                    {**item, "original": 1, "text": "Another one of the same."},
                ]
            }
        if "r2" in request.user:
            return Status.REFUSED
        texts = ["First of all.", "first of all. ", "!?", long, "Second."]
        return {"statements": [{"category": "dose", "text": text} for text in texts]}

    few = replace(SMALL, styles=("a",), unsafe_easy=2, unsafe_medium=0, unsafe_hard=0)
    folder = run(tmp_path, answer, few)
    reasons = Counter(row["reason"] for row in read_json_lines(folder.generated / "rejected.jsonl"))
    used = [row["text"] for row in read_json_lines(folder.generated / "llm_style_a.jsonl")]
    assert reasons["refused: it did not work"] == 1
    assert reasons["no letters in the text"] == 1
    assert reasons["longer than 400 characters"] == 1
    assert reasons["there is no original 9"] == 1
    assert reasons["repeats another statement or its original"] == 2
    assert reasons["a second variant of original 1"] == 1
    assert used[:2] == ["First of all.", "Second."]
    assert len(used) + sum(reasons.values()) == 5 + 1 + 4


def test_answer_with_too_few_or_too_many_is_reported(tmp_path: Path) -> None:
    def answer(request: Request) -> Any:
        number = 6 if "r1" in request.user else 3
        return {"statements": [{"category": "dose", "text": f"Statement {n}."} for n in range(number)]}

    few = replace(SMALL, styles=("a",), unsafe_easy=0, unsafe_medium=0, unsafe_hard=0)
    folder = run(tmp_path, answer, few)
    reasons = Counter(row["reason"] for row in read_json_lines(folder.generated / "rejected.jsonl"))
    assert reasons == {"more than the 4 statements asked for": 2, "only 3 of 4 statements were given": 1}


def test_files_of_styles_no_longer_asked_for_are_removed(tmp_path: Path) -> None:
    run(tmp_path, safe_and_unsafe)
    folder = run(tmp_path, safe_and_unsafe, replace(SMALL, styles=("k",)))
    assert [file.name for file in folder.generated.glob("llm_style_*")] == ["llm_style_k.jsonl"]


def test_preview_prints_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    preview([task.request for task in plan_safe(RECOMMENDATIONS, CONTEXT, SMALL)], 2)
    shown = capsys.readouterr().out
    assert shown.count("--- ") == 2
    assert RECOMMENDATIONS[0].text in shown
    assert RECOMMENDATIONS[1].text not in shown


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LOCAL_KEY", KEY)
    with OpenAIServer() as running:
        yield running


@pytest.mark.parametrize("batch", [False, True])
def test_whole_stage_against_the_api_costs_no_more_than_estimated(
    server: OpenAIServer, tmp_path: Path, batch: bool
) -> None:
    provider = local(server)
    folder = RunFolder(tmp_path)
    requests = forecast(RECOMMENDATIONS, CONTEXT, SMALL)
    before = estimate(requests, provider, CompletionCache(folder.completions), batch=batch)
    assert not folder.completions.exists(), "an estimate leaves nothing behind"
    server.faults = [Fault.RATE_LIMIT, Fault.NONE, Fault.SERVER_ERROR]
    completer = OpenAICompleter(provider, CompletionCache(folder.completions), batch=batch)
    with Progress(disable=True) as progress:
        said = generation.run(RECOMMENDATIONS, CONTEXT, folder, completer, SMALL, progress)
    assert said == {
        "safe": 16, "unsafe": 16, "rejected": 0, "requests": len(requests), "requests without an answer": 0,
    }  # fmt: skip
    assert before.price is not None
    assert 0 < server.cost(1, 4, discount=0.5) <= before.price
    examples, rejected = corpus.load(folder.generated, RECOMMENDATIONS)
    assert len(examples) == 32
    assert not rejected

    # Off-line, from what was recorded, the files are the same to the byte.
    written = (folder.generated / "llm_style_a.jsonl").read_bytes()
    shutil.rmtree(folder.generated)
    recorded = RecordedCompleter(provider, CompletionCache(folder.completions))
    assert set(forecast(RECOMMENDATIONS, CONTEXT, SMALL, recorded)) != set(requests)
    again = estimate(forecast(RECOMMENDATIONS, CONTEXT, SMALL, recorded), provider, CompletionCache(folder.completions))
    assert again.cached == again.requests
    with Progress(disable=True) as progress:
        generation.run(RECOMMENDATIONS, CONTEXT, folder, recorded, SMALL, progress)
    assert (folder.generated / "llm_style_a.jsonl").read_bytes() == written


_RUN = """
import sys
from pathlib import Path
from rich.progress import Progress
from trainer.statements import generation
from trainer.artifacts import RunFolder, read_rows
from trainer.llm.completions import CompletionCache
from trainer.llm.openai_completer import OpenAICompleter
from trainer.llm.providers import load_provider
from trainer.types import Recommendation

folder = RunFolder(Path(sys.argv[1]))
recommendations = read_rows(folder.recommendations, Recommendation)
settings = generation.GenerationSettings(4, 1, 1, 2, ("a", "k"))
context = generation.Context("COVID-19", "remdesivir", {"r1": ["A loading dose of 200 mg on day 1 is usual."]})
completer = OpenAICompleter(load_provider(str(folder.root / "provider.json")), CompletionCache(folder.completions))
with Progress(disable=True) as progress:
    generation.run(recommendations, context, folder, completer, settings, progress)
"""


def test_killed_stage_goes_on_where_it_stopped(server: OpenAIServer, tmp_path: Path) -> None:
    provider = local(server, in_flight=2)
    (tmp_path / "provider.json").write_text(provider.model_dump_json())
    folder = RunFolder(tmp_path)
    write_rows(folder.recommendations, RECOMMENDATIONS)
    server.hold_after = 6  # in the second round
    with subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path)]) as process:
        server.holding.wait(120)
        process.kill()
    server.hold_after = None
    server.release.set()

    completer = OpenAICompleter(provider, CompletionCache(folder.completions))
    with Progress(disable=True) as progress:
        generation.run(RECOMMENDATIONS, CONTEXT, folder, completer, SMALL, progress)
    assert len(list(read_json_lines(folder.generated / "llm_style_a.jsonl"))) == 16
    assert 0 < len(server.paid_twice) <= 2
    assert len(server.paid) == 16 + len(server.paid_twice)
