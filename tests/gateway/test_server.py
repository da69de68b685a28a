"""The intake over real HTTP, in front of real brokers."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from monitor.console.users import digest
from monitor.embedded_broker import EmbeddedBroker
from monitor.errors import AccessDenied
from monitor.publisher import Event
from tests.fixtures_kafka import Broker
from tests.gateway.intake import intake
from tests.gateway.test_otlp import TEXT, exported
from tests.producers.topic import Topic

RECORD = {"id": "a", "text": "Give 200 mg.", "conversation_id": "c"}


async def test_202_means_that_the_brokers_have_it(broker: Broker) -> None:
    topic = await Topic.create(broker)
    async with intake(topic) as served:
        async with served.http.post("/v1/outputs", json=RECORD) as answer:
            assert (answer.status, await answer.json()) == (202, {"accepted": 1, "ids": ["a"]})
        (message,) = await topic.messages()
        assert (message.id, message.text) == ("a", "Give 200 mg.")
        lines = "\n".join(json.dumps(RECORD | {"id": str(number)}) for number in range(50))
        async with served.http.post(
            "/v1/outputs", data=lines, headers={"Content-Type": "application/x-ndjson"}
        ) as answer:
            assert (await answer.json())["accepted"] == 50
        assert len(await topic.messages()) == 51


async def test_what_cannot_be_read_is_told_as_a_problem_and_published_nowhere(embedded: Broker) -> None:
    topic = await Topic.create(embedded)
    async with intake(topic) as served:
        async with served.http.post("/v1/outputs", json=[RECORD, {"id": "b"}]) as answer:
            assert (answer.status, answer.content_type) == (400, "application/problem+json")
            assert await answer.json() == {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "nothing was accepted: 1 of 2 records, first number 1: text: Field required",
                "reason": "missing_field",
                "errors": [{"index": 1, "reason": "missing_field", "detail": "text: Field required"}],
            }
        for method, path, status in (("GET", "/v1/outputs", 405), ("POST", "/v1/else", 404)):
            async with served.http.request(method, path, json=RECORD) as answer:
                assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert await topic.messages() == []


async def test_a_request_that_is_too_large(embedded: Broker) -> None:
    async with intake(await Topic.create(embedded), max_bytes=1000) as served:
        for body in (b"x" * 2000, gzip.compress(b"x" * 2000)):
            headers = {"Content-Encoding": "gzip"} if body[0] == 0x1F else {}
            async with served.http.post("/v1/outputs", data=body, headers=headers) as answer:
                assert (answer.status, (await answer.json())["reason"]) == (413, "request_too_large")


async def test_only_senders_may_send_and_one_that_is_taken_out_no_more(embedded: Broker, tmp_path: Path) -> None:
    tokens = tmp_path / "senders.yaml"
    tokens.write_text(f"senders:\n  - name: one\n    sha256: {digest('right')}\n")
    async with intake(await Topic.create(embedded), tokens=tokens) as served:

        async def status(authorization: str | None) -> int:
            headers = {"Authorization": authorization} if authorization else {}
            async with served.http.post("/v1/outputs", json=RECORD, headers=headers) as answer:
                if answer.status == 401:
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                return answer.status

        assert [await status(a) for a in (None, "Bearer wrong", "Basic right", "bearer right")] == [401, 401, 401, 202]
        async with served.http.get("/live") as answer:
            assert answer.status == 200
        tokens.write_text("senders: []\n")
        assert await status("Bearer right") == 401


async def test_without_brokers_it_promises_nothing_and_says_when_to_come_back(
    embedded: Broker, embedded_broker: EmbeddedBroker
) -> None:
    topic = await Topic.create(embedded)
    async with intake(topic, patience=0.5) as served:
        embedded_broker.down()
        async with served.http.post("/v1/outputs", json=RECORD) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert (await answer.json())["reason"] == "brokers_unavailable"
        embedded_broker.up()
        for _ in range(30):
            async with served.http.post("/v1/outputs", json=RECORD) as answer:
                if answer.status == 202:
                    break
            await asyncio.sleep(0.2)
        assert answer.status == 202
        assert {message.id for message in await topic.messages()} == {"a"}


async def test_who_sends_too_slowly_makes_room(embedded: Broker) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with intake(await Topic.create(embedded), patience=0.2) as served:
        async with served.http.post("/v1/outputs", data=slowly()) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (408, "too_slow")
        assert served.gateway._in_flight == 0


async def test_pages_in_a_browser_are_no_senders(embedded: Broker) -> None:
    async with intake(await Topic.create(embedded)) as served:
        headers = {"Origin": "https://elsewhere.test", "Content-Type": "text/plain"}
        async with served.http.post("/v1/outputs", data="Give 400 mg.", headers=headers) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (403, "browser")


class Scripted:
    """A publisher that answers as it is told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.refused = 0

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return list(events[: self.refused])


