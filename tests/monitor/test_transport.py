"""Nothing lost, nothing committed early: worker processes under trouble, on the embedded broker and
on a real Kafka.

Each test fills a topic, lets workers copy it to an audit topic, and watches from outside: at every
sample all offsets below the committed ones must already be in the audit topic, and in the end
everything is. The negative control shows that this harness does report a loss: stock Faust under
the same exception.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from faust.types import TP

from monitor.embedded_broker import ApiKey, EmbeddedBroker
from monitor.pace import ChunkPace
from monitor.transport import ChunkConsumer, PartitionLedger, round_robin
from tests.fixtures_kafka import Broker, committed_offsets, consume_all, produce

WORKER = Path(__file__).with_name("transport_worker.py")
PARTITIONS = 4
RECORDS = 4000
OUTAGE = 2.5  # longer than the group session, so that the worker has to join again
GROUP_AUTHORIZATION_FAILED, INVALID_REQUEST = 30, 42
DEADLINE = 30.0  # against hanging only; a run takes a few seconds


@dataclass(frozen=True)
class Sample:
    """The stream at one instant. `early` are inputs committed but not yet in the audit topic."""

    committed: dict[int, int]
    audited: Counter[bytes]
    early: set[bytes]

    @property
    def done(self) -> int:
        return sum(self.committed.values())


class Harness:
    """One filled source topic, one audit topic, one group, and the worker processes started on them."""

    def __init__(self, broker: Broker, source: str, audit: str, logs: Path, processes: ExitStack) -> None:
        self.broker, self.source, self.audit = broker, source, audit
        self.group = f"group-{source}"
        self.written: dict[int, list[bytes]] = {}
        self._folder, self._processes = logs, processes
        self._logs: dict[int, Path] = {}

    async def fill(self) -> None:
        values = [f"{index % PARTITIONS}:{index // PARTITIONS}".encode() for index in range(RECORDS)]
        self.written = await produce(self.broker.bootstrap, self.source, values, PARTITIONS)

    def worker(self, **options: object) -> subprocess.Popen[bytes]:
        log = self._folder / f"worker{len(self._logs)}.log"
        common = {
            "bootstrap": self.broker.bootstrap,
            "group": self.group,
            "source": self.source,
            "audit": self.audit,
            "session": self.broker.session,
        }
        process = self._processes.enter_context(_process(common | options, log))
        self._logs[process.pid] = log
        return process

    def taken(self, worker: subprocess.Popen[bytes]) -> int:
        """How many records the agent of a cleanly ended worker had taken."""
        return json.loads(self._logs[worker.pid].read_text().splitlines()[-1])["records"]

    async def sample(self) -> Sample:
        # In this order: what is committed now must be in the audit topic read afterwards.
        committed = await committed_offsets(self.broker.bootstrap, self.group, self.source, PARTITIONS)
        audited = Counter(record.value for record in await consume_all(self.broker.bootstrap, self.audit))
        below = {value for number, offset in committed.items() for value in self.written[number][:offset]}
        return Sample(committed, audited, below - audited.keys())

    async def samples(self) -> AsyncIterator[Sample]:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            yield await self.sample()
            await asyncio.sleep(0.1)
        pytest.fail(f"not done after {DEADLINE} s; worker logs:\n{self.tail()}")

    async def safely_until(self, committed: int) -> Sample:
        """Watch until this many records are committed, and fail as soon as one is committed early."""
        async for sample in self.samples():
            assert not sample.early, f"{len(sample.early)} committed before they were audited"
            if sample.done >= committed:
                return sample
        raise AssertionError("unreachable")

    async def safely_until_assigned(self, worker: subprocess.Popen[bytes]) -> Sample:
        """Watch until a worker has got its share of the partitions."""
        async for sample in self.samples():
            assert not sample.early, f"{len(sample.early)} committed before they were audited"
            if "newly assigned partitions {" in self._logs[worker.pid].read_text():
                return sample
        raise AssertionError("unreachable")

    async def nothing_is_lost(self) -> Sample:
        sample = await self.safely_until(RECORDS)
        assert set(sample.audited) == {value for values in self.written.values() for value in values}
        return sample

    def tail(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self._logs.values())


@contextmanager
def _process(options: dict[str, object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(options)],
            stdout=output,
            stderr=output,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def harness(broker: Broker, tmp_path: Path) -> AsyncIterator[Harness]:
    source, audit = (
        await broker.topic("source", PARTITIONS),
        await broker.topic("audit", PARTITIONS),
    )
    with ExitStack() as processes:
        harness = Harness(broker, source, audit, tmp_path, processes)
        await harness.fill()
        yield harness


async def test_a_failing_handler_holds_the_commit(harness: Harness) -> None:
    harness.worker(fail_every=97, pause=0.05)
    sample = await harness.nothing_is_lost()
    assert sample.audited.total() == RECORDS


async def test_chunks_acknowledged_out_of_order_wait_for_the_lowest(harness: Harness, tmp_path: Path) -> None:
    release = tmp_path / "release"
    harness.worker(pause=0.05, shuffle=True, hold=str(release))
    others = RECORDS - RECORDS // PARTITIONS
    held = await harness.safely_until(others)
    assert held.committed[0] == 0
    assert any(value.startswith(b"0:") for value in held.audited), "later chunks of partition 0 went on"
    release.touch()
    sample = await harness.nothing_is_lost()
    assert sample.audited.total() == RECORDS


async def test_a_killed_worker_is_taken_over(harness: Harness) -> None:
    first = harness.worker(pause=0.1, shuffle=True)
    await harness.safely_until(RECORDS // 8)
    first.kill()
    harness.worker()
    await harness.nothing_is_lost()


async def test_two_workers_share_and_hand_over(harness: Harness) -> None:
    first = harness.worker(pause=0.4, shuffle=True)
    await harness.safely_until(RECORDS // 8)
    second = harness.worker(pause=0.4, shuffle=True)
    shared = await harness.safely_until_assigned(second)
    await harness.safely_until(shared.done + RECORDS // 8)
    assert (await harness.sample()).done < RECORDS
    first.terminate()
    sample = await harness.nothing_is_lost()
    assert first.wait(DEADLINE) == 0
    if harness.broker.kind != "embedded":  # which refuses the commits that end a handover
        assert sample.audited.total() == RECORDS, "a drained handover delivers nothing twice"


async def test_sigterm_finishes_and_commits_what_is_in_hand(harness: Harness) -> None:
    first = harness.worker(pause=0.5)
    await harness.safely_until(RECORDS // 8)
    first.terminate()
    assert await asyncio.to_thread(first.wait, DEADLINE) == 0
    drained = await harness.sample()
    assert not drained.early
    assert drained.done == drained.audited.total() == harness.taken(first) < RECORDS
    harness.worker()
    sample = await harness.nothing_is_lost()
    assert sample.audited.total() == RECORDS, "a clean handover delivers nothing twice"


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
async def test_a_refused_join_is_tried_again(harness: Harness, embedded_broker: EmbeddedBroker) -> None:
    embedded_broker.inject_errors(ApiKey.SYNC_GROUP, INVALID_REQUEST)
    embedded_broker.inject_errors(ApiKey.JOIN_GROUP, GROUP_AUTHORIZATION_FAILED)
    harness.worker()
    await harness.nothing_is_lost()


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
async def test_an_outage_of_the_broker_only_delays(harness: Harness, embedded_broker: EmbeddedBroker) -> None:
    worker = harness.worker(pause=0.1)
    await harness.safely_until(RECORDS // 8)
    embedded_broker.down()
    await asyncio.sleep(OUTAGE)
    embedded_broker.up()
    await harness.nothing_is_lost()
    assert worker.poll() is None


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
async def test_sigterm_during_an_outage_ends_and_leaves_the_rest_to_the_next(
    harness: Harness, embedded_broker: EmbeddedBroker
) -> None:
    first = harness.worker(pause=0.1, drain=1.0)
    await harness.safely_until(RECORDS // 8)
    embedded_broker.down()
    first.terminate()
    await asyncio.to_thread(first.wait, DEADLINE)
    embedded_broker.up()
    harness.worker()
    await harness.nothing_is_lost()


async def test_the_harness_reports_that_stock_faust_loses(harness: Harness) -> None:
    harness.worker(mode="take", fail_every=97)
    async for sample in harness.samples():
        if sample.early:
            return


def test_a_ledger_commits_only_below_the_lowest_unacknowledged_offset() -> None:
    ledger, first, second, third = PartitionLedger(), object(), object(), object()
    assert ledger.to_commit is None
    ledger.deliver(first, 10, 19, 10)
    ledger.deliver(second, 20, 29, 10)
    ledger.deliver(third, 32, 41, 8)  # compacted: offsets are missing between chunks and inside
    assert ledger.to_commit == 10
    assert ledger.acknowledge(second)
    assert ledger.to_commit == 10
    assert ledger.acknowledge(first)
    assert ledger.to_commit == 32
    ledger.committed = 32
    assert ledger.to_commit is None
    assert not ledger.acknowledge(first)
    assert not ledger.acknowledge(object()), "a message of another assignment"
    assert ledger.acknowledge(third)
    assert (ledger.to_commit, ledger.in_flight) == (42, 0)


async def test_a_fetch_from_before_a_rebalance_is_not_delivered() -> None:
    consumer = _RewoundConsumer()
    assert [message.offset async for _, message in consumer.getmany(0)] == [1]
    assert consumer._ledgers[TP("llm.outputs", 0)].acknowledged == 0


class _RewoundConsumer(ChunkConsumer):
    """Fetches four records, and finds its position set back after the first chunk of two."""

    app = SimpleNamespace(consumer_generation_id=1)
    transport = SimpleNamespace(pace=ChunkPace(2))
    should_stop = False
    positions = iter([4, 2])

    def __init__(self) -> None:
        self._ledgers, self._read_offset = {}, {}

    async def _wait_next_records(self, _: float) -> tuple[dict[TP, list[SimpleNamespace]], set[TP]]:
        tp = TP("llm.outputs", 0)
        return {tp: [SimpleNamespace(offset=offset, timestamp=0, timestamp_type=0) for offset in range(4)]}, {tp}

    def _partition_state(self, tp: TP) -> SimpleNamespace:
        return SimpleNamespace(has_valid_position=True, position=next(self.positions))


async def test_a_consumer_thread_that_ends_under_a_call_fails_the_call_and_not_the_caller() -> None:
    """Else the last commit, when Faust has crashed, cancels the stop of the app, and the process never ends."""
    consumer = _ThreadlessConsumer()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TimeoutError, match="thread has ended"):
        await consumer._in_thread(cancelled)


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    waiting = asyncio.create_task(_ThreadlessConsumer()._in_thread(asyncio.Event().wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


class _ThreadlessConsumer(ChunkConsumer):
    """Its thread's loop is the test's."""

    transport = SimpleNamespace(commit_timeout=5.0)

    def __init__(self) -> None:
        self._thread = SimpleNamespace(thread_loop=asyncio.get_running_loop())


def test_round_robin_serves_every_partition_in_turn() -> None:
    fetched = {"a": [1, 2, 3, 4, 5], "b": [6], "c": [], "d": [7, 8, 9]}
    assert list(round_robin(fetched, ChunkPace(2))) == [
        ("a", [1, 2]),
        ("b", [6]),
        ("d", [7, 8]),
        ("a", [3, 4]),
        ("d", [9]),
        ("a", [5]),
    ]
