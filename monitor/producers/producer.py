"""From an answer to the broker, without the caller waiting: librdkafka's queue and threads do the sending.

`publish` validates, encodes and appends to a queue in memory, bounded by records and by bytes; all that is tens of
microseconds. Connecting happens in a thread of its own; compression, sending, retries and waiting in librdkafka's. That
is why it is confluent-kafka and not aiokafka here: no event loop is needed or disturbed, so that the same object serves
threads, asyncio and gevent.

**Forks.** A client does not survive a fork (its threads stay behind). The client is made at the first answer, so in
the worker and not in the master of a preforking server; where there was one before the fork, the child leaves it alone
and makes its own.

**The end.** What waits is sent at the end of the interpreter, for at most `flush_timeout` seconds; also of a child of
`multiprocessing`, where `atexit` does nothing. Servers that end by a signal or `os._exit` (uvicorn repeats the signal
that stopped it; Celery's children) run neither: call `close()` in their shutdown hook.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from multiprocessing.util import Finalize
from typing import Any

from pydantic import ValidationError

from monitor.errors import ConfigurationError, InvalidMessage
from monitor.intake.problems import first_problem
from monitor.producers import metrics
from monitor.producers.librdkafka import connection, sending
from monitor.records import OutputRecord
from monitor.settings import Settings, load_settings
from monitor.text import well_formed

try:
    from confluent_kafka import KafkaError, KafkaException, Producer
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "publishing answers needs confluent-kafka: pip install 'guardline[producer]'", name=missing.name
    ) from missing

_log = logging.getLogger("guardline.producer")  # the platform's logging, not structlog: this is its process
#: Seconds between two looks at what the broker answered.
_POLL = 0.1
#: Seconds for the reports on what was purged; they come from memory.
_REPORTS = 1.0
#: Seconds between two log lines on the same matter, and between two tries to make a client.
_SELDOM = 60.0
_AGAIN = 10.0

_Headers = list[tuple[str, str | bytes | None]]


class Outcome(StrEnum):
    """What became of an answer."""

    DELIVERED = "delivered"
    EMPTY = "empty"  # nothing in it for a reader, as in a turn of tool calls alone
    UNREADABLE = "unreadable"
    QUEUE_FULL = "queue_full"
    TOO_LARGE = "too_large"
    EXPIRED = "expired"
    REFUSED = "refused"
    UNSENT = "unsent"
    CLOSED = "closed"
    NO_CLIENT = "no_client"


_HARMLESS = (Outcome.DELIVERED, Outcome.EMPTY)
_OUTCOMES = {
    KafkaError._MSG_TIMED_OUT: Outcome.EXPIRED,
    KafkaError._PURGE_QUEUE: Outcome.UNSENT,
    KafkaError._PURGE_INFLIGHT: Outcome.UNSENT,
    KafkaError.MSG_SIZE_TOO_LARGE: Outcome.TOO_LARGE,
}


class _Seldom:
    """Says yes at once, and then no for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = -1.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@dataclass(frozen=True, slots=True)
class _Record:
    """One answer, ready to send."""

    key: bytes
    value: bytes
    headers: _Headers

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value)


