"""What a real worker wrote, replayed: its audit records, and the letters that come back as often as they are sent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from monitor.package import ModelPackage
from tests.e2e.test_worker import SAFE, UNSAFE, record, send
from tests.e2e.worker import CHECKOUT, Topics, Worker, collect
from tests.fixtures_kafka import Broker, consume_all

pytestmark = [pytest.mark.model, pytest.mark.connected]

#: As a terminal would run it; entry points are looked up in what is installed, which may be an older checkout.
COMMAND = "from monitor.replay.command import command; command(prog_name='guardline replay')"


async def guardline_replay(broker: Broker, topics: Topics, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command with the worker's topics; return its exit code and what it printed as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        "--json",
        *arguments,
        cwd=CHECKOUT,
        env={
            **os.environ,
            **topics.environment(),
            "GUARDLINE_KAFKA_BOOTSTRAP": broker.bootstrap,
            "GUARDLINE_GROUP": topics.names["outputs"],
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert out, err.decode()
    return process.returncode or 0, json.loads(out)


async def test_history_agrees_with_the_worker_and_letters_come_back_three_times(
    embedded: Broker, model_package: ModelPackage, tmp_path: Path
) -> None:
    topics = await Topics.create(embedded)
    values: list[bytes | None] = [record("safe", SAFE), record("unsafe", UNSAFE), b"{never readable"]
    worker = Worker(embedded, model_package.path, topics, tmp_path / "log")
    async with worker:
        await send(embedded.bootstrap, topics.names["outputs"], values)
        await collect(embedded.bootstrap, topics, 3, worker)
        code, judged = await guardline_replay(
            embedded, topics, "--from", "earliest", "--model", str(model_package.path)
        )
        assert (code, judged["read"], judged["flipped"]) == (0, 3, 0)
        assert judged["counts"].keys() == {"safe", "unsafe", "invalid"}
        for tried in (1, 2, 3):
            code, sent = await guardline_replay(embedded, topics, "--dead-letters")
            assert (code, sent["replayed"], sent["reasons"]) == (0, 1, {"unreadable_json": {"replayed": 1}})
            out = await collect(embedded.bootstrap, topics, 3 + tried, worker)
        code, sent = await guardline_replay(embedded, topics, "--dead-letters")
        assert (code, sent["replayed"], sent["reasons"]) == (1, 0, {"unreadable_json": {"too many replays": 1}})
        assert await worker.stop() == 0, worker.log.read_text()[-3000:]
    assert {letter.value for letter in out["deadletter"]} == {b"{never readable"}
    counts = [dict(letter.headers).get("guardline.replays") for letter in out["deadletter"]]
    assert sorted(counts, key=lambda count: count or b"") == [None, b"1", b"2", b"3"]
    assert len(await consume_all(embedded.bootstrap, topics.names["outputs"])) == 6
