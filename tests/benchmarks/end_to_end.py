"""The whole monitor against its own models alone, and against the textbook agent: `make bench-end-to-end`.

On one broker, with the model that ships, in process on ONNX Runtime, rounds alternating:

- `guardline`: `guardline monitor` as a process, from Kafka to audit records, flags and reviews in Kafka;
- `bare`: the same statements through `Assessment.assess` (same planner, ONNX sessions and thread settings), in memory;
- fast path only: the same pair without the verifier, and `faust-sentence-transformers`, a stock Faust agent that
  encodes each statement alone with the frozen encoder that the fast path was trained from.

No statement occurs twice (`tests.benchmarks.load`), so the cache never answers. Statements are those that the models
are asked about; the textbook agent encodes every sentence, and its statements are counted as sentences.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from monitor.assessment import Assessment
from monitor.factory import build_assessment
from monitor.package import ModelPackage
from monitor.settings import DEFAULT_MODEL, Settings
from tests.benchmarks.brokers import describe, open_broker
from tests.benchmarks.load import Answers, Running, record, running, scored_texts
from tests.benchmarks.results import CHECKOUT, report
from tests.fixtures_kafka import Broker, produce

ROUND_SECONDS = 180
_SLICE = 2048  # as `monitor.screening`


@dataclass
class Way:
    """What one way of doing it took in each round."""

    statements: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, statements: int, seconds: float, cpu: float) -> None:
        """Note a round."""
        self.statements.append(statements)
        self.seconds.append(seconds)
        self.cpu.append(cpu)

    @property
    def rates(self) -> list[float]:
        """Statements a second, by round."""
        return [n / s for n, s in zip(self.statements, self.seconds, strict=True)]

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a statement, the median round."""
        return statistics.median(1000 * c / n for n, c in zip(self.statements, self.cpu, strict=True))


async def through_monitor(
    broker: Broker, monitor: Running, producer: AIOKafkaProducer, texts: Sequence[str], statements: int, way: Way
) -> None:
    """Time from the first message sent to the last verdict read."""
    topic = monitor.topics.names["outputs"]
    cpu, started = monitor.cpu_seconds(), time.perf_counter()
    sent = [await producer.send(topic, record(number, text), partition=number % 4) for number, text in enumerate(texts)]
    await asyncio.gather(*sent)
    found = await monitor.read_until(len(texts), ROUND_SECONDS)
    seconds = time.perf_counter() - started
    if len(found) != len(texts):
        raise SystemExit(f"{len(found)} verdicts of {len(texts)} messages")
    way.add(statements, seconds, monitor.cpu_seconds() - cpu)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def alone(assessment: Assessment, statements: Sequence[str], way: Way) -> None:
    """Time the same statements through the models alone."""
    cpu, started = _cpu(), time.perf_counter()
    for start in range(0, len(statements), _SLICE):
        await assessment.assess(statements[start : start + _SLICE])
    way.add(len(statements), time.perf_counter() - started, _cpu() - cpu)


async def textbook(broker: Broker, texts: Sequence[str], threads: int, way: Way) -> None:
    """Time the stock agent on the same messages, in a process of its own."""
    source, flags = await broker.topic("naive.outputs", 4), await broker.topic("naive.flags", 1)
    await produce(broker.bootstrap, source, [record(n, text) for n, text in enumerate(texts)], 4)
    task = {"bootstrap": broker.bootstrap, "source": source, "flags": flags, "group": f"naive-{uuid.uuid4().hex[:8]}"}
    command = [sys.executable, "-m", "tests.benchmarks.naive_agent", json.dumps(task | {"messages": len(texts)})]
    command += [str(threads)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=CHECKOUT, capture_output=True, text=True, timeout=ROUND_SECONDS, check=False
    )
    if done.returncode:
        raise SystemExit(f"faust-sentence-transformers: {done.stderr[-2000:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    way.add(measured["statements"], measured["seconds"], measured["cpu_s"])


async def compare(
    broker: Broker, package: ModelPackage, *, verify: bool, messages: int, rounds: int, threads: int, naive: bool
) -> dict[str, Way]:
    """Return what each way took, on one path."""
    settings = Settings(verify=verify, onnx_threads=threads)
    answers = Answers(settings, package)
    assessment = build_assessment(settings, package)
    ways = {"bare": Way(), "guardline": Way()} | ({"faust-sentence-transformers": Way()} if naive else {})
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    own = {"onnx_threads": str(threads), "verify": str(verify).lower()}
    try:
        async with running(broker, package, **own) as monitor:
            warm = answers.take(8)
            await through_monitor(broker, monitor, producer, warm, 1, Way())
            await alone(assessment, scored_texts(answers.screening, warm), Way())
            for number in range(rounds):
                texts = answers.take(messages)
                statements = list(dict.fromkeys(scored_texts(answers.screening, texts)))
                if number % 2:
                    await alone(assessment, statements, ways["bare"])
                await through_monitor(broker, monitor, producer, texts, len(statements), ways["guardline"])
                if not number % 2:
                    await alone(assessment, statements, ways["bare"])
                if naive:
                    await textbook(broker, texts, threads, ways["faust-sentence-transformers"])
    finally:
        await producer.stop()
        await assessment.close()
        await answers.screening.close()
    return ways


def rows(path: str, ways: dict[str, Way]) -> list[dict[str, object]]:
    """Return one row a way; the ratio is the median of the rounds' own ratios to bare."""
    return [
        {
            "path": path,
            "way": name,
            "statements": sum(way.statements),
            "statements_per_s": statistics.median(way.rates),
            "cpu_ms_per_statement": way.cpu_ms,
            "ratio_to_bare": statistics.median(
                own / bare for own, bare in zip(way.rates, ways["bare"].rates, strict=True)
            ),
            "ratio_low": min(own / bare for own, bare in zip(way.rates, ways["bare"].rates, strict=True)),
            "ratio_high": max(own / bare for own, bare in zip(way.rates, ways["bare"].rates, strict=True)),
        }
        for name, way in ways.items()
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=64, help="messages of one round on the verified path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="ONNX threads of every way; 0: one per core")
    arguments = parser.parse_args()
    package = ModelPackage.load(DEFAULT_MODEL)
    found: list[dict[str, object]] = []
    with open_broker() as broker:
        print(f"broker: {describe(broker)}")
        for path, verify, factor in (("verified", True, 1), ("fast", False, 3)):
            ways = asyncio.run(
                compare(
                    broker,
                    package,
                    verify=verify,
                    messages=arguments.messages * factor,
                    rounds=arguments.rounds,
                    threads=arguments.threads,
                    naive=not verify,
                )
            )
            found += rows(path, ways)
            report("end_to_end", found)
            if not verify:
                pairs = zip(ways["guardline"].rates, ways["faust-sentence-transformers"].rates, strict=True)
                times = statistics.median(itertools.starmap(lambda own, other: own / other, pairs))
                print(f"fast path against one-at-a-time sentence-transformers in stock Faust: {times:.1f} times")


if __name__ == "__main__":
    main()
