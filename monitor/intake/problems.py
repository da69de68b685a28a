"""From what is wrong with an input to an `InvalidMessage` that names the field and repeats nothing of its content."""

from __future__ import annotations

import re

from pydantic import ValidationError

from monitor.errors import InvalidMessage

#: Names of fields that may be shown; others, as keys of the payload, may be anything.
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}", re.ASCII)
_JSON_NAMES = {
    "dict": "an object", "list": "a list", "str": "a string", "int": "a number", "float": "a number",
    "bool": "a boolean", "NoneType": "null", "bytes": "bytes",
}  # fmt: skip


def wrong_type(field: str, expected: str, value: object) -> InvalidMessage:
    """Return the error for a value of another type than `expected`."""
    return InvalidMessage("wrong_type", f"{field}: expected {expected}, got {_JSON_NAMES[type(value).__name__]}")


def first_problem(error: ValidationError) -> InvalidMessage:
    """Return what pydantic found first, without the input."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part) for part in problem["loc"]]
    field = ".".join(part if _NAME.fullmatch(part) else "?" for part in place) or "record"
    reason = (
        "missing_field"
        if problem["type"] == "missing"
        else "wrong_type"
        if problem["type"].endswith("_type")
        else "invalid_field"
    )
    return InvalidMessage(reason, f"{field}: {problem['msg']}")
