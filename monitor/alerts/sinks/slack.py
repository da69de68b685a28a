"""A message for Slack's incoming webhooks: Block Kit blocks, and a text for notifications and old clients.

https://docs.slack.dev/reference/block-kit/blocks (50 blocks, a header of 150 characters, a section's text of 3,000, ten
fields of 2,000), https://docs.slack.dev/messaging/formatting-message-text (only `&`, `<` and `>` are escaped) and
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks. Statements are plain text blocks: what a
language model wrote cannot mention people or hide a link.
"""

from __future__ import annotations

from pydantic import SecretStr

from monitor.alerts.notification import Kind, Notification, group_line, source_line, title
from monitor.alerts.sinks.http import JsonPoster
from monitor.records import FlagRecord

_HEADER, _SECTION, _FIELD = 150, 3000, 2000
_Block = dict[str, object]


def cut(text: str, most: int) -> str:
    """Return the text in at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def escape(text: str) -> str:
    """Return text that Slack shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut_escaped(text: str, most: int) -> str:
    """Escape, and cut so that no entity is cut through."""
    while len(escaped := escape(text)) > most:
        text = cut(text, len(text) - max((len(escaped) - most) // 5, 1))
    return escaped


def _plain(text: str, most: int) -> _Block:
    return {"type": "plain_text", "text": cut(text, most) or "-", "emoji": False}


def _field(name: str, value: str) -> _Block:
    return {"type": "mrkdwn", "text": f"*{name}*\n{_cut_escaped(value, _FIELD - 100) or '-'}"}


def _button(flag: FlagRecord, link: str) -> _Block:
    return {
        "type": "actions",
        "elements": [{"type": "button", "text": _plain("Look at it", 75), "url": link, "action_id": f"open-{flag.id}"}],
    }


def _of_one(notification: Notification) -> list[_Block]:
    flag = notification.first
    blocks: list[_Block] = [
        {
            "type": "section",
            "fields": [
                _field("Recommendation", flag.evidence.recommendation),
                _field("Category", flag.category),
                _field("Score", f"{flag.score:.2f}"),
                _field("Tenant", flag.tenant or "-"),
                _field("Message", flag.message_id),
                _field("Count", str(notification.count)),
            ],
        },
        {"type": "section", "text": _plain(f"Recommended: {flag.evidence.text}", _SECTION)},
    ]
    if flag.statement is not None:
        blocks.append({"type": "section", "text": _plain(f"Stated: {flag.statement}", _SECTION)})
    if flag.reason is not None:
        blocks.append({"type": "section", "text": _plain(flag.reason, _SECTION)})
    blocks.append({"type": "context", "elements": [_plain(source_line(flag), _FIELD)]})
    if (link := notification.link_to(flag)) is not None and len(link) <= _SECTION:
        blocks.append(_button(flag, link))
    return blocks


def _of_many(notification: Notification) -> list[_Block]:
    blocks: list[_Block] = []
    for group in notification.groups:
        line = _cut_escaped(group_line(group), _SECTION - 1000)
        link = notification.link_to(group.flags[0])
        linked = f"{line} (<{escape(link)}|the first>)" if link and len(link) < 500 else line
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": linked}})
    if notification.groups_left_out:
        more = f"{notification.groups_left_out} more groups are not shown."
        blocks.append({"type": "context", "elements": [_plain(more, _FIELD)]})
    return blocks


def payload(notification: Notification) -> dict[str, object]:
    """Return the body of the request."""
    line = title(notification)
    body = _of_many(notification) if notification.kind is Kind.DIGEST else _of_one(notification)
    link = notification.link_to(notification.first)
    fallback = _cut_escaped(line, _SECTION)
    return {
        "text": f"{fallback} {escape(link)}" if link else fallback,
        "blocks": [{"type": "header", "text": _plain(line, _HEADER)}, *body],
    }


class Slack:
    """Posts to one channel's webhook."""

    def __init__(self, name: str, url: SecretStr) -> None:
        self.name = name
        self._poster = JsonPoster(url)

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`."""
        await self._poster.post(payload(notification), key=notification.id)

    async def close(self) -> None:
        """See `Sink.close`."""
        await self._poster.close()
