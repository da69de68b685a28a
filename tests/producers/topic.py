"""The input topic of one test: settings that lead to it, and what was published, read as the monitor reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from monitor.embedded_broker import EmbeddedBroker
from monitor.intake import parse
from monitor.producers import OutputProducer
from monitor.settings import Settings
from monitor.types import Message
from tests.fixtures_kafka import Broker, consume_all


@dataclass
class Topic:
    bootstrap: str
    name: str

    @classmethod
    async def create(cls, broker: Broker) -> Topic:
        return cls(broker.bootstrap, await broker.topic("llm.outputs", 2))

    @classmethod
    def of(cls, broker: EmbeddedBroker) -> Topic:
        broker.create_topic("llm.outputs", 2)
        return cls(broker.bootstrap, "llm.outputs")

    def settings(self, **more: object) -> Settings:
        return Settings(_env_file=None, kafka_bootstrap=self.bootstrap, topic_outputs=self.name, **more)

    def environment(self) -> dict[str, str]:
        return {"GUARDLINE_KAFKA_BOOTSTRAP": self.bootstrap, "GUARDLINE_TOPIC_OUTPUTS": self.name}

    @contextmanager
    def producer(self, **options: object) -> Iterator[OutputProducer]:
        producer = OutputProducer(self.settings(), **options)
        try:
            yield producer
        finally:
            producer.close()

    async def messages(self) -> list[Message]:
        """Every message that is in the topic, by id."""
        records = await consume_all(self.bootstrap, self.name)
        return sorted((parse(record.value, record.headers) for record in records), key=lambda message: message.id)
