"""`guardline intake`: the process around the HTTP intake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import click
import structlog
import uvloop
from aiohttp import web

from monitor.addresses import is_loopback
from monitor.console.users import digest, new_token
from monitor.errors import ConfigurationError
from monitor.factory import build_publisher
from monitor.gateway.reading import Limits
from monitor.gateway.senders import Senders
from monitor.gateway.server import Gateway
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.logs import configure
from monitor.replay.reading import stopping_on_signals
from monitor.settings import Settings, load_settings

_log = structlog.get_logger(__name__)


def build_senders(settings: Settings) -> Senders | None:
    """Return who may send; none where the port is this machine's alone and no file is set.

    Raises:
        ConfigurationError: anybody on the network could send, or the file cannot be used.
    """
    if settings.intake_tokens_file is not None:
        return Senders(settings.intake_tokens_file)
    if not is_loopback(settings.intake_host):
        raise ConfigurationError(
            f"anybody who reaches {settings.intake_host} could send: set GUARDLINE_INTAKE_TOKENS_FILE "
            "(`guardline intake --new-token NAME` makes a token)"
        )
    return None


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the address cannot be had, or the settings do not fit together.
        AccessDenied: the brokers refuse this process.
    """
    senders = build_senders(settings)
    publisher = build_publisher(settings)
    health = Health(HEARTBEAT, list, settings.stall_timeout)
    gateway = Gateway(
        publisher,
        Limits(settings.topic_outputs, settings.publish_max_bytes),
        senders=senders,
        health=health,
        max_bytes=settings.intake_max_bytes,
        timeout=settings.intake_timeout,
    )
    stop = asyncio.Event()
    runner = web.AppRunner(gateway.app(), access_log=None, shutdown_timeout=settings.drain_timeout)
    await runner.setup()
    try:
        with stopping_on_signals(stop):
            await _bind(runner, settings)
            host, port = runner.addresses[0][:2]
            _log.info(
                "intake_started", address=f"http://{host}:{port}", topic=settings.topic_outputs, open=senders is None
            )
            await _until(stop.wait(), publisher.start())
            health.ready = not stop.is_set()
            await _until(stop.wait(), gateway.refused.wait())
    finally:
        health.ready = False
        await runner.cleanup()
        await publisher.close()
        _log.info("intake_stopped")
    if gateway.refusal is not None:
        raise gateway.refusal


async def _bind(runner: web.AppRunner, settings: Settings) -> None:
    host, port = settings.intake_host, settings.intake_port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigurationError(
            f"the intake cannot be served at {host}:{port}: {error}: set GUARDLINE_INTAKE_PORT"
        ) from error


async def _until(*waits: Awaitable[object]) -> None:
    """Return when the first of them is done; what it raised is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _print_token(name: str) -> None:
    token = new_token()
    click.echo(f"Token of {name}, shown this once:\n\n  {token}\n\nFor the file of GUARDLINE_INTAKE_TOKENS_FILE:\n")
    click.echo(f"  - name: {name}\n    sha256: {digest(token)}")


@click.command()
@click.option("--host", "intake_host", help="Address to serve on.  [env: GUARDLINE_INTAKE_HOST]")
@click.option("--port", "intake_port", type=int, help="Port; 0: any.  [env: GUARDLINE_INTAKE_PORT]")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--new-token", "newcomer", metavar="NAME", help="Make a token for NAME, print it, and end.")
def command(
    intake_host: str | None, intake_port: int | None, kafka_bootstrap: str | None, newcomer: str | None
) -> None:
    """Take answers by HTTP and publish them, until SIGTERM or Ctrl-C.

    POST /v1/outputs takes one record or a batch (JSON array, JSON lines): native records, OpenAI chat completions and
    Responses objects, CloudEvents, plain text. POST /v1/logs and /v1/traces take what OpenTelemetry exports as JSON.
    202 (200 for OpenTelemetry) means that the brokers have it; 503 that it must be sent again. /live, /ready and
    /metrics are at the same port. Senders are those of GUARDLINE_INTAKE_TOKENS_FILE, needed on other addresses than
    loopback; TLS is a reverse proxy's.

    Exits with 0 after an orderly stop, 2 for wrong usage or configuration, 3 when the brokers refuse it.
    """
    if newcomer is not None:
        _print_token(newcomer)
        return
    settings = load_settings(intake_host=intake_host, intake_port=intake_port, kafka_bootstrap=kafka_bootstrap)
    configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))