class _Client:
    """One librdkafka client and how many of its answers wait."""

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        count: Callable[[Outcome, str | None], object],
        failed: Callable[[KafkaError], None],
    ) -> None:
        """Make it, which takes milliseconds, or seconds where certificates or a token are asked for.

        Raises:
            KafkaException: the options do not fit together, or there is no token.
        """
        self.waiting = 0
        self._producer = Producer({**options, "error_cb": failed})
        self._count = count
        self._failed = failed
        self._lock = threading.RLock()
        self._stop = threading.Event()

    def serve(self) -> None:
        """Run the callbacks until the end."""
        while not self._stop.wait(_POLL):
            self._call(self._producer.poll, 0)  # without waiting: under gevent that would hold up every greenlet

    def _call(self, function: Callable[[float], int], timeout: float) -> None:
        try:
            function(timeout)
        except KafkaException as error:  # so confluent-kafka reports what is fatal
            self._failed(error.args[0])
        except SystemError as error:  # the same, where it went on to a report with the exception raised
            if isinstance(error.__cause__, KafkaException):
                self._failed(error.__cause__.args[0])

    def produce(self, topic: str, record: _Record) -> None:
        """Queue one record.

        Raises:
            BufferError: there is no room.
            KafkaException: it is too large, or the client is of no use any more.
        """
        with self._lock:
            self.waiting += 1
        try:
            self._producer.produce(topic, record.value, record.key, headers=record.headers, on_delivery=self._answered)
        except BaseException:
            with self._lock:
                self.waiting -= 1
            raise

    def _answered(self, error: KafkaError | None, _: object) -> None:
        with self._lock:
            self.waiting -= 1
        if error is None:
            self._count(Outcome.DELIVERED, None)
        else:
            self._count(_OUTCOMES.get(error.code(), Outcome.REFUSED), error.str())

    def flush(self, timeout: float) -> int:
        """Wait until nothing waits, or `timeout` seconds; return how much still does."""
        self._call(self._producer.flush, timeout)
        return self.waiting

    def end(self, timeout: float) -> None:
        """Send what waits, for at most `timeout` seconds, and count the rest."""
        self._stop.set()
        if self.flush(timeout):
            self._producer.purge()
            self.flush(_REPORTS)
        for _ in range(self.waiting):  # reports that an exception took with it
            self._count(Outcome.UNSENT, None)

    def leave_behind(self) -> None:
        """Never run the destructor: in the child of a fork it would wait for threads that are not there."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))


class OutputProducer:
    """Publishes answers to `settings.topic_outputs`. Fails open: see `monitor.producers`."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        tenant: str | None = None,
        max_records: int = 10_000,
        max_bytes: int = 32_000_000,
        flush_timeout: float = 5.0,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: where the brokers are, and the topic; default: from the environment (`GUARDLINE_...`).
            tenant: of answers that name none.
            max_records: answers that may wait for the broker.
            max_bytes: bytes that may wait for it.
            flush_timeout: seconds that the end of the process may be put off for what waits.

        Raises:
            ConfigurationError: a setting is missing or wrong.
        """
        self._settings = settings or load_settings()
        self._options = {
            **connection(self._settings),
            **sending(max_records=max_records, max_bytes=max_bytes, max_record_bytes=self._settings.publish_max_bytes),
        }
        self._tenant = tenant
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._flush_timeout = flush_timeout
        self._begin()
        _producers.add(self)

    def _begin(self) -> None:
        """Be as new: in the constructor, and in the child of a fork."""
        self._lock = threading.RLock()  # an answer may come of a destructor, so in the middle of another one
        self._counts: Counter[Outcome] = Counter()
        self._client: _Client | None = None
        self._closed = False
        self._held: list[_Record] = []  # until there is a client
        self._held_bytes = 0
        self._settled: threading.Event | None = None  # of the thread that makes one: set when it has, or could not
        self._problem: str | None = None
        self._at_exit: Finalize | None = None
        self._may_connect = _Seldom(_AGAIN)
        self._may_tell_drops = _Seldom(_SELDOM)
        self._may_tell_errors = _Seldom(_SELDOM)

    def publish(
        self,
        *,
        text: str,
        id: str | None = None,  # noqa: A002  # the record's name for it
        tenant: str | None = None,
        model: str | None = None,
        conversation_id: str | None = None,
        created_at: datetime | None = None,
        partial: bool = False,
        traceparent: str | None = None,
    ) -> bool:
        """Queue one answer; return whether it is on its way. Never raises, never waits.

        Args:
            text: what the reader saw.
            id: the platform's id of the answer; without one it gets a random one.
            tenant: whom it was given for.
            model: which language model wrote it.
            conversation_id: keeps flags of one conversation in order.
            created_at: when it was written.
            partial: whether the reader left before the end.
            traceparent: W3C trace context; default: of OpenTelemetry's current span.
        """
        try:
            if not text or text.isspace():
                return self._count(Outcome.EMPTY)
            record = OutputRecord(
                id=well_formed(id or uuid.uuid4().hex),
                text=well_formed(text),
                tenant=_clean(tenant) or self._tenant,
                model=_clean(model),
                conversation_id=_clean(conversation_id),
                created_at=created_at,
                metadata={"partial": True} if partial else {},
            )
            value = record.model_dump_json(exclude_defaults=True).encode()
            headers: _Headers = [("content-type", b"application/json")]
            if trace := traceparent or _current_trace():
                headers.append(("traceparent", trace.encode()))
            return self._enqueue(_Record((record.conversation_id or record.id).encode(), value, headers))
        except Exception as error:  # the caller is about to answer somebody
            return self.unreadable("answer", error)

    def unreadable(self, what: str, error: Exception) -> bool:
        """Count an answer that could not be read, of a type called `what`; return False, for it is not on its way."""
        if isinstance(error, ValidationError):
            error = first_problem(error)
        # Other errors' texts may repeat the answer's.
        return self._count(
            Outcome.UNREADABLE, f"{what}: {error if isinstance(error, InvalidMessage) else type(error).__name__}"
        )

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """What became of the answers so far; those that wait are not in it."""
        with self._lock:
            return dict(self._counts)

    @property
    def waiting(self) -> int:
        """Answers that the broker has not acknowledged yet."""
        with self._lock:
            return len(self._held) + (self._client.waiting if self._client is not None else 0)

    def start(self) -> None:
        """Make the client now, in place of at the first answer; call it after a fork, not before.

        Raises:
            ConfigurationError: librdkafka refuses the settings.
        """
        with self._lock:
            self._connect()
            settled = self._settled
        if settled is not None:
            settled.wait()
        if self._problem is not None:
            raise ConfigurationError(f"no connection can be made to Kafka: {self._problem}")

    def flush(self, timeout: float | None = None) -> int:
        """Wait until nothing waits or `timeout` seconds are over (default: `flush_timeout`); return what still does."""
        ends = time.monotonic() + (self._flush_timeout if timeout is None else timeout)
        self._settle(ends)
        client = self._client
        if client is not None:
            client.flush(max(0.0, ends - time.monotonic()))
        return self.waiting

    def close(self) -> None:
        """Send what waits, for at most `flush_timeout` seconds, and count what could not be sent."""
        ends = time.monotonic() + self._flush_timeout
        self._settle(ends)
        with self._lock:
            client, self._client, self._closed = self._client, None, True
            self._lose_held(Outcome.UNSENT)
            if self._at_exit is not None:
                self._at_exit.cancel()
        if client is not None:
            client.end(max(0.0, ends - time.monotonic()))

    def _settle(self, ends: float) -> None:
        """Return when no client is being made, or at `ends`."""
        settled = self._settled
        if settled is not None:
            settled.wait(max(0.0, ends - time.monotonic()))

    def _enqueue(self, record: _Record) -> bool:
        with self._lock:
            if self._closed:
                return self._count(Outcome.CLOSED)
            if record.size > self._settings.publish_max_bytes:
                return self._count(Outcome.TOO_LARGE)
            if self._client is None and not self._connect():
                return self._count(Outcome.NO_CLIENT, self._problem)
            if self._client is not None:
                return self._hand_over(self._client, record)
            if len(self._held) >= self._max_records or self._held_bytes + record.size > self._max_bytes:
                return self._count(Outcome.QUEUE_FULL)
            self._held.append(record)
            self._held_bytes += record.size
            return True

    def _hand_over(self, client: _Client, record: _Record) -> bool:
        try:
            client.produce(self._settings.topic_outputs, record)
        except BufferError:
            return self._count(Outcome.QUEUE_FULL)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() == KafkaError._FATAL:
                self._failed(reason)
            return self._count(_OUTCOMES.get(reason.code(), Outcome.REFUSED), reason.str())
        return True

    def _connect(self) -> bool:
        """See to it that there is a client, or will be; return False where it is too early for another try."""
        if self._client is not None or (self._settled is not None and not self._settled.is_set()):
            return True
        if self._closed or not self._may_connect():
            return False
        self._settled = threading.Event()
        if self._at_exit is None:
            self._at_exit = Finalize(None, self.close, exitpriority=10)
        threading.Thread(target=self._run, args=(self._settled,), name="guardline-producer", daemon=True).start()
        return True

    def _run(self, settled: threading.Event) -> None:
        """Make a client and run its callbacks: in a thread of its own, since neither may keep a caller."""
        try:
            client = _Client(self._options, count=self._count, failed=self._failed)
        except Exception as error:  # whatever it is, nobody must go on waiting for a client
            with self._lock:
                self._problem = error.args[0].str() if isinstance(error, KafkaException) else type(error).__name__
                self._lose_held(Outcome.NO_CLIENT, self._problem)
                settled.set()
            return
        with self._lock:
            self._problem = None
            for record in self._taken():
                self._hand_over(client, record)
            closed = self._closed
            self._client = None if closed else client
            settled.set()
        if closed:
            client.end(0)
        client.serve()

    def _lose_held(self, outcome: Outcome, why: str | None = None) -> None:
        for _ in self._taken():
            self._count(outcome, why)

    def _taken(self) -> list[_Record]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _failed(self, error: KafkaError) -> None:
        if self._may_tell_errors():
            _log.warning("Kafka: %s; answers wait in memory while there is room, nobody who calls does", error.str())
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._replace()

    def _replace(self) -> None:
        """Give up a client that lost count of what it sent: it never works again, and another one does."""
        with self._lock:
            client, self._client, self._may_connect = self._client, None, _Seldom(_AGAIN)
        if client is not None:  # not here, which may be its own callback
            threading.Thread(target=client.end, args=(0,), name="guardline-producer-end", daemon=True).start()

    def _count(self, outcome: Outcome, why: str | None = None) -> bool:
        """Count; return False, for `publish`, whose caller learns that nothing is on its way."""
        metrics.ANSWERS.labels(outcome.value).inc()
        with self._lock:
            self._counts[outcome] += 1
        if outcome not in _HARMLESS and self._may_tell_drops():
            lost = {name.value: count for name, count in self.counts.items() if name not in _HARMLESS}
            _log.warning("answers not published, so not screened, since the start: %s (last: %s)", lost, why or outcome)
        return False

    def _leave_behind(self) -> None:
        if self._client is not None:
            self._client.leave_behind()
        self._begin()


def _clean(value: str | None) -> str | None:
    return None if value is None else well_formed(value)


def _current_trace() -> str | None:
    """Return the trace context of this call in W3C's form, where the program is traced with OpenTelemetry."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


_producers: weakref.WeakSet[OutputProducer] = weakref.WeakSet()


def _after_fork() -> None:
    for producer in list(_producers):
        producer._leave_behind()


os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def shared_producer() -> OutputProducer:
    """Return the one producer of this process, from the environment, that adapters use unless they are given another.

    Raises:
        ConfigurationError: see `OutputProducer`.
    """
    return OutputProducer()
