"""`guardline alerts`: the process around the worker, a check of its file, and a test alert."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import structlog
from aiokafka import AIOKafkaConsumer

from monitor.alerts.config import AlertsConfig, Route, load_config
from monitor.alerts.sinks.build import build_sinks
from monitor.alerts.trial import send_trial
from monitor.alerts.worker import AlertsWorker, start
from monitor.connections.access import ensure_access
from monitor.connections.kafka import group_consumer, kafka_options, refusal
from monitor.errors import ConfigurationError
from monitor.factory import build_publisher, build_store
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.logs import configure
from monitor.replay.reading import stopping_on_signals
from monitor.settings import Settings, load_settings

_log = structlog.get_logger(__name__)
_UNDELIVERED, _NOT_DRAINED = 1, 4
_DAY = 86_400_000


def _route(config: AlertsConfig, name: str) -> Route:
    for route in config.routes:
        if route.name == name:
            return route
    known = ", ".join(route.name for route in config.routes)
    raise ConfigurationError(f"no route {name}: there are {known}")


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    # A full queue stops reading; the group must not take that for death.
    return group_consumer(settings, "alerts", max_poll_interval_ms=_DAY)


async def _serve(settings: Settings, config: AlertsConfig) -> bool:
    """Run until a signal; return whether everything was drained."""
    await ensure_access(settings, scoring=False)
    sinks = build_sinks(config)
    store = build_store(settings)
    publisher = build_publisher(settings)
    worker = AlertsWorker(config, sinks=sinks, store=store, publisher=publisher, clock=time.time)
    health = Health(HEARTBEAT, worker.progress, settings.stall_timeout)
    stop = asyncio.Event()
    port = await health.serve(settings.metrics_host, settings.metrics_port) if settings.metrics_port else None
    topics = [settings.topic_flags, *([settings.topic_review] if config.review else [])]
    try:
        with stopping_on_signals(stop):
            consumer = await start(lambda: _consumer(settings), lambda: refusal(kafka_options(settings)), stop)
            if consumer is None:
                return True
            try:
                health.ready = True
                _log.info("alerts_started", topics=topics, routes=[r.name for r in config.routes], sinks=sorted(sinks))
                return await worker.run(consumer, topics, stop, settings.drain_timeout)
            finally:
                health.ready = False
                await consumer.stop()
    finally:
        for sink in sinks.values():
            await sink.close()
        await publisher.close()
        await store.close()
        if port is not None:
            await port.cleanup()
        _log.info("alerts_stopped")


async def _test(config: AlertsConfig, route: Route) -> dict[str, str]:
    sinks = build_sinks(config)
    try:
        return await send_trial(config, route, sinks, datetime.now(UTC))
    finally:
        for sink in sinks.values():
            await sink.close()


def _check(config: AlertsConfig) -> None:
    """Print the routes; what is wrong has raised before, but for the secrets, which are resolved here."""
    build_sinks(config)
    for route in config.routes:
        limit = "no limit" if route.budget.per_day is None else f"{route.budget.per_day} a day, the rest in a digest"
        text = "with message text" if route.include_text else "without message text"
        sinks = ", ".join(f"{name} ({config.sinks[name].type})" for name in route.sinks)
        click.echo(f"{route.name}: {sinks}; {limit}; {text}")
    unused = config.sinks.keys() - {name for route in config.routes for name in route.sinks}
    for name in sorted(unused):
        click.echo(f"guardline: no route leads to sink {name}", err=True)


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("alerts.yaml"),
    show_default=True,
    help="Routes and sinks.",
)
@click.option("--check", is_flag=True, help="Check the file and that its secrets are there; send nothing.")
@click.option("--test", "route", metavar="ROUTE", help="Send a test alert to each sink of a route.")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--store", type=click.Choice(["memory", "redis"]), help="Where it is kept what was delivered.")
def command(path: Path, check: bool, route: str | None, kafka_bootstrap: str | None, store: str | None) -> None:
    """Send flags to webhooks, Slack, PagerDuty, mail, a file or the terminal, until SIGTERM or Ctrl-C.

    Flags of the same kind become one alert with a count; beyond a route's budget they become a digest. At least once:
    offsets are committed when every alert below them is delivered, or is a dead letter. With GUARDLINE_STORE=redis a
    worker that died repeats nothing that it had delivered; with the memory store it repeats what it had not committed.
    Windows and budgets are each worker's own: run one. What waits for a digest shows as lag of the consumer group.

    Exits with 0 after an orderly stop; 1 when a test alert was not delivered; 2 for wrong usage or configuration; 3
    when the broker refuses; 4 when it could not send all that waited before it stopped (it is read again).
    """
    if check and route is not None:
        raise click.UsageError("give --check or --test, not both")
    config = load_config(path)
    if check:
        _check(config)
        return
    if route is not None:
        outcome = asyncio.run(_test(config, _route(config, route)))
        for name, what in outcome.items():
            click.echo(f"{name}: {what}")
        sys.exit(_UNDELIVERED if set(outcome.values()) != {"delivered"} else 0)
    settings = load_settings(kafka_bootstrap=kafka_bootstrap, store=store)
    configure(settings.log_level, settings.log_format)
    if not asyncio.run(_serve(settings, config)):
        sys.exit(_NOT_DRAINED)
