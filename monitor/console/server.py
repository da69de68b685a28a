"""Put the console together and serve it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

import structlog
import uvicorn

from monitor.alerts.worker import start
from monitor.audit.trail import PublishedTrail
from monitor.backoff import delays
from monitor.connections.access import ensure_access
from monitor.connections.kafka import group_consumer, kafka_options, refusal
from monitor.console.app import build_app
from monitor.console.deciding import Deciding
from monitor.console.desk import Desk
from monitor.console.gate import Gate, Proxy, Sessions
from monitor.console.intake import Intake, Kind
from monitor.console.memory import MemoryConsoleStore
from monitor.console.messages import KafkaReader, Messages
from monitor.console.pages import Pages, Policy, Recommendation
from monitor.console.store import ConsoleStore
from monitor.console.users import Role, User, Users, digest, new_token
from monitor.errors import ConfigurationError, StoreUnavailable
from monitor.factory import build_pointer, build_publisher
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.models.pointer import Alias
from monitor.package import ModelPackage
from monitor.replay.reading import stopping_on_signals
from monitor.settings import Settings

_log = structlog.get_logger(__name__)
_SOURCE = "guardline/console"
_LOOPBACK_NAMES = ("127.0.0.1", "localhost")
_SHUTDOWN = 5  # seconds in which requests under way may finish


class _Server(uvicorn.Server):
    """Leaves signals to the process, which has more to stop than the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guests(names: Sequence[str]) -> tuple[list[User], dict[str, str]]:
    """Return a reviewer for each name, and the token of a link that logs in as them once.

    What a link carries is not the guest's token, which nobody knows: the login form does not take it.
    """
    users = [User(name=name, role=Role.REVIEWER, sha256=secrets.token_hex(32)) for name in names]
    return users, {name: new_token() for name in names}


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def build_users(settings: Settings, guests: Sequence[User]) -> Users:
    """Return who may use the console.

    Raises:
        ConfigurationError: nobody could, or the file of users cannot be used.
    """
    if settings.console_tokens_file is None and (settings.console_proxy_header or not guests):
        raise ConfigurationError(
            "nobody could log in: set GUARDLINE_CONSOLE_TOKENS_FILE (docs/console.md has the format), or try the "
            "console with --one-time-link NAME"
        )
    return Users(settings.console_tokens_file, guests)


def build_console_store(settings: Settings) -> ConsoleStore:
    """Return the store that the settings ask for."""
    if settings.store == "redis":
        from monitor.connections.redis import redis_client
        from monitor.console.redis import TIMEOUT, RedisConsoleStore

        return RedisConsoleStore(redis_client(settings, timeout=TIMEOUT), retention=settings.console_retention)
    return MemoryConsoleStore()


def build_gate(settings: Settings, users: Users) -> Gate:
    """Return what tells visitors apart.

    Raises:
        ConfigurationError: an address of the proxy is none.
    """
    secret = settings.console_secret.get_secret_value() if settings.console_secret else secrets.token_hex(32)
    return Gate(
        Sessions(secret, seconds=settings.console_session),
        users,
        Proxy(settings.console_proxy_header, settings.console_proxy_addresses),
        loopback=is_loopback(settings.console_host),
    )


def hosts_of(settings: Settings) -> list[str]:
    """Return the names that browsers may call the console by."""
    if settings.console_hosts:
        return [name.strip() for name in settings.console_hosts.split(",") if name.strip()]
    return [*_LOOPBACK_NAMES] if is_loopback(settings.console_host) else ["*"]


async def recommendations_of(settings: Settings) -> list[Recommendation]:
    """Return those of the model in use.

    Raises:
        ConfigurationError, ModelMismatch: there is no usable package.
    """
    path = settings.model
    pointer = build_pointer(settings)
    if pointer is not None:
        try:
            choices = await pointer.history(Alias.CHAMPION)
            path = choices[0].path if choices else path
        except StoreUnavailable as error:
            _log.warning("model_pointer_unreadable", error=str(error), action=f"recommendations of {path}")
        finally:
            await pointer.close()
    manifest = (await asyncio.to_thread(ModelPackage.load, path)).manifest
    return [Recommendation(r.id, r.section, r.text) for r in manifest.recommendations]


