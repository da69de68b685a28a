"""Payloads against the receivers' documentation, and what sinks make of the answers."""

from __future__ import annotations

import email
import email.policy
import io
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, SecretStr
from rich.console import Console

from monitor.alerts.config import EmailSink
from monitor.alerts.notification import Notification
from monitor.alerts.sinks import SinkRefused, SinkUnavailable, alertmanager, pagerduty, slack, webhook
from monitor.alerts.sinks.alertmanager import Alertmanager
from monitor.alerts.sinks.http import retry_after
from monitor.alerts.sinks.local import File, Terminal
from monitor.alerts.sinks.mail import Email
from monitor.alerts.sinks.pagerduty import PagerDuty
from monitor.alerts.sinks.slack import Slack
from monitor.alerts.sinks.webhook import Webhook
from tests.alerts.flags import NOON, make_item, make_lane
from tests.alerts.schemas import AlertmanagerWebhook, PagerDutyEvent, PostableAlerts, SlackMessage
from tests.alerts.servers import receiving, taking_mail

KEY = SecretStr("k" * 32)
LINK = "https://console.example.org/flags/{id}"
#: Longer than any limit, and with everything that means something to a receiver.
HOSTILE = "<!channel> *bold* [red] \x1b[31m\u202e & \r\nBcc: x@example.org {id} " * 300


def notification(*, flags: int = 1, digest: bool = False, text: bool = True, **changes: Any) -> Notification:
    """Return what a lane makes of so many flags."""
    route = {"include_text": text, "group": {"wait": 1}, "budget": {"per_day": 0 if digest else None}}
    lane = make_lane(route, link=LINK)
    for number in range(flags):
        each = {"recommendation": f"rem-{number}"} if digest else {}
        lane.add(make_item(number, **each | changes), NOON)
    return lane.flush(NOON + 1)[0].notification


ALL = [
    pytest.param(notification(), id="one"),
    pytest.param(notification(flags=30), id="storm"),
    pytest.param(notification(flags=30, digest=True), id="digest"),
    pytest.param(notification(text=False), id="without text"),
    pytest.param(notification(tenant=None, verdict="review", score=0.5), id="no tenant"),
    pytest.param(
        notification(
            statement=HOSTILE, reason=HOSTILE, tenant=HOSTILE, category=HOSTILE, message_id=HOSTILE,
            recommendation=HOSTILE,
        ),
        id="hostile",
    ),
    pytest.param(notification(flags=30, digest=True, tenant=HOSTILE, category=HOSTILE), id="hostile digest"),
]  # fmt: skip


def valid(model: type[BaseModel], payload: dict[str, object]) -> dict[str, Any]:
    """Return a payload as it arrives, after checking it."""
    wire = json.dumps(payload)
    model.model_validate_json(wire)
    read: dict[str, Any] = json.loads(wire)
    return read


#: When the tests' alerts for Alertmanager end.
LATER = datetime.fromtimestamp(NOON + 3600, UTC)


@pytest.mark.parametrize("alert", ALL)
def test_payloads_are_what_the_receivers_document(alert: Notification) -> None:
    hook = valid(AlertmanagerWebhook, webhook.payload(alert))
    assert len(hook["alerts"]) + hook["truncatedAlerts"] == alert.count
    event = valid(PagerDutyEvent, pagerduty.payload(alert, KEY))
    assert len(orjson.dumps(event)) < 512_000
    message = valid(SlackMessage, slack.payload(alert))
    assert "<!channel>" not in json.dumps([b for b in message["blocks"] if "mrkdwn" in json.dumps(b)])
    assert "<!channel>" not in message["text"]


def test_schemas_refuse_what_is_not_documented() -> None:
    for model, payload in (
        (AlertmanagerWebhook, webhook.payload(notification())),
        (PagerDutyEvent, pagerduty.payload(notification(), KEY)),
        (SlackMessage, slack.payload(notification())),
    ):
        with pytest.raises(ValueError):
            valid(model, payload | {"extra": 1})
        for name in ("alerts", "payload", "blocks"):
            if name in payload:
                with pytest.raises(ValueError):
                    valid(model, payload | {name: None})


