"""An intake under test: the application on a port of its own, in front of a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from monitor.gateway.reading import Limits
from monitor.gateway.senders import Senders
from monitor.gateway.server import Gateway
from monitor.health import Health
from monitor.heartbeat import Heartbeat
from monitor.publisher import KafkaPublisher, Publisher
from tests.producers.topic import Topic


@dataclass
class Intake:
    gateway: Gateway
    health: Health
    http: ClientSession


@asynccontextmanager
async def intake(
    topic: Topic,
    *,
    publisher: Publisher | None = None,
    tokens: Path | None = None,
    max_bytes: int = 1_000_000,
    record_bytes: int = 100_000,
    patience: float = 10,
) -> AsyncIterator[Intake]:
    kafka = KafkaPublisher(topic.bootstrap)
    health = Health(Heartbeat(), list, 300)
    gateway = Gateway(
        publisher or kafka,
        Limits(topic.name, record_bytes),
        senders=Senders(tokens) if tokens else None,
        health=health,
        max_bytes=max_bytes,
        timeout=patience,
    )
    health.ready = True
    async with TestServer(gateway.app()) as server, ClientSession(server.make_url("/")) as http:
        yield Intake(gateway, health, http)
    await kafka.close()
