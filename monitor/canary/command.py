"""`guardline canary`: the process around the worker."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import structlog
from aiokafka import AIOKafkaConsumer

from monitor.alerts.sinks.alertmanager import poster
from monitor.alerts.sinks.http import JsonPoster
from monitor.alerts.worker import start
from monitor.canary.alarms import Announcer
from monitor.canary.backlog import measure, partitions_of
from monitor.canary.expected import Expected
from monitor.canary.worker import Broker, CanaryWorker
from monitor.connections.access import ensure_access
from monitor.connections.kafka import kafka_options, refusal
from monitor.factory import build_pointer, build_publisher, build_store
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.logs import configure
from monitor.replay.reading import stopping_on_signals
from monitor.settings import Settings, load_settings

_log = structlog.get_logger(__name__)
_PLACES_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Loop:
    """`monitor.health.Progress`: the loop always has something to do."""

    lag: int = 1


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    """Return a reader of flags, and of verdicts where there are any; of no group: it sees all, from when it began."""
    return AIOKafkaConsumer(
        *(settings.topic_flags, *([settings.topic_verdicts] if settings.emit_verdicts else [])),
        **kafka_options(settings),
        client_id="guardline-canary",
        enable_auto_commit=False,
        auto_offset_reset="latest",
    )


async def _find_places(consumer: AIOKafkaConsumer) -> None:
    """Wait until it is known where reading begins, though not for long: what comes before that would be missed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PLACES_SECONDS):
            for partition in consumer.assignment():
                await consumer.position(partition)


async def _serve(settings: Settings, alertmanager: JsonPoster | None) -> None:
    await ensure_access(settings, scoring=False)
    pointer = build_pointer(settings)
    store = build_store(settings)
    publisher = build_publisher(settings)
    worker = CanaryWorker(
        settings,
        expected=Expected(settings, pointer),
        publisher=publisher,
        broker=Broker(partitions=lambda: partitions_of(settings), measure=lambda: measure(settings)),
        announcer=Announcer(alertmanager, group=settings.group),
        store=store,
        clock=time.time,
    )
    health = Health(HEARTBEAT, lambda: [_Loop()], settings.stall_timeout)
    stop = asyncio.Event()
    port = await health.serve(settings.metrics_host, settings.metrics_port) if settings.metrics_port else None
    try:
        with stopping_on_signals(stop):
            consumer = await start(lambda: _consumer(settings), lambda: refusal(kafka_options(settings)), stop)
            if consumer is None:
                return
            try:
                await _find_places(consumer)
                health.ready = True
                _log.info("canary_started", group=settings.group, every=settings.canary_every)
                await worker.run(consumer, stop)
            finally:
                health.ready = False
                await consumer.stop()
    finally:
        for own in (alertmanager, publisher, store, pointer):
            if own is not None:
                await own.close()
        if port is not None:
            await port.cleanup()
        _log.info("canary_stopped")


@click.command()
@click.option(
    "--messages",
    "canary_messages",
    type=click.Path(path_type=Path),
    help='Canaries, a {"text", "verdict"} a line; default: the model package\'s.  [env: GUARDLINE_CANARY_MESSAGES]',
)
@click.option("--model", type=click.Path(path_type=Path), help="Model package.  [env: GUARDLINE_MODEL]")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--every", "canary_every", type=float, help="Seconds between rounds.  [env: GUARDLINE_CANARY_EVERY]")
@click.option("--within", "canary_within", type=float, help="Seconds to come back.  [env: GUARDLINE_CANARY_WITHIN]")
def command(
    canary_messages: Path | None,
    model: Path | None,
    kafka_bootstrap: str | None,
    canary_every: float | None,
    canary_within: float | None,
) -> None:
    """Send messages whose verdicts are known and watch that they come back, until SIGTERM or Ctrl-C.

    Watches as well how long records wait, whether fewer messages are flagged than before, and whether scores have
    moved. What is wrong is in /metrics, in the log and, with GUARDLINE_CANARY_ALERTMANAGER, an alert there. Run one
    for each consumer group, with the monitors' own settings.

    Exits with 0 after an orderly stop; 2 for wrong usage or configuration; 3 when the broker refuses.
    """
    settings = load_settings(
        canary_messages=canary_messages,
        model=model,
        kafka_bootstrap=kafka_bootstrap,
        canary_every=canary_every,
        canary_within=canary_within,
    )
    configure(settings.log_level, settings.log_format)
    asyncio.run(_serve(settings, poster(settings.canary_alertmanager) if settings.canary_alertmanager else None))
