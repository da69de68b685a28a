"""Kafka, Redis, Triton, Alertmanager and Prometheus as the platform has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import TypeVar

from monitor.alerts.config import load_config
from monitor.settings import DEFAULT_MODEL, Settings
from tests.fixtures_secured import Authority, SecuredKafka, SecuredRedis, secured_kafka, secured_redis
from tests.fixtures_services import TRITON_VENV, LocalTriton
from tests.observability.tools import DEPLOY, alertmanager, prometheus, prometheus_config

_Value = TypeVar("_Value")
#: The routes of docker-compose.yml: every flag to Alertmanager.
ALERTS_CONFIG = DEPLOY / "compose" / "alerts.yaml"
PARTITIONS = 2


async def entered(stack: AsyncExitStack, manager: AbstractContextManager[_Value]) -> _Value:
    """Enter a context manager in a thread; it is left with the stack, even if it is still entering by then."""
    entering = asyncio.ensure_future(asyncio.to_thread(manager.__enter__))

    async def leave() -> None:
        await asyncio.wait([entering])
        if entering.exception() is None:
            await asyncio.to_thread(manager.__exit__, None, None, None)

    stack.push_async_callback(leave)
    return await asyncio.shield(entering)


def _topics() -> Iterable[str]:
    """Return all topics, by the names that the settings have."""
    own = Settings.model_fields
    return [
        *(str(own[name].default) for name in own if name.startswith("topic_")),
        load_config(ALERTS_CONFIG).deadletter,
    ]


async def start_kafka(stack: AsyncExitStack, folder: Path) -> SecuredKafka:
    """Start a broker with SASL, TLS and ACLs, and make the topics."""
    kafka = await entered(stack, secured_kafka(folder))
    await asyncio.to_thread(kafka.topics, _topics(), PARTITIONS)
    return kafka


async def start_redis(stack: AsyncExitStack, authority: Authority, password: str) -> SecuredRedis:
    """Start a Redis with TLS whose default user is off."""
    return await entered(stack, secured_redis(authority, password))


async def start_triton(stack: AsyncExitStack, authority: Authority) -> LocalTriton:
    """Start a tritonserver with the models of the package that ships, its gRPC port with TLS."""
    options = (
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={authority.certificate}",
        f"--grpc-server-key={authority.key}",
        f"--grpc-root-cert={authority.ca}",
    )
    return await entered(stack, LocalTriton(DEFAULT_MODEL, venv=TRITON_VENV, options=options))


async def start_alertmanager(stack: AsyncExitStack, folder: Path) -> str:
    """Start an Alertmanager with the routes that ship; return its address."""
    return await entered(stack, alertmanager(DEPLOY / "alertmanager" / "alertmanager.yml", folder))


async def start_prometheus(stack: AsyncExitStack, folder: Path, ports: Mapping[str, int], alertmanager: str) -> str:
    """Start a Prometheus with the rules that ship, which scrapes these ports by job; return its address."""
    return await entered(stack, prometheus(prometheus_config(folder, ports, alertmanager=alertmanager), folder))
