"""The callback handler in LangChain itself, with its fake models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM, FakeStreamingListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate

from monitor.producers.langchain import GuardlineHandler
from tests.producers.recorder import Recorder

TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def config(recorder: Recorder) -> Any:
    return {"callbacks": [GuardlineHandler(recorder, tenant="north")], "metadata": {"conversation_id": "c-1"}}


def message() -> AIMessage:
    return AIMessage(content=TEXT, id="msg-1", response_metadata={"model_name": "gpt-4o-mini"})


def model(*messages: AIMessage) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(messages or (message(),)))


def test_an_answer(recorder: Recorder, config: Any) -> None:
    assert model().invoke("How?", config=config).content == TEXT
    assert recorder.only == {
        "text": TEXT, "id": "msg-1", "model": "gpt-4o-mini", "tenant": "north", "conversation_id": "c-1",
        "partial": False,
    }  # fmt: skip


async def test_async_in_a_chain(recorder: Recorder, config: Any) -> None:
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model()
    await chain.ainvoke({"question": "How?"}, config={**config, "metadata": {"thread_id": "t-1", "tenant": "south"}})
    assert (recorder.only["conversation_id"], recorder.only["tenant"]) == ("t-1", "south")


def test_a_batch(recorder: Recorder, config: Any) -> None:
    model(message(), AIMessage(content="Give 100 mg.", id="msg-2")).batch(["a", "b"], config=config)
    assert sorted(answer["id"] for answer in recorder.answers) == ["msg-1", "msg-2"]


def test_a_stream_is_published_at_its_end(recorder: Recorder, config: Any) -> None:
    chunks = []
    for chunk in model().stream("How?", config=config):
        chunks.append(chunk.content)
        if len(chunks) == 3:
            assert not recorder.answers
    assert "".join(chunks) == recorder.only["text"] == TEXT


async def test_an_async_stream(recorder: Recorder, config: Any) -> None:
    assert len([chunk async for chunk in model().astream("How?", config=config)]) > 3
    assert recorder.only["text"] == TEXT


def test_what_a_reader_saw_before_leaving_is_published(recorder: Recorder, config: Any) -> None:
    stream = model().stream("How?", config=config)
    seen = "".join(str(next(stream).content) for _ in range(5))
    stream.close()  # type: ignore[attr-defined]
    assert (recorder.only["text"], recorder.only["partial"]) == (seen, True)


async def test_what_an_async_reader_saw_before_leaving_is_published(recorder: Recorder, config: Any) -> None:
    stream = model().astream("How?", config=config)
    seen = "".join([str((await anext(stream)).content) for _ in range(5)])
    await stream.aclose()  # type: ignore[attr-defined]
    assert (recorder.only["text"], recorder.only["partial"]) == (seen, True)


class Broken(BaseChatModel):
    """Answers in content blocks of several kinds; breaks in the middle of a stream; or at once."""

    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "broken"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        if self.fails:
            raise ConnectionError("provider away")
        blocks: list[Any] = [
            {"type": "reasoning", "reasoning": "Not for the reader."},
            {"type": "text", "text": "Give 200 mg."},
            {"type": "tool_call", "name": "look", "args": {}, "id": "1"},
        ]
        first, second = AIMessage(content=blocks, id="msg-1"), AIMessage(content="Give 100 mg.", id="msg-1")
        return ChatResult(
            generations=[ChatGeneration(message=first), ChatGeneration(message=second)],
            llm_output={"model_name": "local"},
        )

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content="Give 4", id="msg-1"))
        raise ConnectionError("provider away")


def test_only_text_is_for_the_reader_and_several_answers_have_several_ids(recorder: Recorder, config: Any) -> None:
    Broken(disable_streaming=True).invoke("How?", config=config)
    assert [(a["id"], a["text"], a["model"]) for a in recorder.answers] == [
        ("msg-1", "Give 200 mg.", "local"),
        ("msg-1-1", "Give 100 mg.", "local"),
    ]


def test_a_stream_that_breaks(recorder: Recorder, config: Any) -> None:
    with pytest.raises(ConnectionError):
        list(Broken().stream("How?", config=config))
    assert (recorder.only["text"], recorder.only["partial"]) == ("Give 4", True)


async def test_text_models(recorder: Recorder, config: Any) -> None:
    FakeListLLM(responses=[TEXT]).invoke("How?", config=config)
    assert [piece async for piece in FakeStreamingListLLM(responses=["Give."]).astream("How?", config=config)]
    assert [answer["text"] for answer in recorder.answers] == [TEXT, "Give."]
    assert len({answer["id"] for answer in recorder.answers}) == 2


async def test_nothing_is_kept_of_runs_that_ended(recorder: Recorder, config: Any) -> None:
    handler = config["callbacks"][0]
    await asyncio.gather(*(model().ainvoke("How?", config=config) for _ in range(5)))
    with pytest.raises(ConnectionError):
        Broken(fails=True, disable_streaming=True).invoke("How?", config=config)
    assert len(recorder.answers) == 5
    assert not handler._runs
