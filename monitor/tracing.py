"""Traces over OTLP: a span for each message, in the trace that its platform began.

Off unless `GUARDLINE_OTLP_ENDPOINT` is set, and then (extra `tracing`) each message is

```
process llm.outputs        consumer; its parent is the incoming `traceparent` (W3C Trace Context), where there is one
├── screen                 from taking its chunk to having the verdicts of all its messages
│   ├── encode             the encoder's part for the statements of that chunk, and
│   └── verify             the verifier's, where one reads
└── publish                producer; until the broker has acknowledged the events of the chunk
```

The events of a message then name our span as their parent; without tracing they carry what came in. Messages of a chunk
are worked on together, so their spans share times. Names are those of OpenTelemetry's semantic conventions for
messaging and generative AI (https://opentelemetry.io/docs/specs/semconv/), `guardline.*` where there is none. No
attribute holds message text.

Exporting fails open: spans that a collector does not take are dropped, by a thread of its own. What OpenTelemetry's own
variables say (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_...`) holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from threading import Thread
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from monitor.errors import ConfigurationError
from monitor.settings import Settings
from monitor.text import well_formed
from monitor.types import Message, MessageVerdict, Verdict

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

Headers = tuple[tuple[str, bytes], ...]

#: What a trace travels in (W3C Trace Context).
TRACE_HEADERS = ("traceparent", "tracestate")
_CLOSE_SECONDS = 5.0
_SCOPE = "guardline.monitor"


@dataclass(frozen=True, slots=True)
class _Stage:
    """A part of the work on a chunk; times in nanoseconds since the epoch."""

    name: str
    start: int
    end: int
    rows: int


_stages: ContextVar[list[_Stage] | None] = ContextVar("stages", default=None)


@contextmanager
def stage(name: str, rows: int) -> Iterator[None]:
    """Note how long a part of the work on so many statements or pairs takes, where somebody traces it."""
    noted = _stages.get()
    if noted is None:
        yield
        return
    start = time_ns()
    try:
        yield
    finally:
        noted.append(_Stage(name, start, time_ns(), rows))


def incoming(record: ConsumerRecord, message: Message | None) -> Headers:
    """Return the trace context that came with a record: in its headers, else in the CloudEvent in it."""
    trace = tuple((name, value) for name, value in record.headers if name in TRACE_HEADERS)
    return trace if trace or message is None else message.trace


class ChunkTrace(Protocol):
    """The spans of one chunk, from `begin` to the end of the `with` block; a record is known by its offset."""

    def begin(self, record: ConsumerRecord, message: Message) -> None:
        """Begin the span of a message."""
        ...

    def invalid(self, record: ConsumerRecord, reason: str) -> None:
        """Note that a record became a dead letter."""
        ...

    def headers(self, record: ConsumerRecord) -> Headers | None:
        """Return the trace context for the events of a record; None for what came in."""
        ...

    def decided(self, record: ConsumerRecord, verdict: MessageVerdict) -> None:
        """Note the verdict of a message."""
        ...

    def screened(self) -> None:
        """Note that all verdicts are there."""
        ...


class Tracing(Protocol):
    """Makes the spans of chunks."""

    def chunk(self) -> AbstractContextManager[ChunkTrace]:
        """Return a context in which one chunk is worked on."""
        ...

    async def close(self) -> None:
        """Export what waits, for a few seconds at most."""
        ...


class NoTracing:
    """Traces nothing; it is its own context and its own chunk."""

    def chunk(self) -> Self:
        """See `Tracing.chunk`."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, record: ConsumerRecord, message: Message) -> None:
        """See `ChunkTrace.begin`."""

    def invalid(self, record: ConsumerRecord, reason: str) -> None:
        """See `ChunkTrace.invalid`."""

    def headers(self, record: ConsumerRecord) -> Headers | None:  # noqa: ARG002 - see `ChunkTrace.headers`
        """Return None: what came in goes on."""
        return None

    def decided(self, record: ConsumerRecord, verdict: MessageVerdict) -> None:
        """See `ChunkTrace.decided`."""

    def screened(self) -> None:
        """See `ChunkTrace.screened`."""

    async def close(self) -> None:
        """See `Tracing.close`."""


