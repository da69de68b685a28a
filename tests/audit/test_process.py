"""`guardline audit record` as a process: killed, stopped, and with a log that others check."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from monitor.audit.file_log import FileLog
from monitor.audit.log import AuditLog
from monitor.audit.topic_log import TopicLog
from monitor.audit.verification import Result, verify
from monitor.errors import ConfigurationError
from monitor.settings import Settings, load_settings
from tests.alerts.flags import make_flag
from tests.alerts.test_group import until
from tests.audit.logs import action, entries, feedback
from tests.fixtures_kafka import CHECKOUT, Broker, committed_offsets, produce
from tests.fixtures_services import free_ports

COMMAND = "from monitor.audit.command import command; command(prog_name='audit')"


@dataclass
class Recording:
    """Runs `guardline audit record` as a user would."""

    broker: Broker
    folder: Path
    topics: dict[str, str]
    log_in_topic: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    @classmethod
    async def create(cls, broker: Broker, folder: Path, *, log_in_topic: bool = False, **settings: str) -> Recording:
        names = {"FLAGS": 2, "REVIEW": 1, "FEEDBACK": 1, "AUDIT_EVENTS": 1, "AUDIT": 1}
        topics = {role: await broker.topic(f"safety.{role.lower()}", n) for role, n in names.items()}
        return cls(broker, folder, topics, log_in_topic, settings)

    @property
    def output(self) -> Path:
        return self.folder / "audit.log"

    @property
    def log(self) -> AuditLog:
        return TopicLog(self.loaded) if self.log_in_topic else FileLog(self.folder / "audit")

    @property
    def loaded(self) -> Settings:
        return load_settings(kafka_bootstrap=self.broker.bootstrap, topic_audit=self.topics["AUDIT"])

    async def start(self) -> None:
        environment = {
            **os.environ,
            "GUARDLINE_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "GUARDLINE_SESSION_TIMEOUT": str(self.broker.session),
            "GUARDLINE_GROUP": self.topics["FLAGS"],
            "GUARDLINE_AUDIT_PATH": str(self.folder / "audit"),
            **{f"GUARDLINE_TOPIC_{role}": name for role, name in self.topics.items()},
            **self.settings,
        }
        arguments = ["record", *(["--topic"] if self.log_in_topic else [])]
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", COMMAND, *arguments, cwd=CHECKOUT, env=environment, stdout=output, stderr=output
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def reaches(self, count: int) -> None:
        """Wait until the log has that many entries."""
        async with asyncio.timeout(120):
            while (await self.check()).entries < count:
                assert self.process is not None
                assert self.process.returncode is None, self.output.read_text()[-3000:]
                await asyncio.sleep(0.05)

    async def committed(self) -> int:
        """Return the sum of the group's offsets of flags."""
        flags = self.topics["FLAGS"]
        return sum((await committed_offsets(self.broker.bootstrap, f"{flags}.audit", flags, 2)).values())

    async def check(self) -> Result:
        """Verify the log while it is written; no log is one without entries."""
        try:
            return await verify(self.log, advance=lambda _: None)
        except ConfigurationError:
            return Result(0, None, None)  # type: ignore[arg-type]

    async def __aenter__(self) -> Recording:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(signal.SIGKILL)


def flags(*numbers: int) -> list[bytes]:
    return [make_flag(n).model_dump_json().encode() for n in numbers]


