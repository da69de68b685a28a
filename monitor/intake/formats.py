"""Which format a JSON value is in, told by its shape, and its fields under the names of the native record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monitor.intake import openai, opentelemetry
from monitor.intake.problems import wrong_type


@dataclass(frozen=True, slots=True)
class Reading:
    """The fields of the native record that a value stands for; what it does not say is left out.

    `anonymous`: its format asks for no id, so that one may be made up where there is none. `trace`: the trace context
    of the CloudEvent around it, as headers.
    """

    fields: dict[str, Any]
    anonymous: bool = False
    trace: tuple[tuple[str, bytes], ...] = ()


def read_value(value: object) -> Reading:
    """Read a JSON value; fields of a native record are not checked here.

    Raises:
        InvalidMessage: it is no JSON object, or not one of a known format that can be read.
        ValidationError: a field is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise wrong_type("record", "a JSON object", value)
    if openai.is_response(value):
        return _anonymous(openai.Response.model_validate(value).fields())
    if "text" in value:
        return Reading(value)  # the native record; whatever else it holds are unknown fields
    if openai.is_chat_completion(value):
        return _anonymous(openai.ChatCompletion.model_validate(value).fields())
    event = opentelemetry.find_event(value)
    return Reading(value) if event is None else _anonymous(event.fields())


def _anonymous(fields: dict[str, Any]) -> Reading:
    return Reading({name: field for name, field in fields.items() if field is not None}, anonymous=True)
