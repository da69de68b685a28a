"""One fault on one broker: inputs, workers, and a watcher that reads every output as it comes and samples commits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from tests.e2e.worker import CHECKOUT, OUTPUTS, Topics, Worker
from tests.faults.brokers import FaultyBroker
from tests.faults.ledger import Account, Bounds, Findings, Input, Ledger, Sort, read_output
from tests.faults.null_model import FLAGGED, OFF_TOPIC, SAFE
from tests.faults.plan import Plan

PARTITIONS = 4
CHUNK_RECORDS, CHUNKS_IN_FLIGHT = 16, 4
#: Faust's commit interval in `monitor.app`.
COMMIT_INTERVAL = 1.0
#: Seconds without an output after which a pipeline that has committed everything is taken to be at its end.
QUIET = 5.0
#: Value, id and sort of an input; unreadable ones have no id.
Made = tuple[bytes | None, str | None, Sort]
#: Seconds that a script waits for what must come first; a busy machine takes a minute to start a process.
PATIENCE = 240.0
MODULES = {"guardline": "tests.faults.worker", "stock": "tests.faults.stock"}


class FaultMissedError(Exception):
    """The fault could not hit: everything was done before, or what it waits for never came."""


class FaultWorker(Worker):
    """A worker process of one pipeline, with a plan of troubles."""

    def __init__(self, module: str, plan: Plan, stage: Stage, **settings: str) -> None:
        common = {
            "chunk_records": str(CHUNK_RECORDS),
            "chunks_in_flight": str(CHUNKS_IN_FLIGHT),
            "batch_tokens": "16384",
            "log_level": "warning",
            "publish_timeout": "10",
            "group": stage.group,
        }
        log = stage.folder / f"worker{len(stage.workers)}.log"
        super().__init__(stage.broker.broker, stage.package, stage.topics, log, **common | settings)
        self._module = module
        self._environment |= plan.environment()

    async def start(self) -> None:
        """Start the process; it may take seconds to join its group."""
        with self.log.open("ab") as file:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                env={**self._environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
                cwd=CHECKOUT,
                stdout=file,
                stderr=file,
            )

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.returncode is not None


@dataclass
class Stage:
    """What a fault's script works with."""

    broker: FaultyBroker
    pipeline: str
    package: Path
    folder: Path
    settings: Mapping[str, str]
    topics: Topics
    ledger: Ledger = field(default_factory=Ledger)
    account: Account = field(default_factory=Account)
    workers: list[FaultWorker] = field(default_factory=list)
    recovery: float | None = None
    kills: int = 0
    commits_refused_s: float = 0.0
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _producer: AIOKafkaProducer | None = None
    _offsets: AIOKafkaConsumer | None = None
    _watcher: asyncio.Task[None] | None = None
    _produced: int = 0
    _last: float = 0.0
    _healed: tuple[float, int] | None = None
    _healed_at: float = float("inf")
    _read: dict[TopicPartition, int] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The consumer group, fresh for every stage."""
        return self.topics.names["outputs"]

    @property
    def done(self) -> int:
        """How many inputs have an audit record."""
        return len(self.account.audits)

    # What goes in

    async def produce(self, count: int, make: Callable[[int], Made] | None = None) -> None:
        """Write inputs, wait for every acknowledgement, and put them into the ledger."""
        waiting = []
        for number in range(self._produced, self._produced + count):
            value, identifier, sort = (make or standard_input)(number)
            key = (identifier or f"k{number}").encode()
            sent = await self.producer.send(self.group, value, key=key, partition=number % PARTITIONS)
            waiting.append(self._note(sent, identifier, sort))
        self._produced += count
        await asyncio.gather(*waiting)

    async def _note(self, sent: Awaitable[object], identifier: str | None, sort: Sort) -> None:
        metadata = await sent
        self.ledger.add(Input((metadata.partition, metadata.offset), identifier, sort))  # type: ignore[attr-defined]

    @property
    def producer(self) -> AIOKafkaProducer:
        """The harness's own producer."""
        assert self._producer is not None
        return self._producer

    # Who works

    async def worker(self, plan: Plan | None = None, **settings: str) -> FaultWorker:
        """Start one more worker."""
        worker = FaultWorker(MODULES[self.pipeline], plan or Plan(), self, **dict(self.settings) | settings)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def ended(self, worker: FaultWorker, code: int, seconds: float = PATIENCE) -> None:
        """Wait until a worker has ended by itself with this exit code."""
        assert worker.process is not None
        try:
            found = await asyncio.wait_for(worker.process.wait(), seconds)
        except TimeoutError:
            raise FaultMissedError(f"the worker did not end in {seconds:.0f} s; see {worker.log}") from None
        if found != code:
            raise FaultMissedError(f"exit code {found} for {code}; see {worker.log}")

    async def kill(self, worker: FaultWorker) -> None:
        """End a worker with SIGKILL; what it had in hand will be delivered again, once."""
        await worker.stop(signal.SIGKILL)
        self.kills += 1

    # When

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait for something.

        Raises:
            FaultMissedError: it did not come.
        """
        deadline = monotonic() + seconds
        while not condition():
            self._watching()
            if monotonic() > deadline:
                raise FaultMissedError(f"no {what} in {seconds:.0f} s")
            await asyncio.sleep(0.02)

    async def progress(self, more: int) -> None:
        """Wait until so many more inputs are done."""
        goal = self.done + more
        await self.until(lambda: self.done >= goal, f"{more} more of {self.done} done")

    def in_the_middle(self) -> None:
        """Make sure that there is work left for the fault to hit.

        Raises:
            FaultMissedError: there is none.
        """
        if self.done >= len(self.ledger):
            raise FaultMissedError("everything was done before the fault came")

    def healed(self) -> None:
        """Note that the cause is gone: from here on recovery is measured."""
        self._healed, self._healed_at = (monotonic(), self.done), time()

    # What comes out

    async def watch(self) -> None:
        """Read every output as it comes, for ever."""
        roles = {name: role for role, name in self.topics.names.items() if role in OUTPUTS}
        consumer = AIOKafkaConsumer(
            *roles,
            bootstrap_servers=self.broker.broker.bootstrap,
            auto_offset_reset="earliest",
            metadata_max_age_ms=2000,  # a topic may appear later
            max_partition_fetch_bytes=20_000_000,
        )
        await consumer.start()
        try:
            sampling = asyncio.create_task(self._sample(consumer))
            try:
                while not sampling.done():
                    for partition, records in (await consumer.getmany(timeout_ms=100)).items():
                        for record in records:
                            self.account.add(read_output(roles[partition.topic], record))
                        self._read[partition] = records[-1].offset + 1
                        self._last = monotonic()
                        self._recovered()
                sampling.result()
            finally:
                sampling.cancel()
        finally:
            await consumer.stop()

    def _watching(self) -> None:
        if self._watcher is not None and self._watcher.done():
            self._watcher.result()

    def _recovered(self) -> None:
        if self._healed is not None and self.recovery is None and self.done > self._healed[1]:
            self.recovery = monotonic() - self._healed[0]

    async def _sample(self, consumer: AIOKafkaConsumer) -> None:
        """Every half second: what is committed now must be complete in the outputs read afterwards."""
        while True:
            await asyncio.sleep(0.5)
            try:
                committed = await self.committed()
                async with asyncio.timeout(15):
                    await self._caught_up(consumer)
            except (KafkaError, OSError):
                continue  # the broker is down
            self.account.check(self.ledger, committed)

    async def _caught_up(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any(self._read.get(partition, 0) < end for partition, end in ends.items()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def committed(self) -> dict[int, int]:
        """Return the group's offsets by partition; 0 where it has committed nothing.

        Raises:
            KafkaError, OSError: the broker does not answer within 15 s.
        """
        assert self._offsets is not None
        async with asyncio.timeout(15):
            return {
                number: await self._offsets.committed(TopicPartition(self.group, number)) or 0
                for number in range(PARTITIONS)
            }

    async def finish(self, seconds: float) -> bool:
        """Wait until every input is complete and the last commit is the end of every partition; false if never.

        A pipeline that loses commits the end without being complete; that, too, is the end of the wait.
        """
        ends = self.ends()
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            self._watching()
            await asyncio.sleep(0.3)
            whole = self.done >= len(self.ledger) and not self.account.incomplete(self.ledger)
            if whole or self._quiet():
                try:
                    if await self.committed() == ends:
                        return True
                except (KafkaError, OSError):
                    continue
        return False

    def _quiet(self) -> bool:
        return monotonic() - self._last > QUIET

    def ends(self) -> dict[int, int]:
        """Return the offset after the last input of each partition."""
        ends = dict.fromkeys(range(PARTITIONS), 0)
        for item in self.ledger:
            partition, offset = item.position
            ends[partition] = max(ends[partition], offset + 1)
        return ends

    async def judge(self, bounds: Bounds, workers: int) -> tuple[Findings, int]:
        """Return the findings, and how many duplicates the bounds allow."""
        in_flight = CHUNK_RECORDS * CHUNKS_IN_FLIGHT * workers
        bounds = replace(bounds, redeliveries=bounds.redeliveries + self.kills)
        allowed = bounds.duplicates(
            in_flight, COMMIT_INTERVAL, self.account.peak_rate(self._healed_at), self.commits_refused_s
        )
        committed = await self.committed()
        return self.account.judge(self.ledger, committed, refused=bounds.refused), allowed


def standard_input(number: int) -> Made:
    """Return an input: one in 7 is flagged, one in 51 unreadable, half the rest off topic; in all partitions alike."""
    if number % 51 == 7:
        return b'{"id": "torn %d", "text": ' % number, None, Sort.UNREADABLE
    sort = Sort.FLAGGED if number % 7 == 3 else Sort.CLEAN
    text = FLAGGED if sort is Sort.FLAGGED else SAFE if number // PARTITIONS % 2 else OFF_TOPIC
    return native(f"m{number}", text.format(number)), f"m{number}", sort


def native(identifier: str, text: str) -> bytes:
    """Return the native record of an input."""
    return json.dumps({"id": identifier, "text": text}).encode()


@asynccontextmanager
async def stage(
    broker: FaultyBroker,
    pipeline: str,
    package: Path,
    folder: Path,
    settings: Mapping[str, str],
    *,
    missing: str = "",
    topic_settings: Mapping[str, Mapping[str, str]] | None = None,
    verdict_partitions: int = 1,
) -> AsyncIterator[Stage]:
    """Set up topics (without `missing`), producer and watcher; end what is left of them, and of workers, after."""
    mark = uuid.uuid4().hex[:8]
    names = {"outputs": f"llm.outputs.{mark}", **{role: f"safety.{role}.{mark}" for role in OUTPUTS}}
    counts = {"outputs": PARTITIONS, "verdicts": verdict_partitions}
    for role, name in names.items():
        if role != missing:
            await broker.create(name, counts.get(role, 1), **dict((topic_settings or {}).get(role, {})))
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    place = Stage(broker, pipeline, package, folder, settings, Topics(names))
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.broker.bootstrap,
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=120_000,  # longer than any outage here: what is sent is acknowledged in the end
        max_request_size=20_000_000,
    )
    await producer.start()
    place._producer = producer
    # Not a member of the group: it only asks what the group has committed.
    offsets = AIOKafkaConsumer(
        bootstrap_servers=broker.broker.bootstrap, group_id=place.group, enable_auto_commit=False
    )
    await offsets.start()
    offsets.assign([TopicPartition(place.group, number) for number in range(PARTITIONS)])
    place._offsets = offsets
    watcher = place._watcher = asyncio.create_task(place.watch())
    try:
        yield place
        if watcher.done():
            watcher.result()
    finally:
        for worker in place.workers:
            if worker.process is not None and worker.process.returncode is None:
                # SIGKILL ends a process that is stopped, too.
                os.kill(worker.process.pid, signal.SIGKILL)
                await worker.process.wait()
        for close in place.closing:
            await close()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await offsets.stop()
        await producer.stop()
