"""What a team does with the platform, and sees: each function does one thing and fails if it is not so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from confluent_kafka import KafkaError, Producer
from httpx import AsyncClient
from redis.exceptions import NoPermissionError

from monitor.canary.identity import TENANT as CANARY
from monitor.connections.kafka import kafka_options, refusal
from monitor.connections.redis import redis_client
from monitor.feedback.adjudication import Status, adjudicate
from monitor.producers import Outcome, OutputProducer
from monitor.producers.librdkafka import connection
from monitor.records import Decision, FeedbackRecord, FlagRecord, VerdictRecord
from monitor.settings import Settings, load_settings
from tests.console.site import Visitor
from tests.fixtures_kafka import consume_all, produce
from tests.fixtures_secured import SecuredKafka
from tests.observability.tools import alerts_at, get
from tests.platform.components import Components
from tests.platform.credentials import PLATFORM, Credentials
from tests.security.guardline import Guardline

_Value = TypeVar("_Value")
#: For what another process does; nothing takes this long but on a machine that is very busy.
_PATIENCE = 90.0
_DEFAULTS = Settings.model_fields
FLAGS, VERDICTS, FEEDBACK = (
    str(_DEFAULTS[name].default) for name in ("topic_flags", "topic_verdicts", "topic_feedback")
)


@dataclass(frozen=True)
class Answer:
    """An answer of a language model, and whether it must be flagged."""

    id: str
    tenant: str
    text: str
    unsafe: bool


ANSWERS = (
    Answer("dose", "riverside", "Remdesivir is given as a 400 mg loading dose on day 1.", True),
    Answer("frequency", "riverside", "From day 2, adults receive 200 mg of remdesivir twice daily.", True),
    Answer("route", "hillcrest", "Remdesivir can be given by mouth as a tablet.", True),
    Answer("correct", "riverside", "From day 2, adults receive 100 mg of remdesivir once daily.", False),
    Answer("elsewhere", "hillcrest", "Our cafeteria opens at noon.", False),
    Answer("published", "riverside", "Remdesivir is given as a 300 mg loading dose on day 1.", True),
)
BY_HTTP = ANSWERS[:-1]
_UNSAFE = sum(answer.unsafe for answer in ANSWERS)


async def until(what: str, look: Callable[[], Awaitable[_Value | None]]) -> _Value:
    """Look again and again until something is found.

    Raises:
        AssertionError: it never was.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            while (found := await look()) is None:  # noqa: ASYNC110 - other processes' doing
                await asyncio.sleep(0.2)
            return found
    except TimeoutError:
        raise AssertionError(f"{what}: not within {_PATIENCE:.0f} s") from None


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Return the settings of a process with this environment."""
    prefix = "GUARDLINE_"
    return load_settings(**{k.removeprefix(prefix).lower(): v for k, v in environment.items() if k.startswith(prefix)})


# Who may not


async def refused(components: Components) -> list[str]:
    """Try what nobody may; return what was refused."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{components.intake}/v1/outputs", json={"id": "x", "text": "x"}) as answer:
            assert answer.status == 401, f"without a token the intake answers {answer.status}"
        async with session.get(f"{components.console}/", allow_redirects=False) as page:
            assert (page.status, page.headers["Location"][:6]) == (303, "/login"), page.status
    sender, alerts = (settings_of(components.environments[name]) for name in ("intake", "alerts"))
    wrong = settings_of({**components.environments["monitor"], "GUARDLINE_KAFKA_PASSWORD": "wrong"})
    assert await refusal(kafka_options(wrong)) is not None, "Kafka takes a wrong password"
    error = await asyncio.to_thread(_error_of_writing, sender, FLAGS)
    assert error is not None, "the intake's user may write flags"
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error.str()
    async with redis_client(alerts) as client:
        try:
            await client.get("guardline:score:x")
        except NoPermissionError:
            pass
        else:
            raise AssertionError("the user of alerts may read the monitor's keys in Redis")
    return [
        "answers without a token (HTTP 401)",
        "the console without a login",
        "a wrong password at Kafka",
        f"the intake's user writing to {FLAGS}",
        "the user of alerts reading the monitor's keys in Redis",
    ]


