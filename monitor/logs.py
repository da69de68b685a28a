"""Structured logs on standard error: JSON for machines, colours for people, never message text.

An exception's own words may quote what it failed on (pydantic and the tokenizer do), so of those that are neither ours
nor of a client of a service only the class is written, with the lines of code.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Literal, TextIO

import structlog

#: Packages whose exceptions speak of connections and settings, never of a message's content.
_DISCREET = ("monitor", "aiokafka", "redis", "grpc", "tritonclient")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def said(error: BaseException) -> str:
    """Return an exception for a log line: its words where they cannot quote a message, else its class."""
    kind = type(error)
    discreet = isinstance(error, OSError) or kind.__module__.partition(".")[0] in _DISCREET
    return repr(error) if discreet else f"{kind.__qualname__} (its words may quote a message and are left out)"


def format_traceback(exc_info: ExcInfo) -> str:
    """Return an exception with what led to it, oldest first: the lines of code and what is `said` of each."""
    chain: list[BaseException] = []
    error: BaseException | None = exc_info[1]
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join("".join(traceback.format_tb(own.__traceback__)) + said(own) for own in reversed(chain))


def _console_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.write("\n" + format_traceback(exc_info))


def configure(level: str, style: Literal["json", "console"]) -> None:
    """Send structlog's and the standard library's records to standard error in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_console_traceback)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if style == "json":
        final.append(structlog.processors.ExceptionRenderer(format_traceback))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aiokafka", "faust", "mode"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
