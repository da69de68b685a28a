"""The port: keys, schemas, prompts, judgement of replies, the cache, and one contract for both completers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tests.trainer.openai_server import KEY, Fact, Fault, OpenAIServer, fact, local, strict_problem
from trainer.errors import CompletionsError, PromptError
from trainer.llm import prompts
from trainer.llm.chat import Reply, body, input_bound, interpret, key_of, messages
from trainer.llm.completions import ANSWERS, CompletionCache, RecordedCompleter
from trainer.llm.openai_completer import OpenAICompleter
from trainer.llm.port import Completer, Request, Status, request_key, response_schema
from trainer.llm.providers import BUILT_IN


class Colour(BaseModel):
    name: str


class Dot(BaseModel):
    kind: Literal["dot"] = "dot"


class Line(BaseModel):
    kind: Literal["line"] = "line"
    length: float | None = Field(None, description="in mm", ge=0)


class Drawing(BaseModel):
    title: str = Field(min_length=1, max_length=40)
    properties: list[Colour]  # a field that is named like a word of JSON schema
    colour: Colour = Field(description="the main one")
    shape: Dot | Line = Field(discriminator="kind")


def reply(content: str | None = '{"text": "x"}', **changes: object) -> Reply:
    return Reply(key="k", prompt="fact", provider="p", model="m", content=content, **changes)  # type: ignore[arg-type]


def test_schema_stays_in_the_strict_subset() -> None:
    schema = response_schema(Drawing)
    assert strict_problem(schema) is None
    assert set(schema["properties"]) == {"title", "properties", "colour", "shape"}
    assert strict_problem(Drawing.model_json_schema())


@pytest.mark.parametrize(
    "other",
    [
        fact("Something else."),
        fact(system="Be long."),
        fact(response=Colour),
        fact(max_tokens=1),
        fact(temperature=1.0),
        fact(seed=1),
    ],
)
def test_key_covers_what_shapes_the_answer(other: Request) -> None:
    assert request_key(other, "m", "https://x/v1") != request_key(fact(), "m", "https://x/v1")


def test_key_covers_provider_but_not_the_prompts_name() -> None:
    own = request_key(fact(), "m", "https://x/v1")
    assert own == request_key(fact(prompt="renamed"), "m", "https://x/v1/")
    assert own != request_key(fact(), "n", "https://x/v1")
    assert own != request_key(fact(), "m", "https://y/v1")
    assert own != request_key(fact(), "m", "https://x/v1", {"thinking": True})


@pytest.fixture
def prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts._environment.cache_clear()
    yield lambda text: (tmp_path / "p.md").write_text(text, encoding="utf-8") and None
    prompts._environment.cache_clear()


def test_prompt_is_rendered_without_escaping(prompt: Callable[[str], None]) -> None:
    prompt("# System\nBe {{ how }}.\n\n# User\n{% for x in items %}\n- {{ x }}\n{% endfor %}\n")
    assert prompts.render("p", how="<brief>", items=["a & b", "# User"]) == ("Be <brief>.", "- a & b\n- # User")


@pytest.mark.parametrize("text", ["# User\nx\n# System\ny\n", "# System\nx\n", "x"])
def test_prompt_without_its_headings_is_an_error(prompt: Callable[[str], None], text: str) -> None:
    prompt(text)
    with pytest.raises(PromptError, match="headings"):
        prompts.render("p")


def test_prompt_with_a_missing_value_is_an_error(prompt: Callable[[str], None]) -> None:
    prompt("# System\n{{ gone }}\n# User\n")
    with pytest.raises(PromptError, match="gone"):
        prompts.render("p")
    with pytest.raises(PromptError, match="no such prompt"):
        prompts.render("q")


@pytest.mark.parametrize(
    ("given_reply", "status", "reason"),
    [
        (reply(), Status.OK, None),
        (reply('```json\n{"text": "x"}\n```'), Status.OK, None),
        (reply(None, refusal="No."), Status.REFUSED, "No."),
        (reply("", finish_reason="content_filter"), Status.REFUSED, "content filter"),
        (reply('{"text": "x"}', finish_reason="length"), Status.MALFORMED, "cut off"),
        (reply('{"text": "x'), Status.MALFORMED, "JSON"),
        (reply('{"text": 3}'), Status.MALFORMED, "text"),
        (reply(" "), Status.MALFORMED, "empty"),
        (reply(None), Status.MALFORMED, "empty"),
    ],
)
def test_reply_is_judged(given_reply: Reply, status: Status, reason: str | None) -> None:
    completion = interpret(fact(), given_reply)
    assert completion.status is status
    assert (completion.value == Fact(text="x")) == (status is Status.OK)
    assert reason is None or reason in (completion.reason or "")


@given(st.text())
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    assert interpret(fact(), reply(text)).status in (Status.OK, Status.MALFORMED)


def test_schema_goes_into_the_prompt_where_the_provider_takes_none() -> None:
    deepseek = BUILT_IN["deepseek"]
    content = body(fact(), deepseek, messages(fact(), deepseek))
    assert content["response_format"] == {"type": "json_object"}
    assert '"required": ["text"]' in content["messages"][0]["content"]
    assert "seed" not in content
    assert content["thinking"] == {"type": "disabled"}


@given(st.text(max_size=300))
def test_token_bound_is_never_below_the_bytes_of_the_text(text: str) -> None:
    own = BUILT_IN["gpt-4o-mini"]
    asked = fact(user=text.encode(errors="replace").decode())
    assert input_bound(body(asked, own, messages(asked, own))) > len(asked.user.encode())


def test_half_a_line_at_the_end_of_the_cache_is_cut_off(tmp_path: Path) -> None:
    first, second = reply(), reply('{"text": "y"}').model_copy(update={"key": "l"})
    cache = CompletionCache(tmp_path)
    with cache.writing():
        cache.put(first)
    with (tmp_path / ANSWERS).open("a") as file:
        file.write(second.model_dump_json()[:20])
    again = CompletionCache(tmp_path)
    assert (again.get("k"), again.get("l")) == (first, None)
    with again.writing():
        again.put(second)
    assert CompletionCache(tmp_path).get("l") == second


def test_unreadable_line_of_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / ANSWERS).write_text(reply().model_dump_json() + "\n{}\n")
    with pytest.raises(CompletionsError, match=f"{ANSWERS}:2"):
        CompletionCache(tmp_path)


def test_second_writer_is_refused_and_a_later_one_sees_the_answers(tmp_path: Path) -> None:
    first, second = CompletionCache(tmp_path), CompletionCache(tmp_path)
    with first.writing():
        first.put(reply())
        with pytest.raises(CompletionsError, match="another process"), second.writing():
            pass
    with second.writing():
        assert second.get("k") == reply()


# One contract, both completers. The recorded side is given what the other one has been answered.


@pytest.fixture(params=["online", "batch", "recorded"])
def completer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Completer, list[Request]]]:
    monkeypatch.setenv("LOCAL_KEY", KEY)
    asked = [fact(f"Say {n}.") for n in range(4)]
    with OpenAIServer(answer=lambda b: json.dumps({"text": b["messages"][-1]["content"]})) as server:
        faults = {1: Fault.REFUSAL, 3: Fault.NOT_JSON}
        settings = local(server, in_flight=1)
        server.faults = [faults.get(n, Fault.NONE) for n in range(4)]
        server.batch_faults = faults
        online = OpenAICompleter(settings, CompletionCache(tmp_path), batch=request.param == "batch")
        server.faults += [Fault.AGAINST_SCHEMA]
        if request.param == "batch":
            server.faults = [Fault.AGAINST_SCHEMA]  # for the repair
        if request.param == "recorded":
            online.complete(asked)
            yield RecordedCompleter(settings, CompletionCache(tmp_path)), asked
        else:
            yield online, asked


def test_contract_one_completion_each_in_order(completer: tuple[Completer, list[Request]]) -> None:
    own, asked = completer
    advanced: list[int] = []
    completions = own.complete([*asked, asked[0]], advanced.append)
    assert [c.status for c in completions] == [Status.OK, Status.REFUSED, Status.OK, Status.MALFORMED, Status.OK]
    assert sum(advanced) == 5
    assert completions[0] == completions[4]
    assert completions[2].value == Fact(text="Say 2.")
    assert completions[1].value is None
    assert "can't help" in (completions[1].reason or "")
    assert completions[3].reason
    assert all(c.model == own.model == "gpt-4o-mini" for c in completions)
    assert all(c.input_tokens > 0 and c.output_tokens > 0 for c in completions)
    assert own.complete(asked) == completions[:4]
    assert own.complete([]) == []


def test_recorded_completer_reports_what_is_missing(tmp_path: Path) -> None:
    settings = BUILT_IN["gpt-4o-mini"]
    [completion] = RecordedCompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.FAILED
    assert "recorded" in (completion.reason or "")
    assert completion.key == key_of(fact(), settings)
