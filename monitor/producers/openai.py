"""Publish what the `openai` client answers: `client = wrap(OpenAI())`.

Chat completions and responses, `create`, `parse` and `stream`, of `OpenAI` and `AsyncOpenAI` and what derives from them
(Azure's). A stream reaches the caller chunk by chunk as it comes; it is published at its end, or, marked as partial,
when the caller leaves it. Not seen: `with_raw_response` of a stream, `with_streaming_response`, responses made in the
background, the realtime and assistants APIs; send those to `OutputProducer.publish` yourself.

`tenant` and `conversation_id` are taken from the request's `metadata`, the latter from its `conversation` too.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from pydantic import BaseModel

from monitor.producers.answers import ChatChunks, ResponseEvents, publish_object
from monitor.producers.producer import OutputProducer, shared_producer

ClientT = TypeVar("ClientT", OpenAI, AsyncOpenAI)
_Chunks = ChatChunks | ResponseEvents
#: What `with_raw_response` marks its requests with; its answers are read when they are handed over.
_RAW = ("X-Stainless-Raw-Response", "true")


def wrap(client: ClientT, *, producer: OutputProducer | None = None, tenant: str | None = None) -> ClientT:
    """Return the same client, whose answers are published from now on; and so are those of its copies.

    Args:
        client: any client of the `openai` package.
        producer: what publishes; default: the one of this process.
        tenant: of answers whose request names none.

    Raises:
        ConfigurationError: the environment's settings are wrong (without `producer` only).
    """
    if "_guardline" in vars(client):
        return client
    watch = _Watch(producer or shared_producer(), tenant)
    for resource, chunks in ((client.chat.completions, ChatChunks), (client.responses, ResponseEvents)):
        for method in ("create", "parse"):
            setattr(resource, method, watch.watched(getattr(resource, method), chunks))
    for method in ("copy", "with_options"):
        setattr(client, method, _wrapping(getattr(client, method), watch))
    vars(client)["_guardline"] = watch
    return client


def _wrapping(copy: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    @functools.wraps(copy)
    def wrapped(*args: Any, **options: Any) -> Any:
        return wrap(copy(*args, **options), producer=watch.producer, tenant=watch.tenant)

    return wrapped


class _Watch:
    """Publishes what methods return."""

    def __init__(self, producer: OutputProducer, tenant: str | None) -> None:
        self.producer = producer
        self.tenant = tenant

    def watched(self, method: Callable[..., Any], chunks: type[_Chunks]) -> Callable[..., Any]:
        """Return the method, sync or async, with its result published or watched."""

        @functools.wraps(method)
        def call(*args: Any, **request: Any) -> Any:
            result = method(*args, **request)
            if hasattr(result, "__await__"):
                return self._awaited(result, request, chunks)
            return self._seen(result, request, chunks)

        return call

    async def _awaited(self, result: Any, request: Mapping[str, Any], chunks: type[_Chunks]) -> Any:
        return self._seen(await result, request, chunks)

    def _seen(self, result: Any, request: Mapping[str, Any], chunks: type[_Chunks]) -> Any:
        if isinstance(result, Stream):
            return _WatchedStream(result, _Tap(self, request, chunks()))
        if isinstance(result, AsyncStream):
            return _WatchedAsyncStream(result, _Tap(self, request, chunks()))
        if _is_raw(request) and not request.get("stream"):
            self.publish(result.parse(), request, partial=False)  # which it keeps for the caller
        elif isinstance(result, BaseModel):
            self.publish(result, request, partial=False)
        return result

    def publish(self, answer: object, request: Mapping[str, Any], *, partial: bool) -> None:
        """Publish an answer to a request."""
        metadata = request.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        asked = request.get("conversation")
        conversation = asked.get("id") if isinstance(asked, Mapping) else asked if isinstance(asked, str) else None
        publish_object(
            self.producer,
            answer,
            partial=partial,
            tenant=metadata.get("tenant") or self.tenant,
            conversation_id=metadata.get("conversation_id") or conversation,
        )


def _is_raw(request: Mapping[str, Any]) -> bool:
    name, value = _RAW
    headers = request.get("extra_headers")
    return isinstance(headers, Mapping) and headers.get(name) == value


class _Tap:
    """Collects one stream and publishes it once."""

    def __init__(self, watch: _Watch, request: Mapping[str, Any], chunks: _Chunks) -> None:
        self._watch = watch
        self._request = request
        self._chunks: _Chunks | None = chunks

    def add(self, chunk: Any) -> None:
        """Take a chunk on its way to the caller."""
        if self._chunks is not None:
            try:
                self._chunks.add(chunk)
            except Exception as error:  # a server that is only nearly compatible must not break its caller
                self._chunks = None
                self._watch.producer.unreadable(type(chunk).__name__, error)

    def end(self, *, partial: bool) -> None:
        """Publish; nothing more where that was done."""
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            self._watch.publish(chunks.answer, self._request, partial=partial and not chunks.complete)


class _WatchedStream(Stream[Any]):
    """A stream that is the original to its user: same class, same attributes."""

    def __init__(self, stream: Stream[Any], tap: _Tap) -> None:
        self.__dict__.update(stream.__dict__)
        self._tap = tap

    def __next__(self) -> Any:
        try:
            chunk = super().__next__()
        except StopIteration:
            self._tap.end(partial=False)
            raise
        except BaseException:
            self._tap.end(partial=True)
            raise
        self._tap.add(chunk)
        return chunk

    def __iter__(self) -> Iterator[Any]:
        return self

    def close(self) -> None:
        """Close the response; what came so far is published."""
        self._tap.end(partial=True)
        super().close()

    def __del__(self) -> None:  # left without closing it
        self._tap.end(partial=True)


class _WatchedAsyncStream(AsyncStream[Any]):
    """See `_WatchedStream`."""

    def __init__(self, stream: AsyncStream[Any], tap: _Tap) -> None:
        self.__dict__.update(stream.__dict__)
        self._tap = tap

    async def __anext__(self) -> Any:
        try:
            chunk = await super().__anext__()
        except StopAsyncIteration:
            self._tap.end(partial=False)
            raise
        except BaseException:
            self._tap.end(partial=True)
            raise
        self._tap.add(chunk)
        return chunk

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def close(self) -> None:
        """Close the response; what came so far is published."""
        self._tap.end(partial=True)
        await super().close()

    def __del__(self) -> None:
        self._tap.end(partial=True)