def bind(settings: Settings) -> socket.socket:
    """Return a socket at the console's address.

    Raises:
        ConfigurationError: it cannot be had.
    """
    host, port = settings.console_host, settings.console_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigurationError(
            f"the console cannot be served at {host}:{port}: {error}: set GUARDLINE_CONSOLE_PORT"
        ) from error


def address_of(bound: socket.socket) -> str:
    """Return the URL of a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


async def _opened(desk: Desk, stop: asyncio.Event) -> bool | None:
    """Fill the desk as soon as the store answers; tell whether it was empty, None when `stop` was set first."""
    for delay in delays():
        try:
            return await desk.open()
        except StoreUnavailable as error:
            _log.warning("store_unavailable", error=str(error), action=f"again in {delay:.1f} s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stop.wait()
        if stop.is_set():
            return None
    return None


async def serve(settings: Settings, names: Sequence[str], announce: Callable[[str, Mapping[str, str]], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    `names` get login links that work once; `announce` is told the address, and the links by name.

    Raises:
        GuardlineError: the console cannot be used as it is set up, or a service refuses it.
    """
    await ensure_access(settings, scoring=False)
    users, tokens = guests(names)
    gate = build_gate(settings, build_users(settings, users))
    recommendations = await recommendations_of(settings)
    publisher = build_publisher(settings)
    store = build_console_store(settings)
    desk = Desk(store, retention=timedelta(seconds=settings.console_retention))
    messages = Messages(KafkaReader(settings), [settings.topic_outputs])
    pages = Pages(
        desk=desk,
        gate=gate,
        messages=messages,
        deciding=Deciding(desk, messages, publisher, settings.topic_feedback),
        trail=PublishedTrail(publisher, settings.topic_audit_events, source=_SOURCE),
        recommendations=recommendations,
        policy=Policy(settings.console_reveal),
        links={digest(tokens[user.name]): user for user in users},
    )
    app = build_app(pages, hosts=hosts_of(settings))
    server = _Server(
        uvicorn.Config(
            app,
            access_log=False,  # addresses of pages say who looked at what; the audit trail does so on purpose
            log_config=None,
            lifespan="off",
            proxy_headers=False,  # `gate.Proxy` looks at them, and at whom they are from
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN,
        )
    )
    stop = asyncio.Event()
    bound = bind(settings)
    try:
        with stopping_on_signals(stop):
            empty = await _opened(desk, stop)
            if empty is None:
                return
            topics = {
                settings.topic_flags: Kind.FLAG,
                settings.topic_review: Kind.REVIEW,
                settings.topic_feedback: Kind.DECISION,
            }
            intake = Intake(desk, topics, from_beginning=empty)
            address = address_of(bound)
            announce(address, {name: f"{address}login?token={token}" for name, token in tokens.items()})
            await _run(settings, server, bound, desk, intake, stop)
    finally:
        bound.close()
        await publisher.close()
        await store.close()
        _log.info("console_stopped")


async def _run(
    settings: Settings,
    server: uvicorn.Server,
    bound: socket.socket,
    desk: Desk,
    intake: Intake,
    stop: asyncio.Event,
) -> None:
    """Serve pages, read topics and follow the store, until `stop` or until one of them fails."""
    health = Health(HEARTBEAT, intake.progress, settings.stall_timeout)
    port = await health.serve(settings.metrics_host, settings.metrics_port) if settings.metrics_port else None

    async def read() -> None:
        consumer = await start(
            lambda: group_consumer(settings, "console"), lambda: refusal(kafka_options(settings)), stop
        )
        if consumer is None:
            return
        try:
            health.ready = True
            await intake.run(consumer, stop)
        finally:
            health.ready = False
            await consumer.stop()

    tasks = [asyncio.create_task(work) for work in (server.serve(sockets=[bound]), read(), desk.follow())]
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        desk.channel.close()
        server.should_exit = True
        await asyncio.wait(tasks[:2])
        for task in done - {stopping}:
            task.result()
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        if port is not None:
            await port.cleanup()
