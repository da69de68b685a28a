"""The faults: how each is brought about and healed, on which broker, and what it may cost.

A script starts workers, brings the trouble, takes it away, calls `stage.healed()`, and leaves a worker and work behind.
What it may cost stands in `Bounds`; the accounting is the same for all.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

from monitor.embedded_broker import ApiKey
from monitor.package import ModelPackage
from monitor.types import Verdict
from tests.e2e.test_worker import INPUTS
from tests.faults.brokers import Kafka, Mock
from tests.faults.ledger import Bounds, Sort
from tests.faults.null_model import FLAGGED, OFF_TOPIC
from tests.faults.plan import Plan
from tests.faults.stage import FaultMissedError, FaultWorker, Made, Stage, native, standard_input
from tests.faults.triton_double import Answers, TritonDouble
from tests.fixtures_services import LocalRedis, free_ports  # type: ignore[attr-defined]

#: Some 200 records a second, so that a fault finds work in hand.
SLOW = Plan(pause=0.25)
NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER, UNKNOWN_TOPIC = 19, 7, 6, 3
TOPIC_AUTHORIZATION_FAILED, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 29, 45, 47
COORDINATOR_LOADING, NO_COORDINATOR, NOT_COORDINATOR, ILLEGAL_GENERATION, UNKNOWN_MEMBER = 14, 15, 16, 22, 25
REBALANCE_IN_PROGRESS = 27


@dataclass(frozen=True)
class Sizes:
    """How heavy the heavy cases are; `short` is for `make test`."""

    kills: int = 10
    outage: float = 30.0
    backlog: int = 100_000
    megabytes: int = 10


SHORT = Sizes(kills=2, outage=5.0, backlog=5_000, megabytes=2)


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    `script` gets the stage and the sizes. `stock` says that the negative control has to lose under it. `brokers` names
    those on which it can be brought about.
    """

    name: str
    script: Callable[[Stage, Sizes], Awaitable[None]]
    bounds: Bounds = field(default_factory=Bounds)
    brokers: tuple[str, ...] = ("kafka", "mock")
    workers: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    topic_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    missing: str = ""
    verdict_partitions: int = 1
    finish_s: float = 90.0
    stock: bool = False


# Workers that end


async def _killed(stage: Stage, sizes: Sizes) -> None:
    for _ in range(sizes.kills):
        await stage.produce(600)
        worker = await stage.worker(SLOW)
        await stage.progress(30)
        stage.in_the_middle()
        await stage.kill(worker)
    await stage.worker()
    stage.healed()


async def _terminated(stage: Stage, _: Sizes) -> None:
    await stage.produce(800)
    worker = await stage.worker(SLOW)
    await stage.progress(100)
    stage.in_the_middle()
    code = await worker.stop()
    if code:
        raise FaultMissedError(f"SIGTERM ended with {code}; see {worker.log}")
    await stage.worker()
    stage.healed()


async def _agent_raises(stage: Stage, _: Sizes) -> None:
    """The worker stops rather than commit past it; whoever runs workers starts it again."""
    await stage.produce(800)
    worker = await stage.worker(Plan(pause=0.25, agent_raises_at=5), drain_timeout="3")
    if stage.pipeline == "guardline":
        await stage.ended(worker, 3)
        stage.in_the_middle()
        await stage.worker()
    else:  # stock Faust restarts the agent in the same process
        await stage.progress(100)
    stage.healed()


async def _model_raises(stage: Stage, _: Sizes) -> None:
    """Every seventh batch: the four chunks in flight take turns, so no message fails three times in a row."""
    await stage.produce(800)
    await stage.worker(Plan(pause=0.05, model_raises_every=7))
    stage.healed()


# The group


async def _joined(stage: Stage, _: Sizes) -> None:
    await stage.produce(2000)
    await stage.worker(SLOW)
    await stage.progress(100)
    second = await stage.worker(SLOW, log_level="info")
    await stage.until(lambda: _has_partitions(second), "second worker with partitions")
    stage.in_the_middle()
    stage.healed()


async def _left(stage: Stage, _: Sizes) -> None:
    await stage.produce(2400)
    first, second = await _pair(stage)
    if code := await first.stop():
        raise FaultMissedError(f"SIGTERM ended with {code}; see {first.log}")
    stage.in_the_middle()
    stage.healed()
    assert not second.ended


async def _one_of_two_killed(stage: Stage, _: Sizes) -> None:
    await stage.produce(2400)
    first, _second = await _pair(stage)
    await stage.kill(first)
    stage.in_the_middle()
    stage.healed()


async def _pair(stage: Stage) -> tuple[FaultWorker, FaultWorker]:
    first, second = await stage.worker(SLOW, log_level="info"), await stage.worker(SLOW, log_level="info")
    for worker in (first, second):
        await stage.until(lambda worker=worker: _has_partitions(worker), "worker with partitions")  # type: ignore[misc]
    await stage.progress(100)
    stage.in_the_middle()
    return first, second


def _has_partitions(worker: FaultWorker) -> bool:
    return worker.log.exists() and "worker_started" in worker.log.read_text()


