"""What is printed: a line for each step as it is done, and at the end what a team sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from monitor.records import FlagRecord

_Value = TypeVar("_Value")


class Steps:
    """Tells of each step how it went and how long it took."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        #: Fails when what the steps depend on does, so that none waits in vain.
        self.watched: asyncio.Future[None] | None = None

    async def done(self, what: str, work: Awaitable[_Value], say: Callable[[_Value], str] = lambda _: "") -> _Value:
        """Wait for `work`, tick it off with what `say` makes of its result, and return that."""
        began = time.monotonic()
        self._status.update(what)
        try:
            result = await self._unless_it_ends(work)
        except Exception:
            self._console.print(f"[red]✗[/red] {what}")
            raise
        detail = f"  [dim]{escape(say(result))}[/dim]" if say(result) else ""
        self._console.print(f"[green]✓[/green] {what}{detail}  [dim]{time.monotonic() - began:.1f} s[/dim]")
        return result

    async def _unless_it_ends(self, work: Awaitable[_Value]) -> _Value:
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({working, self.watched or working}, return_when=asyncio.FIRST_COMPLETED)
            if self.watched is not None and self.watched.done():
                self.watched.result()
            return working.result()
        finally:
            working.cancel()


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.title_style = "bold"
    return table


def what_a_team_sees(
    console: Console,
    *,
    flags: Sequence[FlagRecord],
    alerts: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    review: str,
    audit: Mapping[str, Any],
    refused: Sequence[str],
) -> None:
    """Print it."""
    console.print()
    table = _table("Flags", "message", "tenant", "statement", "breaks", "score")
    for flag in flags:
        table.add_row(
            flag.message_id,
            flag.tenant,
            escape(flag.statement or ""),
            flag.evidence.recommendation,
            f"{flag.score:.2f}",
        )
    console.print(table, "")
    table = _table("Alertmanager: GET /api/v2/alerts", "alert", "severity", "about", "goes to")
    for alert in sorted(alerts, key=lambda own: str(own["labels"])):
        labels = alert["labels"]
        about = " ".join(labels[name] for name in ("message_id", "tenant", "recommendation") if name in labels)
        receivers = ", ".join(receiver["name"] for receiver in alert["receivers"])
        summary = alert["annotations"].get("summary", "")
        table.add_row(labels["alertname"], labels["severity"], escape(about or summary), receivers)
    console.print(table, "")
    table = _table("Prometheus: GET /api/v1/query", "expression", "value")
    for expression, found in figures.items():
        table.add_row(escape(expression), f"{found:g}")
    console.print(table, "")
    console.print(f"[bold]Review[/bold]  the flag on `dose` is {review}: two reviewers accepted it")
    console.print(f"[bold]Audit[/bold]   intact: {audit['entries']} entries, head {audit['head']['hash'][:16]}...")
    console.print(f"[bold]Refused[/bold] {'; '.join(refused)}", "")