def test_an_alertmanager_receiver_finds_group_labels_and_times() -> None:
    alert = notification(flags=2)
    hook = webhook.payload(alert)
    assert hook["groupLabels"] == {
        "alertname": "GuardlineFlag", "category": "dose", "guideline": "covid", "recommendation": "rem-1.2",
        "route": "all", "tenant": "north", "verdict": "unsafe",
    }  # fmt: skip
    assert isinstance(hook["alerts"], list)
    first, second = hook["alerts"]
    assert first["labels"]["flag_id"] != second["labels"]["flag_id"]
    assert first["fingerprint"] != second["fingerprint"]
    assert (first["startsAt"], first["endsAt"]) == ("2026-03-02T12:00:00+00:00", "0001-01-01T00:00:00Z")
    assert first["generatorURL"] == f"https://console.example.org/flags/{alert.first.id}"
    assert hook["externalURL"] == "https://console.example.org/flags/"


def test_pagerduty_gets_the_same_key_for_the_same_group_and_another_for_another() -> None:
    keys = [
        pagerduty.payload(alert, KEY)["dedup_key"]
        for alert in (notification(), notification(message_id="other"), notification(recommendation="rem-9"))
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("alert", [notification(text=False), notification(flags=9, digest=True, text=False)])
def test_no_sink_shows_text_unless_the_route_says_so(alert: Notification, capsys: pytest.CaptureFixture[str]) -> None:
    payloads: list[object] = [
        webhook.payload(alert), slack.payload(alert), pagerduty.payload(alert, KEY), alertmanager.payload(alert, LATER),
    ]  # fmt: skip
    assert "Maria" not in json.dumps(payloads)
    assert "400 mg" not in json.dumps(payloads)
    assert LINK.replace("{id}", alert.first.id) in json.dumps(slack.payload(alert))


def test_text_is_shown_where_the_route_says_so() -> None:
    alert = notification()
    for shown in (webhook.payload(alert), slack.payload(alert), alertmanager.payload(alert, LATER)):
        assert "Give Maria 400 mg on day 1." in json.dumps(shown)


async def test_a_webhook_posts_json_with_its_token_and_key() -> None:
    async with receiving() as receiver:
        sink = Webhook("out", SecretStr(receiver.url), SecretStr("hush"))
        alert = notification()
        await sink.send(alert)
        await sink.send(alert)
        await sink.close()
    assert receiver.paths == ["/hush-hush"] * 2
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert receiver.headers[0]["Authorization"] == "Bearer hush"
    assert receiver.headers[0]["Idempotency-Key"] == receiver.headers[1]["Idempotency-Key"] == alert.id
    assert receiver.taken == [webhook.payload(alert)]


@pytest.mark.parametrize("alert", ALL)
def test_alertmanager_gets_an_alert_for_every_flag_that_is_shown(alert: Notification) -> None:
    posted = alertmanager.payload(alert, LATER)
    PostableAlerts.model_validate_json(json.dumps(posted))
    assert [one["labels"]["flag_id"] for one in json.loads(json.dumps(posted))] == [flag.id for flag in alert.shown]
    counts = {flag.id: str(group.count) for group in alert.groups for flag in group.flags}
    assert {one["labels"]["flag_id"]: one["annotations"]["count"] for one in json.loads(json.dumps(posted))} == counts


def test_an_alert_from_the_future_ends_no_earlier_than_it_starts() -> None:
    (posted,) = alertmanager.payload(notification(received_at=LATER + timedelta(days=9)), LATER)
    assert posted["startsAt"] == posted["endsAt"] == LATER.isoformat()


async def test_alertmanager_is_posted_to_below_its_address_and_the_alert_has_an_end() -> None:
    now = datetime.fromtimestamp(NOON, UTC)
    async with receiving() as receiver:
        sink = Alertmanager(
            "am", SecretStr(receiver.url + "/"), SecretStr("hush"), resolve_after=3600, clock=lambda: now
        )
        await sink.send(notification())
        await sink.close()
    assert receiver.paths == ["/hush-hush/api/v2/alerts"]
    assert receiver.headers[0]["Authorization"] == "Bearer hush"
    assert receiver.bodies == [alertmanager.payload(notification(), LATER)]


async def test_slack_and_pagerduty_post_what_is_documented() -> None:
    async with receiving((200, {}), (202, {})) as receiver:
        for sink in (Slack("chat", SecretStr(receiver.url)), PagerDuty("oncall", receiver.url, KEY)):
            await sink.send(notification())
            await sink.close()
    SlackMessage.model_validate_json(json.dumps(receiver.bodies[0]))
    PagerDutyEvent.model_validate_json(json.dumps(receiver.bodies[1]))


@pytest.mark.parametrize(
    ("status", "headers", "error", "wait"),
    [
        (429, {"Retry-After": "7"}, SinkUnavailable, 7.0),
        (429, {"Retry-After": "soon"}, SinkUnavailable, None),
        (503, {"Retry-After": "2"}, SinkUnavailable, 2.0),
        (500, {}, SinkUnavailable, None),
        (408, {}, SinkUnavailable, None),
        (400, {}, SinkRefused, None),
        (404, {}, SinkRefused, None),
        (302, {"Location": "http://127.0.0.1:9/elsewhere"}, SinkRefused, None),
    ],
)
async def test_an_answer_says_whether_another_try_is_worth_it(
    status: int, headers: dict[str, str], error: type[Exception], wait: float | None
) -> None:
    async with receiving((status, headers)) as receiver:
        sink = Slack("chat", SecretStr(receiver.url))
        with pytest.raises(error, match=f"HTTP {status}") as caught:
            await sink.send(notification())
        await sink.close()
    assert getattr(caught.value, "retry_after", None) == wait
    assert len(receiver.bodies) == 1


def test_retry_after_may_be_a_date() -> None:
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert retry_after(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True), now) == 0
    assert retry_after("Mon, 02 Mar 2026 12:00:05 -0000", now) == 5
    assert [retry_after(bad, now) for bad in (None, "", "-1", "²", "nan")] == [None] * 5


