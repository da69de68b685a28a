"""Read one input: bytes from Kafka to a `Message`, or `InvalidMessage` with a reason that fits a header.

Today the native record only; other formats join here. The rule for every format: unknown fields pass, wrong types do
not, and nothing of the payload is repeated in an error.
"""

from __future__ import annotations

import json

import orjson
from pydantic import ValidationError

from monitor.errors import InvalidMessage
from monitor.records import OutputRecord
from monitor.text import well_formed
from monitor.types import Message

_BOM = b"\xef\xbb\xbf"


def _parse_json(payload: bytes) -> object:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as strict:
        try:
            payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidMessage("invalid_utf8", f"byte {error.start} is not UTF-8; send JSON in UTF-8") from None
        # orjson refuses escaped lone surrogates, which a producer that cuts UTF-16 text leaves behind. The text around
        # them still has to be screened, so the lenient parser gets a try before the record is given up.
        try:
            return json.loads(payload, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise InvalidMessage("unreadable_json", f"not JSON: {strict.msg} at {strict.pos}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _first_problem(error: ValidationError) -> InvalidMessage:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, problem["loc"])) or "record"
    reason = (
        "missing_field"
        if problem["type"] == "missing"
        else "wrong_type"
        if problem["type"].endswith("_type")
        else "invalid_field"
    )
    return InvalidMessage(reason, f"{field}: {problem['msg']}")


def parse(payload: bytes | None) -> Message:
    """Return the message that `payload` holds.

    Raises:
        InvalidMessage: null or empty value, not UTF-8, not JSON, not an object, a field missing or of the wrong type.
    """
    if payload is None:
        raise InvalidMessage("null_value", "the record has no value (a tombstone?)")
    payload = payload.removeprefix(_BOM)
    if not payload.strip():
        raise InvalidMessage("empty_value", "the record's value is empty")
    record = _parse_json(payload)
    if not isinstance(record, dict):
        raise InvalidMessage("wrong_type", f"record: expected a JSON object, got {type(record).__name__}")
    try:
        return OutputRecord.model_validate(
            {k: well_formed(v) if isinstance(v, str) else v for k, v in record.items()}
        ).to_message()
    except ValidationError as error:
        raise _first_problem(error) from None
