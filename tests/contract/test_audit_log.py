"""The audit log's port: a folder and a topic of one partition keep lines in order, whole batches, from one writer."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.errors import KafkaTimeoutError

from monitor.audit.file_log import FileLog
from monitor.audit.log import AuditLog, LogUnavailable
from monitor.audit.topic_log import TopicLog
from monitor.audit.verification import verify
from monitor.errors import ConfigurationError, GuardlineError
from monitor.settings import Settings, load_settings
from tests.audit.logs import chain, drafts, entries, flag_record, recorder
from tests.fixtures_kafka import Broker

MakeLog = Callable[[], AuditLog]
LINES = chain(drafts(6))


async def topic_settings(broker: Broker, partitions: int = 1) -> Settings:
    topic = await broker.topic("safety.audit", partitions)
    return load_settings(kafka_bootstrap=broker.bootstrap, topic_audit=topic)


@pytest.fixture(params=["folder", pytest.param("topic", marks=pytest.mark.connected)])
async def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLog:
    """Make logs that lie in the same place."""
    if request.param == "folder":
        return lambda: FileLog(tmp_path / "audit")
    settings = await topic_settings(request.getfixturevalue("kafka_broker"))
    return lambda: TopicLog(settings)


async def values(log: AuditLog) -> list[bytes]:
    return [line.value async for lines in log.read() for line in lines]


async def test_lines_are_read_as_they_were_appended_and_a_later_writer_goes_on(make_log: MakeLog) -> None:
    first = make_log()
    assert await first.open() is None
    assert first.due
    await first.append(LINES[:2], segment=0)
    assert not first.due
    await first.append(LINES[2:4])
    await first.close()
    second = make_log()
    assert await second.open() is None
    assert not second.due
    await second.append(LINES[4:])
    await second.close()
    assert await values(make_log()) == LINES
    places = [line.place async for lines in make_log().read() for line in lines]
    assert len({*places}) == len(LINES)


async def test_a_recorder_writes_it_and_verify_finds_it_intact(make_log: MakeLog) -> None:
    for numbers in ((1, 2), (2, 3)):
        log = make_log()
        own = recorder(log)
        await own.open()
        await own.take([flag_record(n) for n in numbers], asyncio.Event())
        await log.close()
    result = await verify(make_log(), head=own.head.hash, advance=lambda _: None)
    assert (result.problem, result.head) == (None, own.head)
    assert [e["kind"] for e in await entries(make_log())] == ["genesis", "flag", "flag", "flag"]


async def test_two_writers_never_interleave(make_log: MakeLog) -> None:
    """In a folder the second is refused, in a topic the first is fenced: one of them ends either way."""
    first, second = make_log(), make_log()
    await first.open()
    await first.append(LINES[:1], segment=0)
    try:
        await second.open()
    except GuardlineError as error:
        assert "another process" in str(error)  # noqa: PT017 - the folder's way
        winner = first
    else:
        with pytest.raises(GuardlineError, match="another process"):
            await first.append(LINES[1:2])
        winner = second
    await winner.append(LINES[1:])
    await first.close()
    await second.close()
    # aiokafka leaves the future of a batch that was refused to the garbage collector, which logs it with a traceback.
    # While Python 3.11 compiles an import, that is a SystemError (python/cpython#106905): so it happens here.
    gc.collect()
    assert await values(make_log()) == LINES


@pytest.mark.connected
async def test_what_a_killed_writer_left_unfinished_is_never_read(kafka_broker: Broker) -> None:
    settings = await topic_settings(kafka_broker)
    killed = TopicLog(settings)
    await killed.open()
    await killed.append(LINES[:2], segment=0)
    producer = await killed._start()
    await producer.begin_transaction()
    await (await producer.send(settings.topic_audit, value=LINES[2], partition=0))  # and no commit
    after = TopicLog(settings)
    await after.open()
    await after.append(LINES[2:4])
    await after.close()
    assert await values(TopicLog(settings)) == LINES[:4]
    await killed.close()


@pytest.mark.connected
@pytest.mark.parametrize("arrived", [True, False])
async def test_a_batch_whose_answer_was_lost_is_there_once(kafka_broker: Broker, arrived: bool) -> None:
    settings = await topic_settings(kafka_broker)
    log = TopicLog(settings)
    await log.open()
    await log.append(LINES[:1], segment=0)
    producer = await log._start()
    commit = producer.commit_transaction

    async def lost() -> None:
        if arrived:
            await commit()
        raise KafkaTimeoutError

    producer.commit_transaction = lost
    with pytest.raises(LogUnavailable):
        await log.append(LINES[1:3])
    await log.append(LINES[1:3])
    await log.append(LINES[3:])
    await log.close()
    assert await values(TopicLog(settings)) == LINES


@pytest.mark.connected
async def test_a_topic_that_cannot_keep_one_order_is_refused(kafka_broker: Broker) -> None:
    log = TopicLog(await topic_settings(kafka_broker, partitions=2))
    with pytest.raises(ConfigurationError, match="one partition, and it has 2"):
        await log.open()
    gone = load_settings(kafka_bootstrap=kafka_broker.bootstrap, topic_audit="no.such.topic")
    with pytest.raises(ConfigurationError, match="there is none"):
        await TopicLog(gone).open()


async def test_a_folder_without_a_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no audit-\*.jsonl"):
        await values(FileLog(tmp_path))
    with pytest.raises(ConfigurationError, match="No such file"):
        await values(FileLog(tmp_path / "gone"))


async def test_a_broker_that_is_away_is_said() -> None:
    log = TopicLog(load_settings(kafka_bootstrap="127.0.0.1:1"))
    with pytest.raises(GuardlineError, match="does not answer"):
        await log.open()
