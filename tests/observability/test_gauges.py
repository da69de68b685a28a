"""Gauges of a worker that gives partitions away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from monitor import app, metrics


class Consumer:
    """Has two partitions at first, then one."""

    def __init__(self) -> None:
        self.looks = 0

    def progress(self) -> list[Any]:
        self.looks += 1
        return [
            SimpleNamespace(topic="t", partition=p, lag=7, oldest=None) for p in ((0, 1) if self.looks == 1 else (1,))
        ]


async def test_the_lag_of_a_partition_that_is_another_s_now_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_MEASURE_EVERY", 0)
    consumer = Consumer()
    measuring = asyncio.create_task(app._measure(consumer))  # type: ignore[arg-type]

    def told() -> set[str]:
        return {s.labels["partition"] for m in metrics.LAG.collect() for s in m.samples if s.labels["topic"] == "t"}

    try:
        while consumer.looks < 1:  # noqa: ASYNC110 - the loop under test has no event
            await asyncio.sleep(0)
        assert told() == {"0", "1"}
        while consumer.looks < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert told() == {"1"}
    finally:
        measuring.cancel()
        metrics.LAG.clear()
