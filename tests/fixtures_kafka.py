"""Brokers for tests: the embedded one, and a real Apache Kafka where one can be found.

`tests/conftest.py` loads this file through `pytest_plugins`. A real broker is looked for in this
order: `KAFKA_BOOTSTRAP` (yours, already running), `GUARDLINE_KAFKA_HOME` (a folder with a `kafka`
script or a stock distribution's `bin/`), and `../shared/kafka/kafka` beside the checkout; the
report's header says which one it will be. The `broker` fixture runs a test on both.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from monitor.embedded_broker import EmbeddedBroker, EmbeddedBrokerUnavailable

CHECKOUT = Path(__file__).resolve().parents[1]
NO_KAFKA = (
    "no real Kafka: set KAFKA_BOOTSTRAP to a running broker, or GUARDLINE_KAFKA_HOME to an unpacked Kafka "
    "(https://kafka.apache.org/downloads, Java 17)"
)
START_SECONDS = 90


@dataclass
class Broker:
    """A broker that tests talk to. `session` is the shortest group session timeout it accepts, in seconds."""

    kind: str
    bootstrap: str
    session: float
    make_topic: Callable[[str, int], None] | None = None
    topics: list[str] = field(default_factory=list)

    async def topic(self, name: str, partitions: int) -> str:
        """Make a topic with a name of its own and return that name."""
        unique = f"{name}.{uuid.uuid4().hex[:8]}"
        self.topics.append(unique)
        if self.make_topic is not None:
            self.make_topic(unique, partitions)
            return unique
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(unique, partitions, 1)])
        finally:
            await admin.close()
        return unique

    async def delete_topics(self) -> None:
        """Leave a broker that is not ours as it was found."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics(self.topics)
        finally:
            await admin.close()


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """A fresh mock cluster, with the methods that inject faults."""
    try:
        with EmbeddedBroker() as broker:
            yield broker
    except EmbeddedBrokerUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka, started once for the session unless it is the user's own."""
    kind, place = find_kafka()
    if kind == "bootstrap":
        broker = Broker("KAFKA_BOOTSTRAP", str(place), session=6.0)
        yield broker
        if broker.topics:
            asyncio.run(broker.delete_topics())
        return
    if kind is None:
        pytest.skip(NO_KAFKA)
    # A group session of 6 s is Kafka's default minimum; tests that kill a worker would wait for it.
    # Messages of 10 MB are input too.
    with_settings = [
        "group.min.session.timeout.ms=1000",
        "group.initial.rebalance.delay.ms=0",
        "message.max.bytes=20000000",
    ]
    with running_kafka(kind, Path(place), tmp_path_factory.mktemp("kafka"), with_settings) as broker:
        yield broker


@pytest.fixture
def embedded(embedded_broker: EmbeddedBroker) -> Broker:
    """The embedded broker, as tests of a worker use it."""
    return Broker("embedded", embedded_broker.bootstrap, session=2.0, make_topic=embedded_broker.create_topic)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.connected)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each test twice: on the embedded broker and on a real one."""
    if request.param == "kafka":
        return request.getfixturevalue("kafka_broker")
    return request.getfixturevalue("embedded")


def pytest_report_header() -> str:
    kind, place = find_kafka()
    return f"kafka: {place}" if kind else f"kafka: {NO_KAFKA}"


async def produce(bootstrap: str, topic: str, values: Iterable[bytes], partitions: int = 1) -> dict[int, list[bytes]]:
    """Write values round robin over partitions, wait for every acknowledgement; values by partition."""
    written: dict[int, list[bytes]] = {number: [] for number in range(partitions)}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        waiting = []
        for index, value in enumerate(values):
            written[index % partitions].append(value)
            waiting.append(await producer.send(topic, value, partition=index % partitions))
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return written


async def consume_all(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Every record that is in a topic now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        parts = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(batch)
        return records
    finally:
        await consumer.stop()


async def committed_offsets(bootstrap: str, group: str, topic: str, partitions: int) -> dict[int, int]:
    """What a group has committed, by partition; 0 where it has committed nothing. Does not join the group."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(parts)
        return {part.partition: await consumer.committed(part) or 0 for part in parts}
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    await consumer._client.add_topic(topic)
    return sorted(consumer.partitions_for_topic(topic) or ())