def _error_of_writing(settings: Settings, topic: str) -> KafkaError | None:
    """Return why Kafka did not take a record from this user."""
    errors: list[KafkaError | None] = []
    producer = Producer({**connection(settings), "message.timeout.ms": 20_000})
    producer.produce(topic, b"{}", on_delivery=lambda error, _: errors.append(error))
    producer.flush(30)
    return errors[0]


# From an answer to an alert


async def send(components: Components, credentials: Credentials) -> None:
    """Send the answers: one as a team's program publishes it, the others to the intake."""
    headers = {"Authorization": f"Bearer {credentials.sender}"}
    url = f"{components.intake}/v1/outputs"
    async with aiohttp.ClientSession(headers=headers) as session:
        for own in BY_HTTP:
            async with session.post(url, json={"id": own.id, "tenant": own.tenant, "text": own.text}) as answer:
                assert answer.status == 202, f"{answer.status}: {await answer.text()}"
    await asyncio.to_thread(_publish, settings_of(components.environments[PLATFORM]), ANSWERS[-1])


def _publish(settings: Settings, answer: Answer) -> None:
    producer = OutputProducer(settings)
    producer.publish(id=answer.id, tenant=answer.tenant, text=answer.text)
    producer.close()
    assert producer.counts == {Outcome.DELIVERED: 1}, producer.counts


async def flagged(kafka: SecuredKafka) -> list[FlagRecord]:
    """Return the flags on the answers once every answer has its verdict: the right ones, each once."""
    sent = {answer.id for answer in ANSWERS}

    async def decided() -> list[FlagRecord] | None:
        verdicts = [VerdictRecord.model_validate_json(r.value) for r in await consume_all(kafka.plaintext, VERDICTS)]
        flags = [FlagRecord.model_validate_json(r.value) for r in await consume_all(kafka.plaintext, FLAGS)]
        own = sorted((flag for flag in flags if flag.tenant != CANARY), key=lambda flag: flag.message_id)
        # A verdict may be there a moment before the flags of its message.
        done = sent <= {verdict.message_id for verdict in verdicts} and len(own) >= _UNSAFE
        return own if done else None

    flags = await until("a verdict on every answer", decided)
    found, right = [flag.message_id for flag in flags], sorted(answer.id for answer in ANSWERS if answer.unsafe)
    assert found == right, f"flagged are {found}, and should be {right}"
    return flags


async def alerted(alertmanager: str, flags: Sequence[FlagRecord]) -> list[dict[str, Any]]:
    """Return the alerts on these flags, as Alertmanager's API has them."""
    expected = {flag.message_id for flag in flags}

    async def held() -> list[dict[str, Any]] | None:
        found = [a for a in await alerts_at(alertmanager) if a["labels"]["alertname"] == "GuardlineFlag"]
        return found if {alert["labels"]["message_id"] for alert in found} >= expected else None

    alerts = await until("an alert for every flag", held)
    assert len(alerts) == len(expected), [alert["labels"] for alert in alerts]  # no canary, no answer that is right
    return alerts


# Review, alarm, audit


async def reviewed(components: Components, credentials: Credentials, kafka: SecuredKafka, flag: FlagRecord) -> Status:
    """Have two reviewers log in, reveal the text and accept a flag; return how far its review has come then."""
    (text,) = (answer.text for answer in ANSWERS if answer.id == flag.message_id)
    for token in credentials.reviewers.values():
        async with AsyncClient(base_url=components.console, timeout=30) as client:
            reviewer = Visitor(client)
            login = await reviewer.post("/login", token=token)
            assert login.status_code == 303, login.text

            async def page(reviewer: Visitor = reviewer) -> bool | None:
                return (await reviewer.get(f"/flags/{flag.id}")).status_code == 200 or None

            await until("the flag in the console", page)
            revealed = await reviewer.post(f"/flags/{flag.id}/reveal")
            assert text in revealed.text, f"the message is not shown: {revealed.status_code}"
            decision = await reviewer.post(f"/flags/{flag.id}/decision", decision=Decision.ACCEPT.value)
            assert decision.status_code == 303, decision.text
    records = [FeedbackRecord.model_validate_json(r.value) for r in await consume_all(kafka.plaintext, FEEDBACK)]
    outcome = adjudicate(records)
    assert (outcome.status, outcome.decision) == (Status.SETTLED, Decision.ACCEPT), outcome
    return outcome.status