async def _frozen(stage: Stage, _: Sizes) -> None:
    """A worker that is stopped for longer than its session: the group gives it up, and it finds out later."""
    await stage.produce(800)
    worker = await stage.worker(SLOW)
    await stage.progress(100)
    stage.in_the_middle()
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(5)  # its session lasts 2 s
    worker.process.send_signal(signal.SIGCONT)
    stage.healed()
    await stage.until(lambda: "not recognized" in worker.log.read_text(), "eviction in the log")


# The broker


async def _broker_down(stage: Stage, sizes: Sizes) -> None:
    await stage.produce(1200)
    await stage.worker(SLOW)
    await stage.progress(100)
    stage.in_the_middle()
    await stage.broker.down()
    await asyncio.sleep(sizes.outage)
    await stage.broker.up()
    stage.healed()


async def _produce_errors(stage: Stage, _: Sizes) -> None:
    """On Kafka the topic of the flags is not there at first; the mock cluster answers with retriable errors."""
    await stage.produce(800)
    if isinstance(stage.broker, Kafka):
        await stage.worker(SLOW)
        await asyncio.sleep(8)
        await stage.broker.create(stage.topics.names["flags"], 1)
    else:
        await _progress_slowly(stage)
        _mock(stage).inject(ApiKey.PRODUCE, (NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT, NOT_LEADER), 5)
    stage.healed()


async def _produce_refused(stage: Stage, _: Sizes) -> None:
    """On Kafka an ACL forbids the flags for a while; the mock cluster answers with errors that end a producer."""
    await stage.produce(800)
    await _progress_slowly(stage)
    if isinstance(stage.broker, Kafka):
        await stage.broker.deny(stage.topics.names["flags"], AclOperation.WRITE)
        await asyncio.sleep(5)
        await stage.broker.allow(stage.topics.names["flags"])
    else:
        errors = (TOPIC_AUTHORIZATION_FAILED, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH)
        _mock(stage).inject(ApiKey.PRODUCE, errors, 3)
        await asyncio.sleep(1)
    stage.healed()


async def _flags_too_large(stage: Stage, _: Sizes) -> None:
    await stage.produce(800)
    await stage.worker(SLOW)
    stage.healed()


async def _commit_errors(stage: Stage, _: Sizes) -> None:
    errors = (
        COORDINATOR_LOADING,
        NO_COORDINATOR,
        NOT_COORDINATOR,
        REQUEST_TIMED_OUT,
        REBALANCE_IN_PROGRESS,
        ILLEGAL_GENERATION,
        UNKNOWN_MEMBER,
    )
    await stage.produce(1500)
    await _progress_slowly(stage)
    _mock(stage).inject(ApiKey.OFFSET_COMMIT, errors)
    await asyncio.sleep(2)
    stage.in_the_middle()
    stage.healed()


async def _input_forbidden(stage: Stage, _: Sizes) -> None:
    """Reading the input is forbidden for a while, and so are commits: the worker ends, and is started again later.

    What it has fetched it works on, a megabyte of each partition, so inputs are large enough for that not to be all.
    """

    def padded(number: int) -> Made:
        value, identifier, sort = standard_input(number)
        return (value or b"")[:-1] + b', "padding": "' + b"x" * 5000 + b'"}', identifier, sort

    await stage.produce(4000, padded)
    worker = await _progress_slowly(stage, drain_timeout="3")
    broker = stage.broker
    assert isinstance(broker, Kafka)
    since = monotonic()
    await broker.deny(stage.group, AclOperation.READ)
    await stage.ended(worker, 3)
    stage.commits_refused_s = monotonic() - since
    stage.in_the_middle()
    await broker.allow(stage.group)
    await stage.worker()
    stage.healed()


async def _progress_slowly(stage: Stage, **settings: str) -> FaultWorker:
    worker = await stage.worker(SLOW, **settings)
    await stage.progress(100)
    stage.in_the_middle()
    return worker


def _mock(stage: Stage) -> Mock:
    assert isinstance(stage.broker, Mock)
    return stage.broker


# Triton


async def _with_triton(stage: Stage, act: Callable[[TritonDouble], Awaitable[None]], plan: Plan | None = None) -> None:
    double = TritonDouble(ModelPackage.load(stage.package))
    await double.start()
    stage.closing.append(double.stop)
    await stage.produce(400)
    double.delay = 0.2
    settings = {"scorer": "triton", "triton_url": double.url, "triton_timeout": "5"}
    worker = await stage.worker(plan, **settings)
    await stage.progress(40)
    stage.in_the_middle()
    await act(double)
    if worker.ended:  # it refused to go on; whoever runs workers starts it again
        await stage.worker(plan, **settings)
    stage.healed()
    await stage.produce(100)


async def _triton_away(stage: Stage, _: Sizes) -> None:
    """Away for 12 s with a poll interval of 4 s, in the place of the worker's 24 hours."""

    async def act(double: TritonDouble) -> None:
        await double.stop()
        await asyncio.sleep(12)
        await double.start()

    await _with_triton(stage, act, Plan(max_poll_interval=4.0))


