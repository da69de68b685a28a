"""What a message costs before any model sees it: `make bench-stream`.

Plain aiokafka `getmany` + `send`, Quix Streams, stock Faust `take` and Guardline's transport, agent and publisher, side
by side on one broker: 500-byte JSON parsed with orjson, 1% flagged, flags acknowledged by all replicas, offsets
committed every second. All take batches of 64, but for `guardline`, whose chunks have the size that the monitor's would
have. The model is null and the screening is left out, so this is the price of the plumbing alone. Every consumer of
every round is a process of its own with a fresh group over the same backlog; rounds alternate.

CPU is user and system time of all threads of the consumer, from after the warm-up to the last message; the broker's is
not in it. `ratio_to_aiokafka` is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

import orjson
from rich.console import Console

from tests.benchmarks.brokers import describe, open_broker
from tests.benchmarks.results import CHECKOUT, report
from tests.benchmarks.stream_consumers import Task
from tests.fixtures_kafka import Broker, produce

SIZE = 500  # bytes of a message
FLAG_EVERY = 100
PARTITIONS = 4
#: The embedded broker forgets beyond 5 MB a partition.
EMBEDDED_PARTITIONS, EMBEDDED_MESSAGES = 16, 96_000
#: Stock Faust would take most of the run's time; it reads this share of the backlog, all others read all of it.
FAUST_SHARE = 0.25
PEERS = CHECKOUT / ".venv-stream-peers" / "bin" / "python"
TIMEOUT = 300  # seconds one consumer may take
Measured = dict[str, float]


def message(number: int) -> bytes:
    """Return the JSON of one message, 500 bytes."""
    record = {"id": f"m-{number:08d}", "flag": number % FLAG_EVERY == 0, "text": ""}
    return orjson.dumps(record | {"text": "x" * (SIZE - len(orjson.dumps(record)))})


def consume(python: str, task: Task) -> Measured:
    """Run one consumer to its end and return what it measured.

    Raises:
        SystemExit: it failed, or did not see every message.
    """
    program = (
        [str(Path(__file__).parent / "stream_peers" / "consume.py")]
        if task.consumer == "quix"
        else ["-m", "tests.benchmarks.stream_consumers"]
    )
    command = [python, *program, json.dumps(asdict(task))]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{task.consumer}: {done.stderr[-3000:]}")
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    if measured["done"] < task.messages:
        raise SystemExit(f"{task.consumer}: {measured['done']} of {task.messages} messages")
    return measured


def measure(broker: Broker, pythons: dict[str, str], messages: int, rounds: int) -> dict[str, list[Measured]]:
    """Return what each consumer measured in each round."""
    console = Console(stderr=True)
    embedded = broker.kind == "embedded"
    partitions = EMBEDDED_PARTITIONS if embedded else PARTITIONS
    messages = min(messages, EMBEDDED_MESSAGES) if embedded else messages
    source = asyncio.run(broker.topic("stream.outputs", partitions))
    asyncio.run(produce(broker.bootstrap, source, map(message, range(messages)), partitions))
    measured: dict[str, list[Measured]] = {name: [] for name in pythons}
    for number in range(rounds):
        for name, python in pythons.items():
            share = int(messages * FAUST_SHARE) if name == "faust-take" else messages
            flags = asyncio.run(broker.topic("stream.flags", 1))
            group = f"bench-{name}-{uuid.uuid4().hex[:8]}"
            own = consume(python, Task(name, broker.bootstrap, group, source, flags, share, share // 5))
            measured[name].append(own)
            console.print(f"round {number + 1} {name}: {own['cpu_s'] / own['messages'] * 1e6:.1f} us/message")
    return measured


def rows(measured: dict[str, list[Measured]]) -> list[dict[str, object]]:
    """Return medians over rounds, one row a consumer."""
    cost = {name: [1e6 * own["cpu_s"] / own["messages"] for own in rounds] for name, rounds in measured.items()}
    return [
        {
            "consumer": name,
            "cpu_us_per_message": statistics.median(cost[name]),
            "messages_per_s": statistics.median(own["messages"] / own["seconds"] for own in rounds),
            "ratio_to_aiokafka": statistics.median(
                own / base for own, base in zip(cost[name], cost["aiokafka"], strict=True)
            ),
        }
        for name, rounds in measured.items()
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", help="only this consumer (repeatable); aiokafka always runs")
    arguments = parser.parse_args()
    pythons = {
        "aiokafka": sys.executable,
        "quix": str(PEERS),
        "faust-take": sys.executable,
        "guardline": sys.executable,
        "guardline-64": sys.executable,
    }
    if arguments.only:
        pythons = {name: python for name, python in pythons.items() if name in {"aiokafka", *arguments.only}}
    if "quix" in pythons and not PEERS.exists():
        del pythons["quix"]
        print("quix: skipped, no .venv-stream-peers (tests/benchmarks/stream_peers/requirements.txt)")
    with open_broker() as broker:
        print(f"broker: {describe(broker)}")
        measured = measure(broker, pythons, arguments.messages, arguments.rounds)
    report("stream", rows(measured))


if __name__ == "__main__":
    main()
