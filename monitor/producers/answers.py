"""What a reader saw of an answer, read as the monitor itself would read it: by `monitor.intake`.

Of OpenAI's objects, complete (`publish_object`) or put together from the pieces of a stream (`ChatChunks`,
`ResponseEvents`). Streamed pieces are text as it came; they are joined without anything between them, as the reader
saw them grow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from monitor.errors import InvalidMessage
from monitor.intake.formats import read_value
from monitor.intake.openai import is_chat_completion, is_response
from monitor.producers.producer import OutputProducer

#: What is read; the rest of an object (log probabilities, audio, tool calls) can be large.
_FIELDS: Any = {
    "object": True, "id": True, "model": True, "created": True, "created_at": True, "conversation": True,
    "choices": {"__all__": {"text": True, "message": {"content": True, "refusal": True, "audio": {"transcript"}}}},
    "output": {"__all__": {"type", "content"}},
}  # fmt: skip


def publish_object(
    producer: OutputProducer, answer: object, *, partial: bool = False, hidden: str | None = None, **known: str | None
) -> bool:
    """Publish a chat completion or Responses object, pydantic model or mapping; return whether it is on its way.

    Anything else (embeddings, images, a moderation) is passed over. Never raises.

    Args:
        producer: what publishes.
        answer: what the library handed over.
        partial: whether the reader left before the end.
        hidden: a text that the library puts in place of an answer that it hides; such an answer counts as unreadable.
        known: `tenant` and `conversation_id`, where the object does not say.
    """
    try:
        value = _plain(answer)
        if value is None or not (is_response(value) or is_chat_completion(value)):
            return False
        fields = read_value(value).fields
        if hidden is not None and fields["text"] == hidden:
            raise InvalidMessage("hidden_text", "the redaction of logged messages hides it; switch that off for this")
        said = {name: fields.get(name) or known.get(name) for name in ("id", "model", "tenant", "conversation_id")}
        return producer.publish(text=fields["text"], created_at=fields.get("created_at"), partial=partial, **said)
    except Exception as error:  # the caller is about to answer somebody
        return producer.unreadable(type(answer).__name__, error)


def _plain(answer: object) -> Mapping[str, Any] | None:
    value = answer.model_dump(mode="json", include=_FIELDS, warnings=False) if isinstance(answer, BaseModel) else answer
    if not isinstance(value, Mapping):
        return None
    if value.get("object") == "text_completion":  # the endpoint before chat, which local servers still have
        choices = [{"message": {"content": choice["text"]}} for choice in value["choices"]]
        return {**value, "object": "chat.completion", "choices": choices}
    return value


class ChatChunks:
    """The chunks of one streamed chat completion."""

    def __init__(self) -> None:
        self._object: dict[str, Any] = {"object": "chat.completion"}
        self._content: defaultdict[int, list[str]] = defaultdict(list)

    def add(self, chunk: Any) -> None:
        """Take the next `chat.completion.chunk`."""
        for name in ("id", "model", "created"):
            self._object.setdefault(name, getattr(chunk, name, None))
        for choice in chunk.choices:
            delta = choice.delta
            audio = getattr(delta, "audio", None)
            transcript = audio.get("transcript") if isinstance(audio, Mapping) else None
            self._content[choice.index] += [
                piece for piece in (delta.content, getattr(delta, "refusal", None), transcript) if piece
            ]

    @property
    def complete(self) -> bool:
        """Whether the object is whole without an end of the stream; a chat completion never is."""
        return False

    @property
    def answer(self) -> Mapping[str, Any]:
        """What came so far, as a chat completion."""
        choices = [{"message": {"content": "".join(pieces)}} for _, pieces in sorted(self._content.items())]
        return {**self._object, "choices": choices}


class ResponseEvents:
    """The events of one streamed response."""

    def __init__(self) -> None:
        self._object: dict[str, Any] = {"object": "response"}
        self._final: BaseModel | None = None
        self._pieces: defaultdict[tuple[int, int], list[str]] = defaultdict(list)

    def add(self, event: Any) -> None:
        """Take the next event."""
        match event.type:
            case "response.created":
                for name in ("id", "model", "created_at"):
                    self._object[name] = getattr(event.response, name)
            case "response.output_text.delta" | "response.refusal.delta":
                self._pieces[event.output_index, event.content_index].append(event.delta)
            case "response.completed" | "response.incomplete" | "response.failed":
                self._final = event.response

    @property
    def complete(self) -> bool:
        """Whether the last event came, which holds the whole response."""
        return self._final is not None

    @property
    def answer(self) -> BaseModel | Mapping[str, Any]:
        """The whole response, or what came so far."""
        if self._final is not None:
            return self._final
        items: defaultdict[int, list[dict[str, str]]] = defaultdict(list)
        for (item, _), pieces in sorted(self._pieces.items()):
            items[item].append({"type": "output_text", "text": "".join(pieces)})
        return {**self._object, "output": [{"type": "message", "content": parts} for parts in items.values()]}