async def test_what_the_brokers_find_too_large_is_named(embedded: Broker) -> None:
    publisher = Scripted()
    publisher.go.set()
    publisher.refused = 1
    async with (
        intake(await Topic.create(embedded), publisher=publisher) as served,
        served.http.post("/v1/outputs", json=[RECORD, RECORD | {"id": "b"}]) as answer,
    ):
        assert answer.status == 413
        assert [error["index"] for error in (await answer.json())["errors"]] == [0]


async def test_beyond_what_is_on_its_way_senders_are_turned_away(
    embedded: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.gateway.server._BYTES_IN_FLIGHT", 150)
    publisher = Scripted()
    async with intake(await Topic.create(embedded), publisher=publisher) as served:

        async def send() -> tuple[int, str | None]:
            async with served.http.post("/v1/outputs", json=RECORD) as answer:
                return answer.status, answer.headers.get("Retry-After")

        waiting = [asyncio.create_task(send()) for _ in range(2)]
        for _ in range(100):
            if served.gateway._in_flight > 100:
                break
            await asyncio.sleep(0.01)
        assert await send() == (503, "1")
        publisher.go.set()
        assert await asyncio.gather(*waiting) == [(202, None)] * 2
        assert await send() == (202, None)


async def test_a_broker_that_refuses_the_intake_ends_it(embedded: Broker) -> None:
    publisher = Scripted()
    publisher.go.set()
    publisher.error = AccessDenied("no grant")
    async with intake(await Topic.create(embedded), publisher=publisher) as served:
        async with served.http.post("/v1/outputs", json=RECORD) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (503, "broker_refuses")
        assert served.gateway.refused.is_set()


async def test_before_it_is_ready_and_what_an_orchestrator_asks(embedded: Broker) -> None:
    async with intake(await Topic.create(embedded)) as served:
        async with served.http.post("/v1/outputs", json=RECORD) as answer:
            assert answer.status == 202
        served.health.ready = False
        async with served.http.get("/ready") as answer:
            assert answer.status == 503
        async with served.http.post("/v1/outputs", json=RECORD) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (503, "not_ready")
        async with served.http.get("/metrics") as answer:
            assert 'guardline_intake_requests_total{status="202"}' in await answer.text()


async def test_an_opentelemetry_exporter(embedded: Broker) -> None:
    topic = await Topic.create(embedded)
    async with intake(topic) as served:
        async with served.http.post("/v1/traces", json=exported()) as answer:
            assert (answer.status, await answer.json()) == (200, {})
        assert [message.text for message in await topic.messages()] == [TEXT, TEXT]
        bad = [{"key": "gen_ai.output.messages", "value": {"stringValue": "["}}]
        logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": bad}]}]}]}
        async with served.http.post("/v1/logs", json=logs) as answer:
            partial = (await answer.json())["partialSuccess"]
            assert (answer.status, partial["rejectedLogRecords"]) == (200, "1")
            assert "unreadable_json" in partial["errorMessage"]
        async with served.http.post("/v1/logs", json={}) as answer:
            assert answer.status == 400
        protobuf = {"Content-Type": "application/x-protobuf"}
        async with served.http.post("/v1/logs", data=b"", headers=protobuf) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (415, "unsupported_content_type")
