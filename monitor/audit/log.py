"""Where an audit log lies: the port of `file_log` and `topic_log`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from monitor.errors import GuardlineError


class LogUnavailable(GuardlineError):
    """Nothing was appended: the same lines may be appended again later (fails closed)."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log and where it stands, for people; `finished` is False for a last line without a line feed."""

    place: str
    value: bytes
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Torn:
    """What a crash left of a line: it was cut off when the log was opened."""

    place: str
    size: int
    sha256: str


class AuditLog(Protocol):
    """An append-only sequence of lines with one writer. Reading needs no `open`."""

    def read(self) -> AsyncIterator[Sequence[Line]]:
        """Yield all lines in order, in batches of bounded size.

        Raises:
            ConfigurationError: there is no log.
        """
        ...

    async def open(self) -> Torn | None:
        """Become the writer; return what was cut off the end.

        Raises:
            ConfigurationError: the log cannot be had.
            GuardlineError: another process writes to it, or it does not answer.
        """
        ...

    @property
    def due(self) -> bool:
        """Whether the next line begins a segment: it is then to say where the one before ended."""
        ...

    async def append(self, lines: Sequence[bytes], *, segment: int | None = None) -> None:
        """Append lines, all or none; they are durable when this returns. `segment`: its number, where one begins.

        Raises:
            LogUnavailable: nothing was appended.
            GuardlineError: another process writes to the log.
        """
        ...

    async def close(self) -> None:
        """Stop being the writer."""
        ...