async def test_a_recorder_that_is_killed_again_and_again_misses_nothing_and_writes_nothing_twice(
    broker: Broker, tmp_path: Path
) -> None:
    recording = await Recording.create(broker, tmp_path)
    bootstrap, topics = broker.bootstrap, recording.topics
    await produce(bootstrap, topics["FEEDBACK"], [feedback(make_flag(1)).model_dump_json().encode(), b"nothing"])
    await produce(bootstrap, topics["AUDIT_EVENTS"], [action().model_dump_json().encode()])
    async with recording:
        for wave in range(2):
            # The flags of the wave before come again, as a monitor that was killed sends them.
            first = max(wave - 1, 0) * 700
            feeding = asyncio.create_task(
                produce(bootstrap, topics["FLAGS"], flags(*range(first, wave * 700 + 700)), 2)
            )
            await recording.reaches(wave * 700 + 50)
            await recording.stop(signal.SIGKILL)
            await feeding
            await recording.start()
        await until(lambda: recording.output.read_text().count("audit_started") == 3, recording.output)
        async with asyncio.timeout(120):
            while await recording.committed() < 2100:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        assert await recording.stop() == 0, recording.output.read_text()[-3000:]
    found = await entries(recording.log)
    assert Counter(e["kind"] for e in found if e["kind"] != "repair") == {
        "genesis": 1, "flag": 1400, "decision": 1, "unreadable": 1, "reveal": 1,
    }  # fmt: skip
    assert Counter(e["subject"] for e in found if e["kind"] == "flag") == {make_flag(n).id: 1 for n in range(1400)}
    output = recording.output.read_text()
    assert str((await recording.check()).head.hash) in output  # the checkpoint of the end
    assert not any(word in output for word in ("Maria", "400 mg"))


@pytest.mark.connected
async def test_the_log_in_a_topic_survives_a_kill_too_and_lost_group_offsets(
    kafka_broker: Broker, tmp_path: Path
) -> None:
    recording = await Recording.create(kafka_broker, tmp_path, log_in_topic=True)
    async with recording:
        await produce(kafka_broker.bootstrap, recording.topics["FLAGS"], flags(*range(300)), 2)
        await recording.reaches(30)
        await recording.stop(signal.SIGKILL)
        # Another group: nothing is committed in it, and only the log knows what it has.
        recording.settings["GUARDLINE_GROUP"] = f"{recording.topics['FLAGS']}.other"
        await recording.start()
        await produce(kafka_broker.bootstrap, recording.topics["FLAGS"], flags(*range(200, 500)), 2)
        await recording.reaches(501)
        assert await recording.stop() == 0, recording.output.read_text()[-3000:]
    found = await entries(recording.log)
    assert Counter(e["subject"] for e in found if e["kind"] == "flag") == {make_flag(n).id: 1 for n in range(500)}


async def test_the_recorder_says_how_it_is(embedded: Broker, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    recording = await Recording.create(embedded, tmp_path, GUARDLINE_METRICS_PORT=str(port))

    async def get(path: str) -> tuple[int, str]:
        try:
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async with recording:
        await produce(embedded.bootstrap, recording.topics["FLAGS"], flags(*range(5), *range(5)), 2)
        await recording.reaches(6)
        async with asyncio.timeout(60):
            while 'kind="flag"} 5.0' not in (metrics := (await get("metrics"))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "guardline_audit_last_seq 5.0" in metrics
        assert 'guardline_audit_checkpoint_info{hash="' in metrics
        assert (await get("live"))[0] == (await get("ready"))[0] == 200


async def test_a_second_recorder_on_the_same_folder_ends_and_says_why(embedded: Broker, tmp_path: Path) -> None:
    recording = await Recording.create(embedded, tmp_path)
    other = Recording(embedded, tmp_path, recording.topics)
    async with recording:
        await until(lambda: "audit_started" in recording.output.read_text(), recording.output)
        await other.start()
        assert other.process is not None
        async with asyncio.timeout(60):
            assert await other.process.wait() != 0
    assert "it has one writer" in recording.output.read_text()


@pytest.mark.connected
async def test_records_that_were_gone_before_they_were_read_are_a_gap_in_the_log(
    kafka_broker: Broker, tmp_path: Path
) -> None:
    recording = await Recording.create(kafka_broker, tmp_path)
    topic = recording.topics["REVIEW"]
    async with recording:
        await produce(kafka_broker.bootstrap, topic, flags(*range(3)))
        await recording.reaches(4)
        await recording.stop(signal.SIGKILL)
        await produce(kafka_broker.bootstrap, topic, flags(*range(3, 8)))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
        await admin.start()
        try:  # as retention does
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(6)})
        finally:
            await admin.close()
        await recording.start()
        await recording.reaches(7)
    *_, third, gap, seventh, eighth = await entries(recording.log)
    assert (gap["kind"], gap["details"]) == ("gap", {"topic": topic, "partition": 0, "first": 3, "last": 5})
    assert [e["subject"] for e in (third, seventh, eighth)] == [make_flag(n).id for n in (2, 6, 7)]
