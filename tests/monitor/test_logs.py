"""What is written of an exception: where it came from, and its words only where they cannot quote a message."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from pydantic import BaseModel, ValidationError

from monitor.errors import InvalidMessage, StoreUnavailable
from monitor.logs import configure, said

TEXT = "Zebulon takes 400 mg"


class _Model(BaseModel):
    number: int


def _quoting() -> None:
    """Raise what quotes, from what quotes."""
    try:
        _Model.model_validate({"number": TEXT})
    except ValidationError as error:
        raise KeyError(TEXT) from error


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error, while a process logs in one of the two formats."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    style: Literal["json", "console"] = request.param
    configure("debug", style)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_tracebacks_show_code_and_classes_and_no_values(written: io.StringIO) -> None:
    try:
        _quoting()
    except KeyError:
        structlog.get_logger("a").exception("message_failed", message_id="m")
        logging.getLogger("b").exception("library_failed")
    text = written.getvalue()
    assert "Zebulon" not in text
    for kind in ("ValidationError", "KeyError", "test_logs.py", "in _quoting"):
        assert text.count(kind) >= 2, kind


@pytest.mark.parametrize("written", ["json"], indirect=True)
def test_json_lines_stay_one_object_each(written: io.StringIO) -> None:
    try:
        _quoting()
    except KeyError:
        structlog.get_logger("a").exception("message_failed")
    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["exception"].splitlines()[-1].startswith("KeyError (its words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailable("Redis does not answer"), "StoreUnavailable('Redis does not answer')"),
        (InvalidMessage("reason", "detail"), "InvalidMessage('reason: detail')"),
        (OSError(13, "Permission denied"), "PermissionError(13, 'Permission denied')"),
        (ValueError(TEXT), "ValueError (its words may quote a message and are left out)"),
    ],
)
def test_what_is_said(error: Exception, words: str) -> None:
    assert said(error) == words
