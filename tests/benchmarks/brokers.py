"""A broker for one benchmark: the real Kafka that the tests would find, else the embedded one."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitor.embedded_broker import EmbeddedBroker
from tests.fixtures_kafka import NO_KAFKA, Broker, find_kafka, running_kafka

_SETTINGS = ["group.min.session.timeout.ms=1000", "group.initial.rebalance.delay.ms=0"]


@contextmanager
def open_broker(*, real: bool = False) -> Iterator[Broker]:
    """Yield a broker on loopback and end it after; a broker that was running already only loses our topics.

    `Broker.kind` says which it is. The embedded one forgets beyond 5 MB a partition (`monitor.embedded_broker`).

    Raises:
        SystemExit: `real` was asked for and there is none; the message says how to get one.
    """
    kind, place = find_kafka()
    if kind is None:
        if real:
            raise SystemExit(NO_KAFKA)
        with EmbeddedBroker() as embedded:
            yield Broker("embedded", embedded.bootstrap, session=6.0, make_topic=embedded.create_topic)
        return
    if kind == "bootstrap":
        yours = Broker("KAFKA_BOOTSTRAP", place, session=6.0)
        try:
            yield yours
        finally:
            asyncio.run(yours.delete_topics())
        return
    with tempfile.TemporaryDirectory() as folder, running_kafka(kind, Path(place), Path(folder), _SETTINGS) as own:
        yield own


def describe(broker: Broker) -> str:
    """Return a word for the broker that names no path."""
    return broker.kind if broker.kind in ("embedded", "KAFKA_BOOTSTRAP") else "Apache Kafka"
