"""One worker process for `test_transport.py`: copies every input to an audit topic, with troubles
on request.

Run as `python tests/monitor/transport_worker.py '{"bootstrap": ..., ...}'` from anywhere; the
fields of `Options` are the JSON's. SIGTERM drains, prints how many records the agent had taken, and
exits with 0. `mode` is `chunks` (the transport under test) or `take` (stock Faust, the negative
control).
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import faust
from aiokafka import ConsumerRecord

from monitor.pace import ChunkPace
from monitor.transport import ChunkTransport


@dataclass(frozen=True)
class Options:
    """What to read, where to copy it to, and what should go wrong."""

    bootstrap: str
    group: str
    source: str
    audit: str
    mode: str = "chunks"
    session: float = 6.0
    pause: float = 0.0  # seconds of work a chunk
    shuffle: bool = False  # the work's length is random, so that chunks finish out of order
    fail_every: int = 0  # the handler raises at every n-th record of a partition, twice each
    hold: str = ""  # the first chunk of partition 0 waits until this file exists
    drain: float = 5.0


class HandlerFailedError(Exception):
    """The failure that tests ask for."""


class App(faust.App):
    """Faust without its data folder in the working directory."""

    async def on_first_start(self) -> None:
        """Make no folders: there are no tables."""


class Handler:
    """Raises at chosen records, twice each."""

    def __init__(self, fail_every: int) -> None:
        self._fail_every = fail_every
        self._attempts: Counter[bytes] = Counter()

    def __call__(self, value: bytes) -> bytes:
        if self._fail_every and int(value.split(b":")[1]) % self._fail_every == self._fail_every - 1:
            self._attempts[value] += 1
            if self._attempts[value] <= 2:
                raise HandlerFailedError(value)
        return value


def new_app(options: Options) -> App:
    app = App(
        options.group,
        broker=f"kafka://{options.bootstrap}",
        broker_commit_interval=0.2,
        broker_heartbeat_interval=0.3,
        broker_max_poll_interval=86_400.0,
        broker_rebalance_timeout=options.drain * 2,
        broker_session_timeout=options.session,
        key_serializer="raw",
        value_serializer="raw",
        producer_linger=0,
        producer_request_timeout=30.0,
        stream_buffer_maxsize=4,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    if options.mode == "chunks":
        transport = ChunkTransport(app.conf.broker_consumer, app, pace=ChunkPace(32), drain_timeout=options.drain)
        app.transport = app.producer_transport = transport
    return app


async def copy(app: App, topic: str, records: list[ConsumerRecord], handler: Handler) -> None:
    """Hand every record to the handler until it takes it, and return when the broker has all copies."""
    waiting = []
    for record in records:
        while True:
            try:
                value = handler(record.value)
            except HandlerFailedError:
                await asyncio.sleep(0.005)
            else:
                break
        waiting.append(await app.producer.send(topic, None, value, record.partition, None, None))
    await asyncio.gather(*waiting)


def held(first: ConsumerRecord, until: str) -> bool:
    """Whether the chunk that begins partition 0 has to wait for a file."""
    return bool(until) and first.partition == first.offset == 0 and not Path(until).exists()


def chunk_agent(app: App, options: Options, taken: Counter[str]) -> None:
    """Several chunks in flight, each acknowledged from its own task when it is done."""
    handler, room, tasks = Handler(options.fail_every), asyncio.Semaphore(6), set()

    async def finish(event: faust.Event) -> None:
        try:
            while held(event.value[0], options.hold):  # noqa: ASYNC110 - a file gives no signal
                await asyncio.sleep(0.02)
            await asyncio.sleep(options.pause * (random.random() * 2 if options.shuffle else 1))
            await copy(app, options.audit, event.value, handler)
            event.ack()
        finally:
            room.release()

    async def screen(stream: faust.Stream) -> None:
        async for event in stream.noack().events():
            taken["records"] += len(event.value)
            await room.acquire()
            task = asyncio.create_task(finish(event))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    app.agent(app.topic(options.source, value_type=None), name="screen")(screen)


def take_agent(app: App, options: Options, taken: Counter[str]) -> None:
    """The textbook Faust agent, which loses what it was handling when it raises."""
    handler = Handler(options.fail_every)

    async def screen(stream: faust.Stream) -> None:
        async for values in stream.take(32, within=0.1):
            taken["records"] += len(values)
            for value in values:
                number = int(value.split(b":")[0])
                await (await app.producer.send(options.audit, None, handler(value), number, None, None))

    app.agent(app.topic(options.source, value_type=None), name="screen")(screen)


async def main(options: Options) -> int:
    app, taken = new_app(options), Counter[str]()
    (chunk_agent if options.mode == "chunks" else take_agent)(app, options, taken)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    # Starting ends with the first assignment, which a rebalance may delay: SIGTERM must not wait for it.
    starting = asyncio.create_task(app.start())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        ended = asyncio.create_task(app.wait_until_stopped())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not await stopped(app, options.drain + 2):
        os._exit(3)  # the producer or group cannot be closed without a broker; uncommitted work comes again
    await starting
    stopping.cancel()
    print(json.dumps(taken))
    return 1 if app.crashed else 0


async def stopped(app: App, deadline: float) -> bool:
    """Stop the app; false if it did not end in time, which Faust and aiokafka do not promise."""
    done, _ = await asyncio.wait({asyncio.create_task(app.stop())}, timeout=deadline)
    return bool(done)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(asyncio.run(main(Options(**json.loads(sys.argv[1])))))
