"""OpenAI's answers: the chat completion object and the Responses object.

After the OpenAI API reference of 2025 (`chat.completion`: `choices[].message.content`, `.refusal`, `.audio.transcript`;
`response`: `output[]` of type `message` with parts `output_text` and `refusal`). Compatible servers leave out `object`,
send content as a list of parts, and have no id; all that is read, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from monitor.errors import InvalidMessage
from monitor.intake.pieces import join_choices, join_parts
from monitor.records import timestamp

#: Seconds since the epoch; what lies outside is clamped, as the broker's own time stamps are.
_LAST_SECOND = 253_402_300_799


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class ContentPart(_Part):
    """One part of a message's content. Parts of other types than text and refusal are passed over."""

    type: str
    text: Any = None
    refusal: Any = None

    def read(self) -> str:
        """Return what a reader sees of it."""
        field = {"text": "text", "output_text": "text", "refusal": "refusal"}.get(self.type)
        if field is None:
            return ""
        value = getattr(self, field)
        if not isinstance(value, str):
            reason = "missing_field" if field not in self.model_fields_set else "wrong_type"
            raise InvalidMessage(reason, f"content: a part of type {field} needs {field}, a string")
        return value


class Audio(_Part):
    """A spoken answer."""

    transcript: str | None = None


#: Told apart by its JSON type, so that an error names the part and not the other possibility.
_Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ContentPart], Tag("parts")],
    Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
]


class ChatMessage(_Part):
    """The message of one choice; content is null beside tool calls, a refusal or a spoken answer."""

    content: _Content | None = None
    refusal: str | None = None
    audio: Audio | None = None

    def read(self) -> str:
        """Return its text."""
        content = [self.content] if isinstance(self.content, str) else [part.read() for part in self.content or ()]
        spoken = self.audio.transcript if self.audio else None
        return join_parts([*content, self.refusal or "", spoken or ""])


class Choice(_Part):
    """One of the answers."""

    message: ChatMessage


class _Answer(_Part):
    id: str | None = None
    model: str | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="Set by whoever asked; string to string.")

    def _fields(self, text: str, created: float | None) -> dict[str, Any]:
        metadata = self.metadata or {}
        return {
            "id": self.id or None,
            "text": text,
            "model": self.model,
            "tenant": metadata.get("tenant"),
            "conversation_id": metadata.get("conversation_id"),
            "created_at": None if created is None else timestamp(_milliseconds(created)),
            "metadata": metadata,
        }


class ChatCompletion(_Answer):
    """`POST /v1/chat/completions`, answered in one piece."""

    choices: list[Choice]
    created: int | None = None

    def fields(self) -> dict[str, Any]:
        """Return its fields under the native record's names."""
        return self._fields(join_choices(choice.message.read() for choice in self.choices), self.created)


class OutputItem(_Part):
    """One item of a response. Only those of type `message` are for the reader."""

    type: str
    content: Any = None


class MessageItem(_Part):
    """An output item of type `message`."""

    content: list[ContentPart]

    def read(self) -> str:
        """Return its text."""
        return join_parts(part.read() for part in self.content)


class Conversation(_Part):
    """The conversation that a response was added to."""

    id: str


class Response(_Answer):
    """`POST /v1/responses`, answered in one piece."""

    output: list[OutputItem]
    created_at: float | None = None
    conversation: Conversation | None = None

    def fields(self) -> dict[str, Any]:
        """Return its fields under the native record's names."""
        fields = self._fields(join_choices(_messages(self.output)), self.created_at)
        return fields if self.conversation is None else fields | {"conversation_id": self.conversation.id}


def _messages(items: Iterable[OutputItem]) -> Iterable[str]:
    for item in items:
        if item.type == "message":
            yield MessageItem.model_validate({"content": item.content}).read()


def _milliseconds(seconds: float) -> int:
    return int(max(min(seconds, _LAST_SECOND), 0) * 1000) if seconds == seconds else 0  # NaN is unequal to itself


def is_response(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a Responses object. (Its `text` is a setting, not a text.)"""
    return value.get("object") == "response" and "output" in value


def is_chat_completion(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a chat completion.

    Raises:
        InvalidMessage: it is a piece of a streamed one.
    """
    if value.get("object") == "chat.completion.chunk":
        raise InvalidMessage("unsupported_format", "object: a chunk of a streamed answer: send the whole answer")
    return value.get("object") == "chat.completion" or "choices" in value
