"""The negative control: the same screening in a textbook Faust agent, `python -m tests.faults.stock`.

`stream.take()`, an awaited `topic.send`, commits as Faust makes them. It loses what it had in hand when it raises, when
a send fails, or when it is killed after a commit that ran ahead; the harness has to say so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import faust
from aiokafka import ConsumerRecord

from monitor.errors import InvalidMessage
from monitor.events import EventFactory, Topics
from monitor.factory import build_screening
from monitor.intake import parse
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.publisher import Event
from monitor.settings import Settings, load_settings
from tests.faults.null_model import NullModelError
from tests.faults.plan import Plan
from tests.faults.worker import install


class App(faust.App):
    """Faust without its data folder in the working directory."""

    async def on_first_start(self) -> None:
        """Make no folders: there are no tables."""


def new_app(settings: Settings) -> App:
    """Return a stock app on the broker of the settings."""
    return App(
        settings.group,
        broker=f"kafka://{settings.kafka_bootstrap}",
        broker_commit_interval=1.0,
        broker_heartbeat_interval=settings.session_timeout / 10,
        broker_rebalance_timeout=10.0,
        broker_session_timeout=settings.session_timeout,
        consumer_auto_offset_reset="earliest",
        key_serializer="raw",
        value_serializer="raw",
        producer_acks=-1,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )


class StockAgent:
    """Screens what `take` hands over, and sends what comes of it."""

    def __init__(self, app: App, settings: Settings, plan: Plan) -> None:
        package = ModelPackage.load(settings.model)
        self._screening = build_screening(settings, package, MemoryStore())
        topics = Topics(settings.topic_flags, settings.topic_review, settings.topic_deadletter, settings.topic_verdicts)
        self._events = EventFactory(
            topics, model=self._screening.model, thresholds=self._screening.thresholds, include_text=True
        )
        self._app, self._plan, self._batches = app, plan, 0

    async def __call__(self, stream: Any) -> None:
        """Work on batches for as long as there are any."""
        async for values in stream.take_events(64, within=0.1):
            self._batches += 1
            if self._batches == self._plan.agent_raises_at:
                raise NullModelError("as planned, in the agent")
            for event in await self._screen([_record(value.message) for value in values]):
                await self._app.topic(event.topic).send(key=event.key, value=event.value, headers=list(event.headers))

    async def _screen(self, records: Sequence[ConsumerRecord]) -> list[Event]:
        events, readable = [], []
        for record in records:
            try:
                origin = f"{record.topic}-{record.partition}-{record.offset}"
                readable.append((record, parse(record.value, record.headers, origin=origin)))
            except InvalidMessage as error:
                events += self._events.of_invalid(record, error)
        verdicts = await self._screening.screen([message for _, message in readable])
        for (record, _), verdict in zip(readable, verdicts, strict=True):
            events += self._events.of_verdict(record, verdict)
        return events


def _record(message: Any) -> ConsumerRecord:
    """Return what Faust tells of a message as the record that events are made of."""
    headers = message.headers or ()
    return cast(
        "ConsumerRecord",
        SimpleNamespace(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp=int(message.timestamp * 1000),
            key=message.key,
            value=message.value,
            headers=tuple(headers.items() if isinstance(headers, dict) else headers),
        ),
    )


async def main() -> None:
    """Run until SIGTERM."""
    settings, plan = load_settings(), Plan.from_environment()
    app = new_app(settings)
    app.agent(app.topic(settings.topic_outputs, value_type=None), name="screen")(StockAgent(app, settings, plan))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    await stop.wait()
    await asyncio.wait({asyncio.create_task(app.stop())}, timeout=10)
    os._exit(0)  # Faust does not promise to stop without a broker


if __name__ == "__main__":
    install(Plan.from_environment())
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())