def find_kafka() -> tuple[str | None, str]:
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        return "bootstrap", bootstrap
    homes = [Path(home)] if (home := os.environ.get("GUARDLINE_KAFKA_HOME")) else []
    for place in [*homes, CHECKOUT.parent / "shared" / "kafka"]:
        if (place / "kafka").is_file() and shutil.which("java"):
            return "script", str(place)
        if (place / "bin" / "kafka-server-start.sh").is_file() and shutil.which("java"):
            return "stock", str(place)
    return None, ""


def free_ports() -> tuple[int, int]:
    """Two neighbouring free ports: the start script takes the second for the controller."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port, port + 1
    raise OSError("no two neighbouring free ports")


@contextmanager
def running_kafka(
    kind: str, home: Path, data: Path, settings: list[str], *, ports: tuple[int, int] | None = None, java: str = ""
) -> Iterator[Broker]:
    """Run the Kafka that `find_kafka` found, with `settings` over its own; `java` are further options of the JVM.

    `ports` are those of the plain listener and, one above, of the controller.
    """
    data.mkdir(parents=True, exist_ok=True)
    start = _script_kafka if kind == "script" else _stock_kafka
    environment = {**os.environ, "KAFKA_HEAP_OPTS": f"-Xms256m -Xmx512m {java}".strip()}
    yield from start(home, data, settings, ports or free_ports(), environment)


def _script_kafka(
    home: Path, data: Path, settings: list[str], ports: tuple[int, int], environment: Mapping[str, str]
) -> Iterator[Broker]:
    script, port = str(home / "kafka"), ports[0]
    command = [script, "start", str(data), str(port), *settings]
    try:
        # Files, not pipes: the broker inherits them and would keep a pipe open for as long as it lives.
        with (data / "start.log").open("w") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=START_SECONDS, check=True)
        yield Broker(f"{home}/kafka", f"127.0.0.1:{port}", session=2.0)
    finally:
        subprocess.run([script, "stop", str(data)], capture_output=True, timeout=60, check=False)


def _stock_kafka(
    home: Path, data: Path, settings: list[str], ports: tuple[int, int], environment: Mapping[str, str]
) -> Iterator[Broker]:
    port, controller = ports
    properties = data / "server.properties"
    lines = [
        "process.roles=broker,controller",
        "node.id=1",
        f"controller.quorum.voters=1@127.0.0.1:{controller}",
        f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names=CONTROLLER",
        f"log.dirs={data / 'data'}",
        "offsets.topic.num.partitions=4",
        "offsets.topic.replication.factor=1",
        "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1",
        *settings,
    ]
    properties.write_text("\n".join(lines) + "\n")
    environment = {**environment, "LOG_DIR": str(data / "logs")}
    storage = str(home / "bin" / "kafka-storage.sh")
    cluster = subprocess.run(
        [storage, "random-uuid"], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    subprocess.run(
        [storage, "format", "-t", cluster, "-c", str(properties)],
        env=environment,
        capture_output=True,
        check=True,
    )
    with (data / "broker.log").open("w") as log:
        server = subprocess.Popen(
            [str(home / "bin" / "kafka-server-start.sh"), str(properties)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_started(server, port, data / "broker.log")
        yield Broker(f"{home}/bin", f"127.0.0.1:{port}", session=2.0)
    finally:
        _stop_session(server)


def _wait_until_started(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Kafka did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _stop_session(server: subprocess.Popen[bytes]) -> None:
    """End the start script and the JVM it may have spawned: they share a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(30)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