@dataclass(slots=True)
class _OtlpChunk:
    """See `ChunkTrace`."""

    tracing: OtlpTracing
    start: int = field(default_factory=time_ns)
    screened_at: int | None = None
    spans: dict[int, Span] = field(default_factory=dict)
    stages: list[_Stage] = field(default_factory=list)

    def begin(self, record: ConsumerRecord, message: Message) -> None:
        self.spans[record.offset] = self.tracing.process_span(record, message, self.start)

    def invalid(self, record: ConsumerRecord, reason: str) -> None:
        span = self.spans.get(record.offset) or self.tracing.process_span(record, None, self.start)
        self.spans[record.offset] = span
        span.set_attribute("error.type", reason)
        self.tracing.failed(span, reason)

    def headers(self, record: ConsumerRecord) -> Headers | None:
        span = self.spans.get(record.offset)
        return None if span is None else self.tracing.headers_of(span)

    def decided(self, record: ConsumerRecord, verdict: MessageVerdict) -> None:
        span = self.spans[record.offset]
        if span.is_recording():
            span.set_attributes(_decided(verdict))

    def screened(self) -> None:
        self.screened_at = time_ns()

    def __enter__(self) -> Self:
        _stages.set(self.stages)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stages.set(None)
        end = time_ns()
        for span in self.spans.values():
            if kind is not None:
                self.tracing.failed(span, kind.__name__)
            if span.is_recording():
                self.tracing.children(span, self, end)
            span.end(end)


class OtlpTracing:
    """Exports over OTLP/HTTP, in batches, by a thread of OpenTelemetry's."""

    def __init__(self, provider: TracerProvider, *, group: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(_SCOPE, version("guardline"))
        self._propagator = TraceContextTextMapPropagator()
        self._group = group

    def chunk(self) -> AbstractContextManager[ChunkTrace]:
        """See `Tracing.chunk`."""
        return _OtlpChunk(self)

    def process_span(self, record: ConsumerRecord, message: Message | None, start: int) -> Span:
        """Begin the span of one record at `start` (ns since the epoch)."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier = {name: value.decode("latin-1") for name, value in incoming(record, message)}
        return self._tracer.start_span(
            f"process {record.topic}",
            context=self._propagator.extract(carrier, Context()),
            kind=SpanKind.CONSUMER,
            attributes=self._received(record, message),
            start_time=start,
        )

    def _received(self, record: ConsumerRecord, message: Message | None) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue | None] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": self._group,
            "messaging.message.body.size": len(record.value or b""),
        }
        if message is not None:
            attributes |= {
                "messaging.message.id": message.id,
                "gen_ai.conversation.id": message.conversation_id,
                "gen_ai.response.model": message.model,
                "guardline.tenant": message.tenant,
            }
        # A lone surrogate cannot be exported, and would take the batch that it is in with it.
        return {
            name: well_formed(value) if isinstance(value, str) else value
            for name, value in attributes.items()
            if value is not None
        }

    def headers_of(self, span: Span) -> Headers:
        """Return a span as trace context."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span, Context()))
        return tuple((name, value.encode()) for name, value in carrier.items())

    @staticmethod
    def failed(span: Span, reason: str) -> None:
        """Mark a span as failed; `reason` quotes nothing of the message."""
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, reason))

    def children(self, span: Span, chunk: _OtlpChunk, end: int) -> None:
        """Make the spans below a message's: what it took to screen its chunk, and to publish."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        below = set_span_in_context(span, Context())
        screened = chunk.screened_at or end
        screen = self._tracer.start_span("screen", context=below, start_time=chunk.start)
        inside = set_span_in_context(screen, Context())
        for part in chunk.stages:
            child = self._tracer.start_span(
                part.name, context=inside, start_time=part.start, attributes={"guardline.rows": part.rows}
            )
            child.end(part.end)
        screen.end(screened)
        if chunk.screened_at is not None:
            publish = self._tracer.start_span("publish", context=below, kind=SpanKind.PRODUCER, start_time=screened)
            publish.set_attributes({"messaging.system": "kafka", "messaging.operation.type": "send"})
            publish.end(end)

    async def close(self) -> None:
        """See `Tracing.close`."""
        closed, loop = asyncio.Event(), asyncio.get_running_loop()

        def close() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has not waited for it
                loop.call_soon_threadsafe(closed.set)

        # No thread of the loop's own, which the process would wait for: a collector that is away keeps nobody.
        Thread(target=close, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await closed.wait()


def _decided(verdict: MessageVerdict) -> dict[str, AttributeValue]:
    return {
        "gen_ai.evaluation.name": "guideline contradiction",
        "gen_ai.evaluation.score.value": verdict.score,
        "gen_ai.evaluation.score.label": verdict.verdict.value,
        "guardline.statements": len(verdict.statements),
        "guardline.statements.unsafe": len(verdict.of(Verdict.UNSAFE)),
        "guardline.statements.review": len(verdict.of(Verdict.REVIEW)),
        "guardline.statements.cached": verdict.cached,
    }


def build_tracing(settings: Settings) -> Tracing:
    """Return what the settings ask for. Connects to nothing.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"GUARDLINE_OTLP_ENDPOINT needs {error.name}: pip install 'guardline[tracing]'"
        ) from error
    own = {"service.namespace": "guardline", "service.version": version("guardline")}
    if str(Resource.create().attributes["service.name"]).startswith("unknown_service"):  # the environment names none
        own["service.name"] = "guardline-monitor"
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)  # `close` does
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OtlpTracing(provider, group=settings.group)
