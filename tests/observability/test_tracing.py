"""Spans as a collector receives them: over HTTP, in protobuf."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import ConsumerRecord
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes

from monitor.errors import ConfigurationError, ScorerUnavailable
from monitor.package import ModelPackage
from monitor.settings import Settings
from monitor.tracing import NoTracing, build_tracing, stage
from tests.e2e.test_worker import SAFE, UNSAFE, record, send
from tests.e2e.worker import Topics, Worker, collect
from tests.fixtures_kafka import Broker
from tests.monitor.fakes import FakeScorer, make_record
from tests.monitor.test_agents import Harness, headers

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = [("traceparent", f"00-{TRACE}-{PARENT}-01".encode()), ("tracestate", b"vendor=1")]


@dataclass
class Collector:
    """Takes spans and keeps them; `status` is its answer."""

    status: int = 200
    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.paths.append(request.path)
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.status)

    @property
    def spans(self) -> list[Span]:
        return [s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@asynccontextmanager
async def collecting(status: int = 200) -> AsyncIterator[Collector]:
    collector = Collector(status)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", collector.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def parent_of(value: bytes) -> tuple[str, str]:
    """Return the ids of trace and span in a `traceparent`."""
    _, trace, span, _ = value.decode().split("-")
    return trace, span


def incoming(offset: int, text: str, *, trace: Sequence[tuple[str, bytes]] = (), **more: Any) -> ConsumerRecord:
    value = json.dumps({"id": f"m-{offset}", "text": text, **more}).encode()
    return make_record(value, offset=offset, headers=trace)


async def traced(collector: Collector, *records: ConsumerRecord, scorer: FakeScorer | None = None) -> Harness:
    """Work on one chunk, and wait for its export."""
    tracing = build_tracing(Settings(_env_file=None, otlp_endpoint=collector.url, group="g"))  # type: ignore[call-arg]
    harness = Harness(scorer, tracing=tracing)
    try:
        await harness.handle(*records)
    finally:
        await tracing.close()
    return harness


WRONG = "The wrong remdesivir loading dose is 400 mg."
RIGHT = "The remdesivir loading dose is 200 mg."


async def test_a_message_is_a_span_in_its_platform_s_trace_and_its_events_name_it_as_parent() -> None:
    async with collecting() as collector:
        harness = await traced(collector, incoming(7, WRONG, trace=INCOMING, model="llm-1", conversation_id="c-1"))
    (span,) = collector.named("process llm.outputs")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert span.status.code == Status.STATUS_CODE_UNSET
    for event in (*harness.on("flags"), *harness.on("verdicts")):
        assert parent_of(headers(event)["traceparent"]) == (TRACE, span.span_id.hex())
        assert headers(event)["tracestate"] == b"vendor=1"
    found = attributes(span)
    assert found.items() >= {
        "messaging.system": "kafka", "messaging.operation.type": "process", "messaging.destination.name": "llm.outputs",
        "messaging.destination.partition.id": "0", "messaging.kafka.offset": 7, "messaging.consumer.group.name": "g",
        "messaging.message.id": "m-7", "gen_ai.conversation.id": "c-1", "gen_ai.response.model": "llm-1",
        "gen_ai.evaluation.score.label": "unsafe", "gen_ai.evaluation.score.value": pytest.approx(0.95, abs=0.01),
        "guardline.statements": 1, "guardline.statements.unsafe": 1,
    }.items()  # fmt: skip
    assert "400 mg" not in str(collector.requests)
    assert collector.paths == ["/v1/traces"]


async def test_below_it_is_what_screening_and_publishing_took() -> None:
    async with collecting() as collector:
        await traced(collector, incoming(0, WRONG), incoming(1, RIGHT))
    roots = {span.span_id: span for span in collector.named("process llm.outputs")}
    assert len(roots) == len({span.trace_id for span in roots.values()}) == 2
    for name, kind in (("screen", Span.SPAN_KIND_INTERNAL), ("publish", Span.SPAN_KIND_PRODUCER)):
        children = collector.named(name)
        assert {child.parent_span_id for child in children} == roots.keys()
        assert {child.kind for child in children} == {kind}
    screens = {span.span_id: span for span in collector.named("screen")}
    encodes = collector.named("encode")
    assert {span.parent_span_id for span in encodes} == screens.keys()
    for span in encodes:
        screen = screens[span.parent_span_id]
        assert screen.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= screen.end_time_unix_nano
        assert attributes(span) == {"guardline.rows": 2}
    for publish in collector.named("publish"):
        root = roots[publish.parent_span_id]
        assert root.start_time_unix_nano <= publish.start_time_unix_nano
        assert publish.end_time_unix_nano <= root.end_time_unix_nano


async def test_a_message_without_a_trace_or_with_nonsense_begins_one() -> None:
    async with collecting() as collector:
        harness = await traced(
            collector, incoming(0, WRONG), incoming(1, WRONG, trace=[("traceparent", b"\xff-not-one")])
        )
    roots = {span.span_id.hex(): span for span in collector.named("process llm.outputs")}
    assert {span.parent_span_id for span in roots.values()} == {b""}
    assert {parent_of(headers(event)["traceparent"])[1] for event in harness.on("flags")} == roots.keys()


async def test_what_the_platform_does_not_sample_is_not_exported_and_its_trace_goes_on() -> None:
    unsampled = [("traceparent", f"00-{TRACE}-{PARENT}-00".encode())]
    async with collecting() as collector:
        harness = await traced(collector, incoming(0, WRONG, trace=unsampled))
    assert collector.spans == []
    for event in harness.on("flags"):
        assert headers(event)["traceparent"].startswith(f"00-{TRACE}-".encode())
        assert headers(event)["traceparent"].endswith(b"-00")


async def test_a_dead_letter_is_a_failed_span_and_keeps_its_record_s_own_headers() -> None:
    async with collecting() as collector:
        harness = await traced(collector, make_record(b"{secret", offset=3, headers=INCOMING))
    (span,) = collector.named("process llm.outputs")
    assert span.trace_id.hex() == TRACE
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == span.status.message == "unreadable_json"
    (letter,) = harness.on("dead")
    assert headers(letter)["traceparent"] == INCOMING[0][1]
    (audit,) = harness.on("verdicts")
    assert parent_of(headers(audit)["traceparent"]) == (TRACE, span.span_id.hex())
    assert "secret" not in str(collector.requests)


async def test_a_chunk_that_stops_the_worker_ends_its_spans_as_failed() -> None:
    class Stopped(FakeScorer):
        async def score(self, texts: Sequence[str]) -> Any:
            raise asyncio.CancelledError

    async with collecting() as collector:
        with pytest.raises(asyncio.CancelledError):
            await traced(collector, incoming(0, WRONG), scorer=Stopped())
    (span,) = collector.named("process llm.outputs")
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "CancelledError")
    assert collector.named("publish") == []


async def test_every_try_on_a_model_that_is_away_is_seen() -> None:
    class Away(FakeScorer):
        tries = 0

        async def score(self, texts: Sequence[str]) -> Any:
            self.tries += 1
            if self.tries == 1:
                raise ScorerUnavailable("away")
            return await super().score(texts)

    async with collecting() as collector:
        await traced(collector, incoming(0, WRONG), scorer=Away())
    assert len(collector.named("encode")) == 2


async def test_text_that_protobuf_cannot_hold_costs_no_span() -> None:
    async with collecting() as collector:
        await traced(collector, incoming(0, WRONG, tenant="\ud83d", model="\ud83d", conversation_id="\ud83d"))
    assert len(collector.named("process llm.outputs")) == 1


@pytest.mark.parametrize("status", [400, 503, None])
async def test_a_collector_that_refuses_or_is_away_costs_spans_and_nothing_else(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.tracing._CLOSE_SECONDS", 0.2)
    async with collecting(status or 200) as collector:
        if status is None:
            collector.url = "http://127.0.0.1:9"
        harness = await traced(collector, incoming(0, WRONG), incoming(1, RIGHT))
    assert harness.audited == {0: "unsafe", 1: "safe"}


async def test_off_is_the_default_and_events_carry_what_came_in() -> None:
    tracing = build_tracing(Settings(_env_file=None))  # type: ignore[call-arg]
    assert isinstance(tracing, NoTracing)
    harness = Harness(tracing=tracing)
    await harness.handle(incoming(0, WRONG, trace=INCOMING))
    for event in (*harness.on("flags"), *harness.on("verdicts")):
        assert headers(event)["traceparent"] == INCOMING[0][1]
    with stage("encode", 1):  # notes nothing, and finds that out by one look
        pass


def test_without_opentelemetry_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"guardline\[tracing\]"):
        build_tracing(Settings(_env_file=None, otlp_endpoint="http://127.0.0.1:4318"))  # type: ignore[call-arg]


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


async def test_the_service_has_a_name_unless_the_environment_gives_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("guardline-monitor", {}), ("other", {"OTEL_SERVICE_NAME": "other"})):
        with environment(monkeypatch, **values):
            async with collecting() as collector:
                await traced(collector, incoming(0, RIGHT))
        resource = collector.requests[0].resource_spans[0].resource
        assert {a.key: a.value.string_value for a in resource.attributes}["service.name"] == name


async def test_names_are_those_of_the_conventions() -> None:
    async with collecting() as collector:
        await traced(collector, incoming(0, WRONG, model="llm", conversation_id="c", tenant="t"))
    conventions = {
        value
        for module in (gen_ai_attributes, messaging_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    names = {name for span in collector.spans for name in attributes(span)}
    assert {name for name in names if not name.startswith("guardline.")} <= conventions
    assert {name for name in names if name.startswith("gen_ai.")}


@pytest.mark.connected
@pytest.mark.model
async def test_a_running_monitor_continues_the_trace(
    embedded: Broker, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(embedded)
    async with collecting() as collector:
        worker = Worker(embedded, model_package.path, topics, tmp_path / "log", otlp_endpoint=collector.url)
        async with worker:
            await send(embedded.bootstrap, topics.names["outputs"], [record("a", UNSAFE), record("b", SAFE)])
            out = await collect(embedded.bootstrap, topics, 2, worker)
            assert await worker.stop() == 0, worker.log.read_text()[-3000:]
    roots = {span.span_id.hex(): span for span in collector.named(f"process {topics.names['outputs']}")}
    assert len(roots) == 2
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in roots.values()} == {(TRACE, PARENT)}
    assert {span.name for span in collector.spans} >= {"screen", "encode", "verify", "publish"}
    for flag in (*out["flags"], *out["verdicts"]):
        assert parent_of(dict(flag.headers)["traceparent"])[1] in roots
    assert len(out["flags"]) == 1
    assert "loading dose" not in str(collector.requests)
