"""The HTTP server: tells senders apart, reads, publishes, and answers when the brokers have it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

import orjson
import structlog
from aiohttp import web

from monitor.errors import AccessDenied, InvalidMessage
from monitor.gateway import metrics, otlp
from monitor.gateway.problems import Fault, Refused, response, unreadable
from monitor.gateway.reading import Item, Limits, checked, read
from monitor.gateway.senders import Senders
from monitor.health import Health
from monitor.publisher import Event, Publisher

_log = structlog.get_logger(__name__)
#: Bytes of requests worked on at once; beyond, senders are told to come back. Several times the largest request.
_BYTES_IN_FLIGHT = 64_000_000
#: Seconds after which a sender that was turned away should try again.
_FULL, _AWAY = 1, 5
_OPEN_PATHS = ("/live", "/ready", "/metrics")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Answers requests. Fails closed: see `monitor.gateway`."""

    def __init__(
        self,
        publisher: Publisher,
        limits: Limits,
        *,
        senders: Senders | None,
        health: Health,
        max_bytes: int,
        timeout: float,
    ) -> None:
        """Publish what is sent.

        Args:
            publisher: what waits for the brokers' acknowledgement.
            limits: the topic, and how large one record may be.
            senders: who may send; none: anybody who reaches the port.
            health: what says whether this process is ready.
            max_bytes: of one request.
            timeout: seconds to wait for the brokers.
        """
        self.refusal: AccessDenied | None = None
        self.refused = asyncio.Event()
        self._publisher = publisher
        self._limits = limits
        self._senders = senders
        self._health = health
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._in_flight = 0

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=self._max_bytes, middlewares=[self._guarded])
        app.add_routes(
            [
                web.post("/v1/outputs", self._outputs),
                web.post("/v1/logs", self._logs),
                web.post("/v1/traces", self._traces),
                *self._health.routes(),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn whatever goes wrong into a problem, and count."""
        if request.path in _OPEN_PATHS:
            return await handler(request)
        answer: web.StreamResponse
        try:
            self._admit(request)
            with self._room(request):
                answer = await handler(request)
        except Refused as refused:
            metrics.REFUSED.labels(refused.reason).inc()
            answer = response(refused)
        except web.HTTPRequestEntityTooLarge:
            metrics.REFUSED.labels("request_too_large").inc()
            answer = response(
                Refused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", f"send {self._max_bytes} bytes at most"
                )
            )
        except web.HTTPException as error:
            answer = response(
                Refused(HTTPStatus(error.status), "http", f"{request.method} {request.path}: {error.reason}")
            )
        metrics.REQUESTS.labels(str(answer.status)).inc()
        return answer

    def _admit(self, request: web.Request) -> None:
        if self._senders is None:
            if "Origin" in request.headers:  # any page that a browser on this machine shows could send
                raise Refused(HTTPStatus.FORBIDDEN, "browser", "browsers are not let in without a token")
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self._senders.by_token(token.strip()) is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", "send the header Authorization: Bearer TOKEN")

    @contextmanager
    def _room(self, request: web.Request) -> Iterator[None]:
        known = request.content_length is not None and "Content-Encoding" not in request.headers
        size = min(request.content_length or 0, self._max_bytes) if known else self._max_bytes
        if not self._health.ready:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", "the brokers are not connected", retry_after=_AWAY
            )
        if self._in_flight and self._in_flight + size > _BYTES_IN_FLIGHT:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too much is on its way", retry_after=_FULL)
        self._in_flight += size
        metrics.BYTES_IN_FLIGHT.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= size
            metrics.BYTES_IN_FLIGHT.set(self._in_flight)

    async def _body(self, request: web.Request) -> bytes:
        """Return the body; who sends it slowly keeps others' room."""
        try:
            async with asyncio.timeout(self._timeout):
                return await request.read()
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "the body did not come in time") from None

    async def _outputs(self, request: web.Request) -> web.Response:
        records = read(await self._body(request), request.headers, self._limits)
        await self._publish([event for _, event in records])
        return _json(HTTPStatus.ACCEPTED, {"accepted": len(records), "ids": [id_ for id_, _ in records]})

    async def _logs(self, request: web.Request) -> web.Response:
        return await self._exported(request, otlp.logs)

    async def _traces(self, request: web.Request) -> web.Response:
        return await self._exported(request, otlp.traces)

    async def _exported(self, request: web.Request, found: Callable[[bytes], Iterable[Item]]) -> web.Response:
        """Answer an exporter, which sends nothing again for what is wrong with a part: see OTLP's partial success."""
        if request.content_type != "application/json":
            raise Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_content_type", "set the exporter's encoding to json"
            )
        events: list[Event] = []
        faults: list[Fault] = []
        try:
            items = list(found(await self._body(request)))
        except InvalidMessage as error:
            raise unreadable([Fault.of(0, error)], 1) from None
        for item in items:
            try:
                events += [event for _, event in checked([item], self._limits)]
            except Refused as refused:
                faults += refused.faults
        await self._publish(events)
        if not faults:
            return _json(HTTPStatus.OK, {})
        for fault in faults:
            metrics.REFUSED.labels(fault.reason).inc()
        rejected = "rejectedLogRecords" if request.path.endswith("/logs") else "rejectedSpans"
        return _json(
            HTTPStatus.OK,
            {"partialSuccess": {rejected: str(len(faults)), "errorMessage": f"{faults[0].reason}: {faults[0].detail}"}},
        )

    async def _publish(self, events: Sequence[Event]) -> None:
        """Return when the brokers have all of them."""
        try:
            async with asyncio.timeout(self._timeout):
                too_large = await self._publisher.publish(events)
        except TimeoutError:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "brokers_unavailable",
                "the brokers did not acknowledge it in time: send it again with the same ids",
                retry_after=_AWAY,
            ) from None
        except AccessDenied as error:
            _log.error("broker_refuses", error=str(error), action="stopping")
            self.refusal = error
            self.refused.set()
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "broker_refuses", "the brokers refuse this intake", retry_after=_AWAY
            ) from None
        if too_large:
            faults = [
                Fault(index, "record_too_large", "larger than the brokers' message.max.bytes")
                for index, event in enumerate(events)
                if any(event is other for other in too_large)
            ]
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "record_too_large",
                f"{len(faults)} of {len(events)} records are larger than the brokers take; the others were accepted",
                faults=faults,
            )
        metrics.RECORDS.inc(len(events))


def _json(status: HTTPStatus, body: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
