"""The example consumers: the one in Java, with the client of a Kafka distribution. (tests/alerts has Python's.)"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.alerts.flags import make_flag
from tests.fixtures_kafka import Broker, find_kafka, produce

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "Flags.java"


@pytest.mark.connected
async def test_the_consumer_in_java_prints_each_flag_once(kafka_broker: Broker, tmp_path: Path) -> None:
    _, home = find_kafka()
    if shutil.which("javac") is None or not (Path(home) / "libs").is_dir():
        pytest.skip("no JDK, or no libs of a Kafka distribution (GUARDLINE_KAFKA_HOME)")
    topic = await kafka_broker.topic("safety.flags", 1)
    options = '"group.id", "my-java-flags", "auto.offset.reset", "earliest"'
    source = EXAMPLE.read_text().replace('"safety.flags"', f'"{topic}"').replace('"group.id", "my-java-flags"', options)
    (tmp_path / "Flags.java").write_text(source)
    await produce(kafka_broker.bootstrap, topic, [make_flag(n).model_dump_json().encode() for n in (1, 1, 2)])
    process = await asyncio.create_subprocess_exec(
        "java",
        "-cp",
        f"{home}/libs/*",
        tmp_path / "Flags.java",
        kafka_broker.bootstrap,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            lines = [await process.stdout.readline() for _ in range(2)]
    finally:
        process.kill()
        await process.wait()
    assert lines == [b'0.93 "Give Maria 400 mg on day 1."\n'] * 2
