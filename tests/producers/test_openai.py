"""`wrap` around the real client, against a local server that speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream

from monitor.producers.openai import wrap
from tests.producers.openai_server import TEXT, openai_server
from tests.producers.recorder import Recorder

ASKED: Any = [{"role": "user", "content": "How is it given?"}]
CHAT: Any = {"model": "gpt-4o-mini", "messages": ASKED}
RESPONSE: Any = {"model": "gpt-4o-mini", "input": "How is it given?"}
WRITTEN = datetime.fromtimestamp(1_770_000_000, UTC)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with openai_server() as url:
        yield url


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(url: str, recorder: Recorder) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="k") as client:
        yield wrap(client, producer=recorder, tenant="north")


@pytest.fixture
async def async_client(url: str, recorder: Recorder) -> Any:
    async with AsyncOpenAI(base_url=url, api_key="k") as client:
        yield wrap(client, producer=recorder, tenant="north")


def expected(id_: str, **more: Any) -> dict[str, Any]:
    whole = {"text": TEXT, "id": id_, "model": "gpt-4o-mini", "created_at": WRITTEN, "tenant": "north"}
    return {**whole, "partial": False, **more}


def test_a_completion_and_a_response(client: OpenAI, recorder: Recorder) -> None:
    assert client.chat.completions.create(**CHAT).choices[0].message.content == TEXT
    assert client.responses.create(**RESPONSE).output_text == TEXT
    assert recorder.answers == [expected("chatcmpl-1"), expected("resp_1")]


async def test_async(async_client: AsyncOpenAI, recorder: Recorder) -> None:
    assert (await async_client.chat.completions.create(**CHAT)).choices[0].message.content == TEXT
    assert (await async_client.responses.create(**RESPONSE)).output_text == TEXT
    assert recorder.answers == [expected("chatcmpl-1"), expected("resp_1")]


def test_whom_it_is_for_comes_from_the_request(client: OpenAI, recorder: Recorder) -> None:
    client.chat.completions.create(**CHAT, metadata={"tenant": "south", "conversation_id": "c-1"})
    client.responses.create(**RESPONSE, conversation={"id": "c-2"})
    client.responses.create(**RESPONSE, conversation="c-3")
    assert [(a["tenant"], a["conversation_id"]) for a in recorder.answers] == [
        ("south", "c-1"),
        ("north", "c-2"),
        ("north", "c-3"),
    ]


def test_a_stream_reaches_the_caller_as_it_comes_and_is_published_at_its_end(
    client: OpenAI, recorder: Recorder
) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    assert isinstance(stream, Stream)
    pieces = []
    for chunk in stream:
        assert not recorder.answers
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == TEXT
    assert recorder.only == expected("chatcmpl-1")
    stream.close()
    assert len(recorder.answers) == 1


def test_a_streamed_response(client: OpenAI, recorder: Recorder) -> None:
    events = list(client.responses.create(**RESPONSE, stream=True))
    assert events[-1].type == "response.completed"
    assert recorder.only == expected("resp_1")


async def test_async_streams(async_client: AsyncOpenAI, recorder: Recorder) -> None:
    chat = await async_client.chat.completions.create(**CHAT, stream=True)
    assert isinstance(chat, AsyncStream)
    assert len([chunk async for chunk in chat]) > 10
    async with await async_client.responses.create(**RESPONSE, stream=True) as events:
        assert len([event async for event in events]) > 10
    assert recorder.answers == [expected("chatcmpl-1"), expected("resp_1")]


@pytest.mark.parametrize("leave", ["close", "context", "forget"])
def test_what_a_reader_saw_before_leaving_is_published(client: OpenAI, recorder: Recorder, leave: str) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    for _ in range(6):
        next(stream)
    if leave == "close":
        stream.close()
    elif leave == "context":
        with stream:
            pass
    else:
        del stream
    assert recorder.only == expected("chatcmpl-1", text=TEXT[:20], partial=True)


async def test_what_an_async_reader_saw_before_leaving_is_published(
    async_client: AsyncOpenAI, recorder: Recorder
) -> None:
    async with await async_client.responses.create(**RESPONSE, stream=True) as events:
        for _ in range(6):
            await anext(events)
    assert recorder.only == expected("resp_1", text=TEXT[:12], partial=True)


def test_a_reader_may_come_back_to_a_stream(client: OpenAI, recorder: Recorder) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True)
    for _ in stream:
        break
    for _ in stream:
        pass
    assert recorder.only == expected("chatcmpl-1")


async def test_helpers_of_the_client(client: OpenAI, async_client: AsyncOpenAI, recorder: Recorder) -> None:
    with client.chat.completions.stream(**CHAT) as chat:
        assert chat.get_final_completion().choices[0].message.content == TEXT
    with client.responses.stream(**RESPONSE) as events:
        assert events.get_final_response().output_text == TEXT
    async with async_client.responses.stream(**RESPONSE) as more:
        assert (await more.get_final_response()).output_text == TEXT
    client.chat.completions.parse(**CHAT)
    client.responses.parse(**RESPONSE)
    client.with_options(timeout=5).chat.completions.create(**CHAT)
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.parse().choices[0].message.content == TEXT
    assert [a["id"] for a in recorder.answers] == [
        "chatcmpl-1", "resp_1", "resp_1", "chatcmpl-1", "resp_1", "chatcmpl-1", "chatcmpl-1",
    ]  # fmt: skip
    assert recorder.unreadables == 0


def test_wrapping_twice_publishes_once(client: OpenAI, recorder: Recorder) -> None:
    wrap(client, producer=recorder).chat.completions.create(**CHAT)
    assert len(recorder.answers) == 1


def test_errors_of_the_server_are_the_callers_own(recorder: Recorder) -> None:
    client = wrap(OpenAI(base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0), producer=recorder)
    with pytest.raises(Exception, match="Connection error"):
        client.chat.completions.create(**CHAT)
    assert (recorder.answers, recorder.unreadables) == ([], 0)
