"""An alert as lines for people: what mail and terminal show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from monitor.alerts.notification import Kind, Notification, group_line, short, source_line, title

#: Characters of a line.
_MOST = 4000


def printable(text: str) -> str:
    """Return the text on one line, without control and direction characters.

    A language model's words must not drive a terminal, nor begin a header of a mail.
    """
    spaced = " ".join(text[:_MOST].split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def _of_one(notification: Notification) -> Iterator[str]:
    flag = notification.first
    yield f"Recommended: {flag.evidence.text}"
    if flag.statement is not None:
        yield f"Stated:      {flag.statement}"
    if flag.reason is not None:
        yield f"Differs:     {flag.reason}"
    tenant = short(flag.tenant or "-")
    yield f"Flag {flag.id}, score {flag.score:.2f}, tenant {tenant}, message {short(flag.message_id)}"
    yield source_line(flag)
    if (link := notification.link_to(flag)) is not None:
        yield link


def _of_many(notification: Notification) -> Iterator[str]:
    for group in notification.groups:
        link = notification.link_to(group.flags[0])
        yield group_line(group) + (f" {link}" if link else f" (flag {group.flags[0].id})")
    if notification.groups_left_out:
        yield f"{notification.groups_left_out} more groups are not shown."


def lines(notification: Notification) -> list[str]:
    """Return the title and what follows, each a line that may be shown anywhere."""
    rest = _of_many(notification) if notification.kind is Kind.DIGEST else _of_one(notification)
    return [printable(line) for line in (title(notification), *rest)]
