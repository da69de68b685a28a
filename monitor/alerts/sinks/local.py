"""A file for machines, and the terminal for people."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import orjson
from rich.console import Console
from rich.text import Text

from monitor.alerts.notification import Notification, title
from monitor.alerts.sinks import SinkUnavailable
from monitor.alerts.sinks.text import lines

_STYLES = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "cyan"}


def as_json(notification: Notification) -> dict[str, object]:
    """Return an alert as one object: what the sinks for people say in words."""
    return {
        "id": notification.id,
        "kind": notification.kind.value,
        "route": notification.route,
        "severity": notification.severity,
        "title": title(notification),
        "count": notification.count,
        "groups": [
            {
                "fingerprint": group.fingerprint,
                "count": group.count,
                "flags": [flag.model_dump(mode="json") for flag in group.flags],
            }
            for group in notification.groups
        ],
        "groups_left_out": notification.groups_left_out,
    }


class File:
    """Appends one line an alert, and waits until it is on the disk. The file may be rotated at any time."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        try:
            await asyncio.to_thread(self._append, orjson.dumps(as_json(notification), option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise SinkUnavailable(f"{type(error).__name__}: {error.strerror}") from None

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    async def close(self) -> None:
        """Nothing is held."""


class Terminal:
    """Prints to standard output."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.name = name
        self._console = console or Console(highlight=False)

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        first, *rest = lines(notification)
        self._console.print(Text(first, style=_STYLES[notification.severity]), soft_wrap=True)
        for line in rest:
            self._console.print(Text(f"  {line}"), soft_wrap=True)

    async def close(self) -> None:
        """Nothing is held."""
