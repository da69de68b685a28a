"""The composition root of the streaming worker: settings in, a worker out, with everything it needs handed over.

Nothing here decides anything; it builds the clients, wires the agent to its topic and closes what it opened. Neither
torch nor transformers is loaded: the model runs in ONNX Runtime or Triton.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from tempfile import gettempdir
from time import monotonic
from typing import Any, cast

import faust
import structlog

from monitor import metrics
from monitor.agents import ChunkHandler, FailureLimit, ScreenAgent
from monitor.connections.access import ensure_access
from monitor.connections.kafka import faust_credentials
from monitor.errors import GuardlineError
from monitor.events import EventFactory, Topics
from monitor.factory import build_pointer, build_publisher, build_screening, build_store
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.logs import said
from monitor.models.pointer import Alias, ModelPointer
from monitor.models.shadow import Shadow
from monitor.models.switch import Build, ModelSwitch, Serving
from monitor.pace import ChunkPace
from monitor.package import ModelPackage
from monitor.publisher import KafkaPublisher
from monitor.screening import VerdictStore
from monitor.settings import Settings
from monitor.tracing import Tracing, build_tracing
from monitor.transport import ChunkConsumer, ChunkTransport

_log = structlog.get_logger(__name__)
#: Seconds beyond the drain that closing the connections may take.
_CLOSE_TIMEOUT = 5.0
#: Seconds between two looks at lag and progress.
_MEASURE_EVERY = 5.0
#: A model server may be away for hours; by Faust's default the worker would leave the group for good after 17 minutes.
_MAX_POLL_INTERVAL = 86_400.0
#: Chunks that wait for a slot of the agent.
_BUFFERED_CHUNKS = 2


class _App(faust.App):
    """Faust without its data folder: there are no tables, and the working directory is not ours to fill."""

    logger = logging.getLogger("faust.app")  # else its lifecycle lines would come as ours

    async def on_first_start(self) -> None:
        """Make no folders."""


def build_app(settings: Settings) -> faust.App:
    """Return a Faust app with the chunk transport and without a web server, leader topic or topic creation."""
    app = _App(
        settings.group,
        broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
        broker_client_id="guardline",
        broker_commit_interval=1.0,
        broker_credentials=faust_credentials(settings),
        broker_heartbeat_interval=settings.session_timeout / 10,
        broker_max_poll_interval=_MAX_POLL_INTERVAL,
        # The group must wait for a member that drains, else its partitions move while their work is unfinished.
        broker_rebalance_timeout=settings.drain_timeout * 2,
        broker_session_timeout=settings.session_timeout,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance,
        datadir=Path(gettempdir()) / f"guardline-{os.getpid()}",
        key_serializer="raw",
        value_serializer="raw",
        stream_buffer_maxsize=_BUFFERED_CHUNKS,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    transport = ChunkTransport(
        app.conf.broker_consumer, app, pace=ChunkPace(settings.chunk_records), drain_timeout=settings.drain_timeout
    )
    app.transport = app.producer_transport = transport
    return app


class Worker:
    """One streaming worker: from `run` until SIGTERM, SIGINT or a failure that must not be survived."""

    def __init__(self, settings: Settings, package: ModelPackage) -> None:
        self._settings = settings
        self._package = package
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()

    async def run(self) -> bool:
        """Screen until told to stop; then finish what is in flight, commit and leave the group.

        Returns:
            Whether all that ended in time. If not, the process must be ended the hard way: threads of the Kafka client
            are still waiting for a broker. What was not committed will be delivered again. Also after a failure:
            `failure` says which.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        await ensure_access(self._settings, scoring=True)
        tracing = build_tracing(self._settings)
        store = build_store(self._settings)
        pointer = build_pointer(self._settings)
        publisher = build_publisher(self._settings)
        build = self._builder(store)
        models = ModelSwitch(build, build(await self._first(pointer)))
        shadow = self._shadow(build, pointer, publisher)
        app = build_app(self._settings)
        agent = self._wire(app, models, store, publisher, shadow, tracing)
        health = Health(HEARTBEAT, lambda: cast("ChunkConsumer", app.consumer).progress(), self._settings.stall_timeout)
        beside = self._beside(models, pointer, shadow)
        port = None
        try:
            if self._settings.metrics_port is not None:
                port = await health.serve(self._settings.metrics_host, self._settings.metrics_port)
            await self._serve(app, publisher, health)
        except Exception as error:
            await self._fail(error)
        health.ready = False
        drained = await self._stop_app(app)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        # Only now: a chunk that still works needs all of them.
        await agent.cancel()
        for own in (shadow, publisher, models, store, pointer, tracing):
            if own is not None:
                await own.close()
        if port is not None:
            await port.cleanup()
        return drained

    def _builder(self, store: VerdictStore) -> Build:
        """Return what makes a package ready to screen and to speak in its own name."""
        own = self._settings
        topics = Topics(
            flags=own.topic_flags,
            review=own.topic_review,
            deadletter=own.topic_deadletter,
            verdicts=own.topic_verdicts if own.emit_verdicts else None,
        )

        def build(package: ModelPackage) -> Serving:
            screening = build_screening(own, package, store)
            events = EventFactory(
                topics, model=screening.model, thresholds=screening.thresholds, include_text=own.include_text
            )
            return Serving(package, screening, events)

        return build

    async def _first(self, pointer: ModelPointer | None) -> ModelPackage:
        """Return the champion, where there is one that can be read; else the package of the settings."""
        try:
            choices = await pointer.history(Alias.CHAMPION) if pointer else []
            if choices:
                return await asyncio.to_thread(ModelPackage.load, choices[0].path)
        except GuardlineError as error:
            _log.warning("champion_unusable", error=str(error), action="beginning with GUARDLINE_MODEL")
        return self._package

    def _shadow(self, build: Build, pointer: ModelPointer | None, publisher: KafkaPublisher) -> Shadow | None:
        own = self._settings
        if pointer is None or not own.shadow_share:
            return None
        return Shadow(build, pointer, publisher, topic=own.topic_shadow, share=own.shadow_share, every=own.models_every)

    def _beside(
        self, models: ModelSwitch, pointer: ModelPointer | None, shadow: Shadow | None
    ) -> list[asyncio.Task[None]]:
        """Start what goes on beside the stream."""
        jobs = [models.follow(pointer, self._settings.models_every)] if pointer else []
        return [asyncio.create_task(job) for job in (*jobs, *([shadow.run()] if shadow else []))]

    @property
    def failure(self) -> BaseException | None:
        """What ended the worker, when it was not asked to stop: going on would have done harm."""
        return self._failure

    def _wire(
        self,
        app: faust.App,
        models: ModelSwitch,
        store: VerdictStore,
        publisher: KafkaPublisher,
        observer: Shadow | None,
        tracing: Tracing,
    ) -> ScreenAgent:
        own = self._settings
        handler = ChunkHandler(
            models=models,
            store=store,
            publisher=publisher,
            attempts=own.attempts,
            failures=FailureLimit(own.failures_per_minute),
            observer=observer,
            tracing=tracing,
        )
        agent = ScreenAgent(
            handler,
            publisher,
            pace=cast("ChunkTransport", app.transport).pace,
            in_flight=own.chunks_in_flight,
            max_bytes=own.bytes_in_flight,
            on_failure=self._fail,
        )

        async def screen(stream: Any) -> None:  # Faust wants a function
            await agent(stream)

        app.agent(app.topic(own.topic_outputs, value_type=None), name="screen")(screen)
        return agent

    async def _fail(self, error: BaseException) -> None:
        _log.error("worker_failed", error=said(error), action="stopping; unfinished records stay uncommitted")
        self._failure = self._failure or error
        self._stop.set()

    async def _serve(self, app: faust.App, publisher: KafkaPublisher, health: Health) -> None:
        """Start, and return when the worker is told to stop or Faust has crashed."""
        stopping = asyncio.create_task(self._stop.wait())
        # Connecting and the first assignment both wait for the broker; a signal must not wait for them.
        starting = asyncio.create_task(self._start(app, publisher))
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        health.ready = True  # `start` returns when the group has given this worker its partitions
        _log.info(
            "worker_started",
            model=f"{self._package.manifest.name}@{self._package.manifest.version}",
            topic=self._settings.topic_outputs,
            group=self._settings.group,
            scorer=self._settings.scorer,
            store=self._settings.store,
        )
        ended = asyncio.create_task(app.wait_until_stopped())
        measuring = asyncio.create_task(_measure(cast("ChunkConsumer", app.consumer)))
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, stopping, measuring):
            task.cancel()

    async def _start(self, app: faust.App, publisher: KafkaPublisher) -> None:
        await publisher.start()
        await app.start()

    async def _stop_app(self, app: faust.App) -> bool:
        """Stop within the drain timeout, which Faust and aiokafka do not promise by themselves."""
        deadline = self._settings.drain_timeout + _CLOSE_TIMEOUT
        stopping = asyncio.create_task(app.stop())
        done, _ = await asyncio.wait({stopping}, timeout=deadline)
        if not done:
            _log.warning("worker_not_drained", seconds=deadline, action="uncommitted records will be delivered again")
        elif stopping.cancelled():  # by something that Faust stopped on the way
            _log.error("worker_stop_cancelled", action="uncommitted records will be delivered again")
        elif (error := stopping.exception()) is not None:
            _log.error("worker_stop_failed", error=said(error), action="uncommitted records will be delivered again")
        else:
            _log.info("worker_stopped")
        if app.crashed and self._failure is None:
            self._failure = app.crash_reason
        return bool(done) and not stopping.cancelled()


async def _measure(consumer: ChunkConsumer) -> None:
    """Keep the gauges of progress current, for ever."""
    while True:
        partitions = consumer.progress()
        metrics.LAG.clear()  # what was said of partitions that are another worker's now
        for p in partitions:
            metrics.LAG.labels(p.topic, str(p.partition)).set(p.lag)
        waiting = [p.oldest for p in partitions if p.oldest is not None]
        metrics.OLDEST_SECONDS.set(monotonic() - min(waiting) if waiting else 0)
        await asyncio.sleep(_MEASURE_EVERY)
