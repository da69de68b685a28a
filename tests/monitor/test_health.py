from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from monitor.errors import ConfigurationError
from monitor.health import Health
from monitor.heartbeat import Heartbeat
from tests.fixtures_services import free_ports


@dataclass
class Partition:
    lag: int


class World:
    """A clock, a lag, and a worker's health served on a port of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.partitions = [Partition(0), Partition(0)]
        self.heartbeat = Heartbeat(lambda: self.now)
        self.health = Health(self.heartbeat, lambda: self.partitions, stall_timeout=60)
        self.port = free_ports(1)[0]

    async def status(self, path: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            await answer.read()
            return answer.status


@pytest.fixture
async def world() -> AsyncIterator[World]:
    own = World()
    runner = await own.health.serve("127.0.0.1", own.port)
    yield own
    await runner.cleanup()


async def test_an_idle_worker_is_alive_however_long_it_idles(world: World) -> None:
    world.now = 1e6
    assert await world.status("/live") == 200


async def test_waiting_records_and_no_sign_of_life_are_a_stall(world: World) -> None:
    world.partitions[1].lag = 5
    world.now = 59
    assert await world.status("/live") == 200
    world.now = 61
    assert await world.status("/live") == 503
    assert world.health.problem == "5 records wait and nothing has moved for 61 s"


async def test_tries_on_a_service_that_is_away_are_life(world: World) -> None:
    world.partitions[0].lag = 10**6
    for _ in range(100):
        world.now += 30
        world.heartbeat.beat()
        assert await world.status("/live") == 200


async def test_ready_only_when_told(world: World) -> None:
    assert await world.status("/ready") == 503
    world.health.ready = True
    assert await world.status("/ready") == 200


async def test_metrics_are_prometheus_text(world: World) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{world.port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "guardline_messages_total" in await answer.text()


async def test_a_taken_port_is_a_clear_error(world: World) -> None:
    with pytest.raises(ConfigurationError, match="GUARDLINE_METRICS_PORT"):
        await World().health.serve("127.0.0.1", world.port)
