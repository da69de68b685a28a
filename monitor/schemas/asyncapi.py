"""The AsyncAPI 3 document: servers, topics, what is in them and who reads and writes.

After AsyncAPI 3.0.0 and the Kafka bindings 0.5.0. Payloads are references to the JSON Schemas beside the document.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from monitor.schemas.catalogue import CHANNELS, Channel

_TITLES = {
    "outputs": "LLM outputs",
    "flags": "Flags",
    "review": "Statements for review",
    "verdicts": "Verdicts",
    "deadletter": "Dead letters",
    "shadow": "Shadow verdicts",
    "feedback": "Reviewers' decisions",
    "actions": "Actions of people",
}
_TEXT = {"type": "string"}
_TRACE = {"traceparent": {**_TEXT, "description": "W3C trace context of the answer, where its platform sent one."}}


def document() -> dict[str, Any]:
    """Return the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Guardline",
            "version": version("guardline"),
            "description": "LLM outputs in; flags of statements that contradict the clinical guideline out. Delivery "
            "is at least once and ids are deterministic: drop repeats by `id`. Later versions may add fields. Names of "
            "topics are settings; these are the defaults.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "plaintext": {"host": "kafka:9092", "protocol": "kafka", "description": "Without credentials."},
            "secure": {
                "host": "kafka:9093",
                "protocol": "kafka-secure",
                "description": "TLS, with SASL or a client certificate.",
                "security": [{"$ref": "#/components/securitySchemes/scram"}],
            },
        },
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {_operation(channel): _described(channel) for channel in CHANNELS},
        "components": {
            "messages": {channel.name: _message(channel) for channel in CHANNELS},
            "securitySchemes": {"scram": {"type": "scramSha512"}},
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.topic,
        "title": _TITLES[channel.name],
        "description": f"{channel.description} Setting: GUARDLINE_{channel.setting.upper()}.",
        "messages": {channel.name: {"$ref": f"#/components/messages/{channel.name}"}},
        "bindings": {"kafka": {"topic": channel.topic, "bindingVersion": "0.5.0"}},
    }


def _operation(channel: Channel) -> str:
    return f"{channel.direction}{channel.name.capitalize()}"


def _described(channel: Channel) -> dict[str, Any]:
    return {
        "action": channel.direction,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": "Guardline reads them." if channel.direction == "receive" else "Guardline writes them.",
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.name}"}],
    }


def _message(channel: Channel) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": channel.type or channel.name,
        "title": channel.schema.title if channel.schema else "Dead letter",
        "headers": _headers(channel),
        "bindings": {
            "kafka": {"key": {**_TEXT, "description": f"Key: {channel.key}."}, "bindingVersion": "0.5.0"},
        },
    }
    if channel.schema is None:
        return {
            **message,
            "contentType": "application/octet-stream",
            "description": "The input's key, value and headers to the byte, and why it was not judged.",
            "payload": {"description": "Whatever was sent."},
        }
    if channel.schema.written_by_others:
        message["description"] = (
            "The native record. OpenAI chat completions and Responses objects, CloudEvents around any of these, and "
            "OpenTelemetry GenAI events are read as well; the docstring of monitor.intake says how."
        )
    return {**message, "contentType": "application/json", "payload": {"$ref": f"./{channel.schema.name}.json"}}


def _headers(channel: Channel) -> dict[str, Any]:
    if channel.schema is None:
        return _dead_letter()
    if channel.direction == "receive":
        return _object(
            {"content-type": {**_TEXT, "description": "application/json where there is none."}, **_TRACE}, required=[]
        )
    if channel.type is None:
        return _object({}, required=[])
    properties: dict[str, Any] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {**_TEXT, "description": "The same as the payload's `id`."},
        "ce_source": _TEXT,
        "ce_type": {"const": channel.type},
        "ce_time": {**_TEXT, "format": "date-time"},
        "content-type": {"const": "application/json"},
    }
    required = list(properties)
    if channel.origin:
        origin = {
            "ce_origintopic": {**_TEXT, "description": "Where the message lies."},
            "ce_originpartition": {**_TEXT, "pattern": "^[0-9]+$"},
            "ce_originoffset": {**_TEXT, "pattern": "^[0-9]+$"},
        }
        properties |= origin | _TRACE
        required += origin
    return _object(properties, required=required)


def _dead_letter() -> dict[str, Any]:
    """Return the headers that `monitor.events.EventFactory.dead_letter` adds."""
    described = {
        "__connect.errors.topic": "Where the input was.",
        "__connect.errors.partition": "Its partition.",
        "__connect.errors.offset": "Its offset.",
        "__connect.errors.connector.name": "guardline",
        "__connect.errors.stage": "What could not be done with it.",
        "__connect.errors.exception.class.name": "Kind of error.",
        "__connect.errors.exception.message": "For people; repeats nothing of the input.",
        "guardline.reason": "Stable slug of the reason.",
        "guardline.payload": "original, or omitted where the broker refused its size.",
        "guardline.key": "original, absent or omitted.",
    }
    properties = {name: {**_TEXT, "description": text} for name, text in described.items()}
    return _object(properties, required=list(properties))


def _object(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "object", "properties": properties}
    return {**described, "required": required} if required else described
