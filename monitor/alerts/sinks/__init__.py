"""Where alerts go. A sink renders an alert and hands it over once; retries are not its business (`delivery`).

Deliveries repeat after a crash between the sink's answer and the mark that it was given, so every sink passes on what
lets the receiver recognise a repeat: the alert's id, the same for the same flags.
"""

from __future__ import annotations

from typing import Protocol

from monitor.alerts.notification import Notification
from monitor.errors import GuardlineError


class SinkUnavailable(GuardlineError):
    """The sink does not take it now; worth another try, after `retry_after` seconds where it said so."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class SinkRefused(GuardlineError):
    """The sink does not take this alert, and would not the next time."""


class Sink(Protocol):
    """One place where alerts go. Neither errors nor logs may hold its URL, its secrets or message text."""

    @property
    def name(self) -> str:
        """As in the file."""
        ...

    async def send(self, notification: Notification) -> None:
        """Hand an alert over; when it returns, the sink has taken it.

        Raises:
            SinkUnavailable: it may take it later.
            SinkRefused: it will not.
        """
        ...

    async def close(self) -> None:
        """Release what the sink holds."""
        ...