async def _triton_slow(stage: Stage, _: Sizes) -> None:
    async def act(double: TritonDouble) -> None:
        double.delay = 2.0
        await stage.progress(30)
        double.delay = 0.2

    await _with_triton(stage, act)


async def _triton_nan(stage: Stage, _: Sizes) -> None:
    """For one batch: numbers that are none for longer make dead letters, and too many of those stop the worker."""

    async def act(double: TritonDouble) -> None:
        double.answers = Answers.NAN
        seen = double.requests
        await stage.until(lambda: double.requests > seen + 1, "request")
        double.answers = Answers.RIGHT

    await _with_triton(stage, act)


async def _triton_shapes(stage: Stage, _: Sizes) -> None:
    async def act(double: TritonDouble) -> None:
        double.answers = Answers.SHAPES
        await stage.ended(stage.workers[-1], 3)
        double.answers = Answers.RIGHT

    await _with_triton(stage, act)


# Redis


async def _redis_emptied(stage: Stage, _: Sizes) -> None:
    if shutil.which("redis-server") is None:
        raise FaultMissedError("no redis-server: apt-get install redis-server")
    server = LocalRedis(free_ports(1)[0])
    server.start()

    async def close() -> None:
        server.stop()

    stage.closing.append(close)
    await stage.produce(1200)
    await stage.worker(SLOW, store="redis", redis_url=server.url)
    await stage.progress(100)
    server.stop()
    await stage.progress(200)
    server.start()  # keeps nothing on disk, so it comes back empty
    stage.in_the_middle()
    stage.healed()


# Inputs


async def _poison(stage: Stage, _: Sizes) -> None:
    values = [value for value, expected in INPUTS.values() if not isinstance(expected, Verdict)]
    values += [b"\x00" * 1000, bytes(range(256)) * 40, b'{"id": "a"} {"id": "b"}', b'{"id": "x", "text": "y"']

    def make(number: int) -> Made:
        if number % 3:
            return values[number % len(values)], None, Sort.UNREADABLE
        return native(f"m{number}", FLAGGED.format(number)), f"m{number}", Sort.FLAGGED

    await stage.worker()
    await stage.produce(20 * len(values), make)
    stage.healed()
    await stage.produce(100)


async def _huge(stage: Stage, sizes: Sizes) -> None:
    """The mock cluster drops what is beyond 5 MB in a partition, so it gets 2 MB there."""
    megabytes = sizes.megabytes if stage.broker.name == "kafka" else min(sizes.megabytes, 2)

    def make(number: int) -> Made:
        filler = OFF_TOPIC.format(number) + " "
        text = filler * (megabytes * 1_000_000 // len(filler)) + FLAGGED.format(number)
        return native(f"m{number}", text), f"m{number}", Sort.FLAGGED

    await stage.produce(2, make)
    await stage.worker()
    await stage.produce(400)
    stage.healed()


async def _behind(stage: Stage, sizes: Sizes) -> None:
    await stage.produce(sizes.backlog)
    await stage.worker(chunk_records="64")
    stage.healed()


# The machine


async def _clock_jumps(stage: Stage, _: Sizes) -> None:
    await stage.produce(1200)
    await stage.worker(Plan(pause=0.15, clock_forward_at=5, clock_back_at=12))
    stage.healed()


ONCE = Bounds(redeliveries=1)
FAULTS = (
    Fault("kill -9, again and again", _killed),
    Fault("SIGTERM", _terminated, Bounds()),
    Fault("exception in the agent", _agent_raises, ONCE, stock=True),
    Fault("exceptions in the model", _model_raises, Bounds()),
    Fault("a worker joins", _joined, ONCE, workers=2),
    Fault("a worker leaves", _left, ONCE, workers=2),
    Fault("a worker of two is killed", _one_of_two_killed, ONCE, workers=2),
    Fault("a worker is frozen and evicted", _frozen, ONCE),
    Fault("broker down", _broker_down, ONCE),
    Fault("produce errors, retriable", _produce_errors, Bounds(), missing="flags"),
    Fault("produce errors, fatal", _produce_refused, Bounds(), stock=True),
    Fault(
        "flags too large for their topic",
        _flags_too_large,
        Bounds(refused=True),
        brokers=("kafka",),
        topic_settings={"flags": {"max.message.bytes": "200"}},
    ),
    Fault("commit errors", _commit_errors, Bounds(redeliveries=3), brokers=("mock",)),
    Fault("input and commits forbidden", _input_forbidden, ONCE, brokers=("kafka",)),
    Fault("Triton away, beyond the poll interval", _triton_away, ONCE),
    Fault("Triton slow, 2 s a batch", _triton_slow, Bounds()),
    Fault("Triton answers NaN", _triton_nan, Bounds()),
    Fault("Triton answers wrong shapes", _triton_shapes, ONCE),
    Fault("Redis stopped and emptied", _redis_emptied, Bounds()),
    Fault("poison messages", _poison, Bounds()),
    Fault("huge messages", _huge, Bounds(recovery_s=240), finish_s=300),
    Fault("clock jumps", _clock_jumps, Bounds()),
    Fault("far behind", _behind, Bounds(), verdict_partitions=16, finish_s=600),
)
