"""The two brokers of the table and what can be done to them: Apache Kafka, and librdkafka's mock cluster."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from monitor.embedded_broker import EmbeddedBroker
from tests import fixtures_kafka
from tests.fixtures_kafka import Broker

#: Sessions of 2 s, else every kill waits 6 s; 10 MB messages; a topic that is missing stays missing; ACLs, none set.
SETTINGS = [
    "group.min.session.timeout.ms=1000",
    "message.max.bytes=20000000",
    "auto.create.topics.enable=false",
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found=true",
]
#: Somebody else may take a free port before the broker does.
STARTS = 3


class NoBrokerError(Exception):
    """This broker cannot be started here; the message says what is missing."""


class FaultyBroker(Protocol):
    """A broker that can be taken down."""

    name: str
    broker: Broker

    async def create(self, topic: str, partitions: int, **settings: str) -> None:
        """Make a topic with exactly this name."""
        ...

    async def down(self) -> None:
        """Stop answering; what was acknowledged stays."""
        ...

    async def up(self) -> None:
        """Answer again, at the same address."""
        ...


class Kafka:
    """Apache Kafka, one broker, with ACLs."""

    name = "kafka"

    def __init__(self, broker: Broker, script: Path, data: Path) -> None:
        self.broker = broker
        self._script, self._data = script, data

    async def create(self, topic: str, partitions: int, **settings: str) -> None:
        """See `FaultyBroker.create`."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=settings)])
        finally:
            await admin.close()

    async def _run(self, *arguments: str) -> None:
        with (self._data / "script.log").open("ab") as log:
            command = [str(self._script), *arguments]
            await asyncio.to_thread(subprocess.run, command, stdout=log, stderr=log, timeout=90, check=True)

    async def down(self) -> None:
        """Kill the broker, as a crash would."""
        await self._run("kill", str(self._data))

    async def up(self) -> None:
        """Start it again on its data and port."""
        await self._run("start", str(self._data), self.broker.bootstrap.rpartition(":")[2], *SETTINGS)

    async def deny(self, topic: str, operation: AclOperation) -> None:
        """Forbid everyone an operation on a topic."""
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        literal = ResourcePatternType.LITERAL
        # A topic with a rule is closed to everything that no rule allows.
        rules = [
            AclBinding(ResourceType.TOPIC, topic, literal, "User:ANONYMOUS", "*", what, kind)
            for what, kind in ((AclOperation.ALL, AclPermissionType.ALLOW), (operation, AclPermissionType.DENY))
        ]
        for future in admin.create_acls(rules).values():
            await asyncio.wrap_future(future)

    async def allow(self, topic: str) -> None:
        """Take back every `deny` on a topic."""
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        pattern, any_operation, any_permission = ResourcePatternType.LITERAL, AclOperation.ANY, AclPermissionType.ANY
        anyone: Any = None
        rules = AclBindingFilter(ResourceType.TOPIC, topic, pattern, anyone, anyone, any_operation, any_permission)
        for future in admin.delete_acls([rules]).values():
            await asyncio.wrap_future(future)


class Mock:
    """librdkafka's mock cluster, in this process, with injected errors."""

    name = "mock"

    def __init__(self, cluster: EmbeddedBroker) -> None:
        self.cluster = cluster
        self.broker = Broker("embedded", cluster.bootstrap, session=2.0, make_topic=cluster.create_topic)

    async def create(self, topic: str, partitions: int, **settings: str) -> None:
        """See `FaultyBroker.create`; the mock cluster knows no settings of topics."""
        self.cluster.create_topic(topic, partitions)

    async def down(self) -> None:
        """Cut all connections and refuse new ones."""
        self.cluster.down()

    async def up(self) -> None:
        """Answer again."""
        self.cluster.up()

    def inject(self, api: int, codes: Sequence[int], count: int = 1) -> None:
        """Answer the next requests of one kind with these error codes, each `count` times."""
        for code in codes:
            self.cluster.inject_errors(api, code, count)


def kafka_home() -> Path | None:
    """Return the folder of a Kafka that can be started and killed here; none if there is none."""
    kind, home = fixtures_kafka.find_kafka()
    return Path(home) if kind == "script" else None


@asynccontextmanager
async def kafka(data: Path) -> AsyncIterator[FaultyBroker]:
    """Start an Apache Kafka of our own in `data`; a broker of the user's is not ours to kill.

    Raises:
        NoBrokerError: there is none that can be started and killed here.
    """
    home = kafka_home()
    if home is None:
        raise NoBrokerError("no Kafka with a start script: set GUARDLINE_KAFKA_HOME to a folder with one")
    for attempt in range(STARTS):
        place = data / str(attempt)
        await asyncio.to_thread(place.mkdir, parents=True)
        start = fixtures_kafka.running_kafka("script", home, place, SETTINGS)
        try:
            broker = await asyncio.to_thread(start.__enter__)
        except subprocess.CalledProcessError:
            continue
        try:
            yield Kafka(broker, home / "kafka", place)
        finally:
            await asyncio.to_thread(start.__exit__, None, None, None)
        return
    raise NoBrokerError(f"Kafka did not start {STARTS} times; see {data}/*/start.log")


@asynccontextmanager
async def mock(data: Path) -> AsyncIterator[FaultyBroker]:
    """Start a mock cluster."""
    with EmbeddedBroker() as cluster:
        yield Mock(cluster)


BROKERS = {"kafka": kafka, "mock": mock}
