"""Hours in small: `make soak`, ten minutes of steady load on a real Kafka, memory flat and nothing lost.

A `guardline monitor` process on the fast path with Redis as store (the in-memory store would fill for its first
100,000 entries and pass for a leak), messages at a fixed rate that never repeat. Resident memory is read every second;
its slope is Theil-Sen's over means of 15 s after the warm-up, with its 95% interval. The accounting is the fault
harness's: a ledger of the inputs that the broker acknowledged, against audit records and committed offsets.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis
from aiokafka import AIOKafkaProducer
from scipy.stats import theilslopes

from monitor.package import ModelPackage
from monitor.settings import DEFAULT_MODEL, Settings
from tests.benchmarks.brokers import describe, open_broker
from tests.benchmarks.load import Answers, Running, record, running
from tests.benchmarks.results import report
from tests.faults.ledger import Account, Findings, Input, Ledger, Sort, read_output
from tests.fixtures_kafka import Broker, committed_offsets
from tests.fixtures_services import LocalRedis, free_ports  # type: ignore[attr-defined]

PARTITIONS = 4
BIN_SECONDS = 15
WARM_SECONDS = 60  # caches of regular expressions, arenas of ONNX Runtime, connections
SETTLE_SECONDS = 120  # for the last verdicts and the last commit
MIB = 1024 * 1024


@dataclass
class Samples:
    """Resident memory over time, and how far behind the verdicts were."""

    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)

    def slope(self, warm: float) -> tuple[float, float, float]:
        """Return the slope in MB a minute with its 95% interval, over bins after the warm-up."""
        bins: dict[int, list[float]] = {}
        for at, size in zip(self.seconds, self.resident, strict=True):
            if at >= warm:
                bins.setdefault(int(at // BIN_SECONDS), []).append(size / MIB)
        minutes = [number * BIN_SECONDS / 60 for number in bins]
        slope, _, low, high = theilslopes([statistics.fmean(sizes) for sizes in bins.values()], minutes, 0.95)
        return float(slope), float(low), float(high)


@contextmanager
def local_redis() -> Iterator[LocalRedis | None]:
    """Yield a Redis of our own, or none where there is no redis-server."""
    if shutil.which("redis-server") is None:
        yield None
        return
    server = LocalRedis(free_ports(1)[0])
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def load(
    monitor: Running, producer: AIOKafkaProducer, answers: Answers, ledger: Ledger, rate: float, seconds: float
) -> None:
    """Send messages at fixed times, whatever becomes of them, and note each that the broker acknowledged."""

    async def note(number: int, text: str) -> None:
        sent = await producer.send_and_wait(
            monitor.topics.names["outputs"], record(number, text), partition=number % PARTITIONS
        )
        ledger.add(Input((sent.partition, sent.offset), f"bench-{number:08d}", Sort.CLEAN))

    started = time.monotonic()
    async with asyncio.TaskGroup() as sending:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            sending.create_task(note(number, answers.take(1)[0]))


async def watch(monitor: Running, account: Account, ledger: Ledger, samples: Samples) -> None:
    """Read verdicts as they come and memory every second, until cancelled."""
    started = time.monotonic()
    while True:
        for one in await monitor.read():
            account.add(read_output("verdicts", one))
        now = time.monotonic() - started
        if not samples.seconds or now - samples.seconds[-1] >= 1:
            samples.seconds.append(now)
            samples.resident.append(monitor.resident_bytes())
            samples.behind.append(len(ledger) - len(account.audits))


async def soak(
    broker: Broker, rate: float, minutes: float, server: LocalRedis | None
) -> tuple[Samples, Findings, float]:
    """Run it; return the samples, the findings, and the worker's CPU seconds."""
    package = ModelPackage.load(DEFAULT_MODEL)
    answers = Answers(Settings(verify=False), package)
    ledger, account, samples = Ledger(), Account(), Samples()
    store = {"store": "redis", "redis_url": server.url} if server else {"store": "memory"}
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        async with running(broker, package, verify="false", log_level="warning", **store) as monitor:
            watching = asyncio.create_task(watch(monitor, account, ledger, samples))
            await load(monitor, producer, answers, ledger, rate, minutes * 60)
            cpu = monitor.cpu_seconds()
            until = time.monotonic() + SETTLE_SECONDS
            name = monitor.topics.names["outputs"]
            while True:
                committed = await committed_offsets(broker.bootstrap, name, name, PARTITIONS)
                finished = not account.incomplete(ledger) and sum(committed.values()) == len(ledger)
                if finished or watching.done() or time.monotonic() > until:
                    break
                await asyncio.sleep(1)
            if watching.done():
                watching.result()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await producer.stop()
        await answers.screening.close()
    return samples, account.judge(ledger, committed), cpu


def redis_commands(server: LocalRedis) -> dict[str, int]:
    """Return how often each Redis command was called."""
    with redis.Redis.from_url(server.url) as client:
        stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}


def main() -> None:
    """Soak, report, and fail when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=8, help="messages a second; keep it below capacity")
    arguments = parser.parse_args()
    warm = min(WARM_SECONDS, arguments.minutes * 60 / 4)
    with open_broker(real=True) as broker, local_redis() as server:
        print(f"broker: {describe(broker)}; store: {'Redis' if server else 'memory (no redis-server)'}")
        samples, findings, cpu = asyncio.run(soak(broker, arguments.rate, arguments.minutes, server))
        if server:
            calls = redis_commands(server)
            most = sorted(calls.items(), key=lambda item: -item[1])[:6]
            print("Redis calls:", ", ".join(f"{name} {count}" for name, count in most))
    slope, low, high = samples.slope(warm)
    print(f"resident memory: {slope:+.3f} MB/min (95% {low:+.3f} to {high:+.3f}), after {warm:.0f} s of warm-up")
    row: dict[str, object] = {
        "minutes": arguments.minutes,
        "messages_per_s": arguments.rate,
        "inputs": findings.inputs,
        "lost": findings.lost,
        "unfinished": findings.unfinished,
        "duplicates": findings.duplicates,
        "two_verdicts": findings.two_classes,
        "different_bytes": findings.different_bytes,
        "most_behind": max(samples.behind),
        "rss_mean_mb": statistics.fmean(s for t, s in zip(samples.seconds, samples.resident, strict=True) if t >= warm)
        / MIB,
        "rss_peak_mb": max(samples.resident) / MIB,
        "slope_mb_per_min": slope,
        "slope_low": low,
        "slope_high": high,
        "cpu_ms_per_message": 1000 * cpu / findings.inputs,
    }
    report("soak", [row])
    bad = findings.lost + findings.unfinished + findings.two_classes + findings.different_bytes
    if bad:
        raise SystemExit(f"{bad} inputs are lost, unfinished or differ: see the row above")


if __name__ == "__main__":
    main()
