"""How long a message waits for its verdict, by load: `make bench-latency`.

Capacity is measured first, as messages a second through a backlog; then messages arrive at 25%, 50% and 75% of it at
times fixed in advance (Poisson), whatever becomes of the ones before. A latency runs from the time at which a message
was due, not from when it could be sent, to when its audit record is read by a consumer: a stall is charged to every
message that it delays (no coordinated omission; Tene, "How NOT to Measure Latency"). Flags are published with the audit
record, in one call. Both paths: with the verifier, and the encoder alone. No statement occurs twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer, ConsumerRecord
from matplotlib.figure import Figure

from monitor.package import ModelPackage
from monitor.settings import DEFAULT_MODEL, Settings
from tests.benchmarks.brokers import describe, open_broker
from tests.benchmarks.load import Answers, Running, record, running
from tests.benchmarks.results import CHECKOUT, report
from tests.fixtures_kafka import Broker

LOADS = (0.25, 0.50, 0.75)
PERCENTILES = (50, 95, 99)
#: In a backlog of so many messages for capacity; the first tenth of each load's messages warms up and is not counted.
BACKLOG = {"verified": 96, "fast": 320}
PATIENCE = 120  # seconds after the last arrival
PARTITIONS = 4
PLOT = CHECKOUT / "docs" / "images" / "latency.png"
COLOURS = {"verified": "#0b6e99", "fast": "#c2571a"}
SEED = 11


@dataclass
class Sender:
    """Sends messages numbered throughout a run, so that a verdict is known by its message's id."""

    producer: AIOKafkaProducer
    topic: str
    number: int = 0

    async def send(self, text: str) -> str:
        """Hand a message to the producer and return its id."""
        number, self.number = self.number, self.number + 1
        await self.producer.send(self.topic, record(number, text), partition=number % PARTITIONS)
        return f"bench-{number:08d}"


def _id(verdict: ConsumerRecord) -> str:
    return str(orjson.loads(verdict.value or b"{}")["message_id"])


async def capacity(monitor: Running, sender: Sender, texts: Sequence[str]) -> float:
    """Return messages a second through a backlog, from the first tenth to the last message."""
    for text in texts:
        await sender.send(text)
    seen, warm, begun = 0, len(texts) // 10, 0.0
    async with asyncio.timeout(PATIENCE):
        while seen < len(texts):
            seen += len(await monitor.read(20))
            if not begun and seen >= warm:
                begun, warm = time.perf_counter(), seen
    return (len(texts) - warm) / (time.perf_counter() - begun)


async def latencies(
    monitor: Running, sender: Sender, answers: Answers, rate: float, seconds: float, rng: np.random.Generator
) -> list[float]:
    """Return the seconds from due to verdict of each message, in order of arrival, without the first tenth."""
    due = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))
    texts = answers.take(len(due))
    ids: list[str] = []
    read: dict[str, float] = {}

    async def arrive() -> None:
        for at, text in zip(due, texts, strict=True):
            await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
            ids.append(await sender.send(text))

    started = time.perf_counter()
    arriving = asyncio.create_task(arrive())
    async with asyncio.timeout(seconds + PATIENCE):
        while len(read) < len(due):
            found = await monitor.read(10)
            now = time.perf_counter() - started
            for one in found:
                read.setdefault(_id(one), now)
    await arriving
    return [read[name] - float(at) for name, at in zip(ids, due, strict=True)][len(due) // 10 :]


async def measure(broker: Broker, package: ModelPackage, path: str, seconds: float) -> list[dict[str, object]]:
    """Return one row a load."""
    verify = path == "verified"
    answers = Answers(Settings(verify=verify), package)
    rng = np.random.default_rng(SEED)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    rows: list[dict[str, object]] = []
    try:
        async with running(broker, package, verify=str(verify).lower(), onnx_threads="0") as monitor:
            sender = Sender(producer, monitor.topics.names["outputs"])
            await capacity(monitor, sender, answers.take(10))  # warm
            most = await capacity(monitor, sender, answers.take(BACKLOG[path]))
            print(f"{path}: {most:.1f} messages/s")
            for load in LOADS:
                found = await latencies(monitor, sender, answers, load * most, seconds, rng)
                values = np.percentile(found, PERCENTILES)
                rows.append(
                    {
                        "path": path,
                        "load": load,
                        "messages_per_s": load * most,
                        "capacity_messages_per_s": most,
                        "messages": len(found),
                        **{f"p{p}_ms": 1000 * float(v) for p, v in zip(PERCENTILES, values, strict=True)},
                    }
                )
    finally:
        await producer.stop()
        await answers.screening.close()
    return rows


def plot(rows: Sequence[dict[str, object]], broker: str, path: Path = PLOT) -> None:
    """Draw the percentiles over load, one panel a path."""
    paths = list(dict.fromkeys(str(row["path"]) for row in rows))
    figure = Figure(figsize=(8, 3.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(paths), sharey=True, squeeze=False)[0]
    titles = {"verified": "encoder and verifier", "fast": "encoder alone"}
    for panel, name in zip(panels, paths, strict=True):
        own = [row for row in rows if row["path"] == name]
        x = [100 * float(str(row["load"])) for row in own]
        for p, style in zip(PERCENTILES, ("-", "--", ":"), strict=True):
            y = [float(str(row[f"p{p}_ms"])) for row in own]
            panel.plot(x, y, style, marker="o", color=COLOURS[name], label=f"p{p}")
        panel.set(
            title=f"{titles[name]} (100% = {float(str(own[0]['capacity_messages_per_s'])):.0f} messages/s)",
            xlabel="load, % of capacity",
            yscale="log",
            xticks=x,
        )
        panel.title.set_fontsize(10)
        panel.grid(visible=True, which="both", color="#e6e6e6", linewidth=0.6)
        panel.legend(frameon=False, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("due to verdict, ms")
    figure.suptitle(f"Latency of a message, one worker, {os.cpu_count()} cores, {broker}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, report and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="of each load")
    parser.add_argument("--path", choices=("verified", "fast", "both"), default="both")
    arguments = parser.parse_args()
    package = ModelPackage.load(DEFAULT_MODEL)
    rows: list[dict[str, object]] = []
    with open_broker() as broker:
        print(f"broker: {describe(broker)}")
        for path in ("verified", "fast") if arguments.path == "both" else (arguments.path,):
            rows += asyncio.run(measure(broker, package, path, arguments.seconds))
        report("latency", rows)
        plot(rows, describe(broker))


if __name__ == "__main__":
    main()
