"""Which record is in which topic, and who writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from monitor.records import (
    ACTION_TYPE,
    FEEDBACK_TYPE,
    FLAG_TYPE,
    REVIEW_TYPE,
    VERDICT_TYPE,
    ActionRecord,
    FeedbackRecord,
    FlagRecord,
    OutputRecord,
    ShadowRecord,
    VerdictRecord,
)
from monitor.settings import Settings


@dataclass(frozen=True, slots=True)
class Schema:
    """A record's schema: `name` of its file, what people call it, and the model that it is made of."""

    name: str
    title: str
    model: type[BaseModel]
    #: Whether others write it: a schema for writers says what is accepted, one for readers what is published.
    written_by_others: bool = False


OUTPUT = Schema("output", "LLM output", OutputRecord, written_by_others=True)
FLAG = Schema("flag", "Flag", FlagRecord)
VERDICT = Schema("verdict", "Verdict on a message", VerdictRecord)
SHADOW = Schema("shadow", "Champion and challenger on a message", ShadowRecord)
FEEDBACK = Schema("feedback", "Decision of a reviewer", FeedbackRecord)
ACTION = Schema("action", "Action of a person", ActionRecord)

SCHEMAS = (OUTPUT, FLAG, VERDICT, SHADOW, FEEDBACK, ACTION)


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic.

    `setting` names it, `type` is the CloudEvents type of its events (none: they are no CloudEvents), `origin` whether
    their headers say where the message lies, `schema` is none where the value can be anything.
    """

    name: str
    setting: str
    direction: Literal["receive", "send"]
    schema: Schema | None
    key: str
    type: str | None = None
    origin: bool = False

    @property
    def topic(self) -> str:
        """Its name where the setting does not say otherwise."""
        return str(Settings.model_fields[self.setting].default)

    @property
    def description(self) -> str:
        """What it is."""
        return str(Settings.model_fields[self.setting].description)


CHANNELS = (
    Channel("outputs", "topic_outputs", "receive", OUTPUT, "conversation_id, else id"),
    Channel("flags", "topic_flags", "send", FLAG, "conversation_id, else message_id", FLAG_TYPE, origin=True),
    Channel("review", "topic_review", "send", FLAG, "conversation_id, else message_id", REVIEW_TYPE, origin=True),
    Channel("verdicts", "topic_verdicts", "send", VERDICT, "message_id, else the input's", VERDICT_TYPE, origin=True),
    Channel("deadletter", "topic_deadletter", "send", None, "the input's"),
    Channel("shadow", "topic_shadow", "send", SHADOW, "message_id"),
    Channel("feedback", "topic_feedback", "send", FEEDBACK, "the flag's id", FEEDBACK_TYPE),
    Channel("actions", "topic_audit_events", "send", ACTION, "none", ACTION_TYPE),
)


def schema_of(schema: Schema) -> dict[str, Any]:
    """Return a record's JSON Schema (Draft 2020-12).

    Later versions may add fields to what Guardline publishes, so the schema does not forbid unknown ones, although the
    models that write it do.
    """
    mode: Literal["validation", "serialization"] = "validation" if schema.written_by_others else "serialization"
    described = schema.model.model_json_schema(mode=mode)
    for part in (described, *described.get("$defs", {}).values()):
        part.pop("additionalProperties", None) if part.get("additionalProperties") is False else None
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:guardline:schema:{schema.name}",
        **described,
        "title": schema.title,
    }