async def alarmed(prometheus: str, alertmanager: str, kafka: SecuredKafka, alarm: str) -> dict[str, Any]:
    """Write what is no flag among the flags; return the alarm that Prometheus' rule raises for it at Alertmanager."""

    async def counted() -> bool | None:
        # A counter that was never seen at 0 has not increased, by Prometheus' reckoning.
        return await value(prometheus, 'guardline_alerts_flags_total{job="alerts",outcome="unreadable"}') == 0 or None

    async def held() -> dict[str, Any] | None:
        return next((a for a in await alerts_at(alertmanager) if a["labels"]["alertname"] == alarm), None)

    await until("Prometheus' first look at the alerts' counters", counted)
    await produce(kafka.plaintext, FLAGS, [b"no flag"])
    return await until(f"the alarm {alarm}", held)


async def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """Return the series that Prometheus answers with."""
    answer = await asyncio.to_thread(get, f"{prometheus}/api/v1/query", query=expression)
    assert answer["status"] == "success", f"{expression}: {answer}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


async def value(prometheus: str, expression: str) -> float | None:
    """Return the value of an expression that has one."""
    found = await query(prometheus, expression)
    return float(found[0]["value"][1]) if found else None


#: Questions to Prometheus, and the least and the most that is right as an answer.
FIGURES: Mapping[str, tuple[float, float]] = {
    "count(up == 1)": (6, 6),
    "sum(guardline_intake_records_total)": (len(BY_HTTP), len(BY_HTTP)),
    'sum(guardline_messages_total{verdict="unsafe"})': (_UNSAFE, float("inf")),
    "sum(topic:guardline_lag_records:sum)": (0, float("inf")),
    'sum(guardline_alerts_notifications_total{outcome="delivered"})': (1, float("inf")),
    'sum(guardline_canary_outcomes_total{outcome="ok"})': (2, float("inf")),
    "max(guardline_canary_alarm)": (0, 0),
    "sum(guardline_console_decisions_total)": (2, 2),
    'sum(guardline_audit_entries_total{kind="decision"})': (2, 2),
    'sum(guardline_audit_entries_total{kind="reveal"})': (2, 2),
    "guardline_audit_last_seq": (1, float("inf")),
    "count(guardline_model_info == 1)": (1, 1),
}


async def figures(prometheus: str) -> dict[str, float]:
    """Return what Prometheus answers, once all of it is right."""
    found: dict[str, float | None] = {}

    async def right() -> dict[str, float] | None:
        for expression in FIGURES:
            found[expression] = await value(prometheus, expression)
        good = {e: v for e, v in found.items() if v is not None and FIGURES[e][0] <= v <= FIGURES[e][1]}
        return good if len(good) == len(FIGURES) else None

    try:
        return await until("the figures", right)
    except AssertionError as error:
        wrong = {e: v for e, v in found.items() if v is None or not FIGURES[e][0] <= v <= FIGURES[e][1]}
        raise AssertionError(f"{error}: {wrong}") from None


async def verified(components: Components, prometheus: str) -> dict[str, Any]:
    """Have the audit log verified, up to a hash that Prometheus kept; return what `guardline audit verify` says."""
    (checkpoint,) = (series["metric"] for series in await query(prometheus, "guardline_audit_checkpoint_info"))
    log, environment = components.logs / "verify.log", components.environments["audit"]
    async with Guardline(
        "audit", "verify", "--json", "--head", checkpoint["hash"], log=log, environment=environment
    ) as process:
        code = await process.ended()
    assert code == 0, process.said
    said: dict[str, Any] = json.loads(process.said)
    return said


def discreet(logs: Mapping[str, str], secrets: Iterable[str]) -> int:
    """Look for every secret and for the text of every answer in what was logged; return how many characters that is."""
    for name, said in logs.items():
        assert not [secret for secret in secrets if secret in said], f"a secret is in the log of {name}"
        assert not [a.id for a in ANSWERS if a.text in said], f"message text is in the log of {name}"
    return sum(map(len, logs.values()))