async def test_a_refused_connection_may_be_tried_again_and_names_no_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/hush-hush"
        sink = Slack("chat", SecretStr(url))
        with pytest.raises(SinkUnavailable) as caught:
            await sink.send(notification())
        await sink.close()
    assert str(caught.value) == "ClientConnectorError"


async def test_a_secret_that_is_no_url_is_refused_without_showing_it() -> None:
    sink = Slack("chat", SecretStr("https://hush:port/"))
    with pytest.raises(SinkRefused) as caught:
        await sink.send(notification())
    await sink.close()
    assert "hush" not in str(caught.value)


def mailer(port: int, **changes: Any) -> Email:
    config = {"type": "email", "host": "127.0.0.1", "port": port, "tls": "none", "sender": "g@example.org",
              "to": ["a@example.org", "b@example.org"], "timeout": 5}  # fmt: skip
    return Email("mail", EmailSink.model_validate(config | changes), None)


@pytest.mark.parametrize("alert", ALL)
async def test_mail_arrives_once_whole_and_in_the_thread_of_its_group(alert: Notification) -> None:
    async with taking_mail() as server:
        await mailer(server.port).send(alert)
    (raw,) = server.mails
    mail = email.message_from_string(raw, policy=email.policy.default)
    assert mail["Message-ID"] == f"<{alert.id}@guardline.invalid>"
    assert mail["References"] == f"<{alert.key}@guardline.invalid>"
    assert (mail["To"], mail["Bcc"]) == ("a@example.org, b@example.org", None)
    assert len(mail["Subject"]) <= 200
    body = mail.get_content()
    assert f"https://console.example.org/flags/{alert.first.id}" in body
    assert "\x1b" not in body


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"RCPT": "450 later"}, SinkUnavailable),
        ({"RCPT": "550 nobody"}, SinkRefused),
        ({"DATA": "451 later"}, SinkUnavailable),
        ({"MAIL": "550 not you"}, SinkRefused),
        ({"EHLO": "421 closing", "HELO": "421 closing"}, SinkUnavailable),
    ],
)
async def test_temporary_smtp_answers_are_tried_again_and_permanent_ones_not(
    answers: dict[str, str], error: type[Exception]
) -> None:
    async with taking_mail(**answers) as server:
        with pytest.raises(error):
            await mailer(server.port).send(notification())


async def test_mail_is_not_sent_in_the_clear_where_tls_is_asked_for() -> None:
    async with taking_mail() as server:
        with pytest.raises(SinkRefused, match="STARTTLS"):
            await mailer(server.port, tls="starttls").send(notification())
    assert server.mails == []


async def test_a_file_gets_one_json_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    for alert in (notification(), notification(flags=3)):
        await File("log", path).send(alert)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["count"] for line in lines] == [1, 3]
    with pytest.raises(SinkUnavailable, match="IsADirectoryError"):
        await File("log", tmp_path).send(notification())


@pytest.mark.parametrize("alert", ALL)
async def test_the_terminal_shows_an_alert_and_obeys_no_escape(alert: Notification) -> None:
    console = Console(file=io.StringIO(), highlight=False, width=100)
    await Terminal("screen", console).send(alert)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert alert.first.id in shown
    assert not set(shown) & {"\x1b", "\u202e", "\r"}
