"""Planned batches against arrival order and one by one, side by side in one run: `make bench`.

The same statements (all of the shipped answers, in stream order) through the same ONNX session; rounds alternate, so
that a machine that slows down slows all of them. Rates are relative to arrival order in batches of 32.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monitor.batching import BatchLimits
from monitor.encoding import TextEncoder
from monitor.onnx_scorer import OnnxBackend
from monitor.package import ModelPackage
from monitor.segmentation import segment
from monitor.settings import DEFAULT_MODEL
from tests.benchmarks.results import report
from trainer.statements.corpus import load_answers

CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"
ROUNDS = 5
STATEMENTS = 384


def _statements() -> list[str]:
    return [s.normalised for row in load_answers(CORPUS) for s in segment(row["text"])][:STATEMENTS]


async def _in_groups(encoder: TextEncoder, texts: Sequence[str], size: int) -> None:
    for start in range(0, len(texts), size):
        await encoder.score(texts[start : start + size])


async def _measure() -> list[dict[str, object]]:
    package = ModelPackage.load(DEFAULT_MODEL)
    backend = OnnxBackend(package, package.manifest.encoder)
    texts = _statements()
    anything = BatchLimits(max_tokens=10**9, max_padding=1.0, max_rows=32)
    whole = TextEncoder(package, backend, limits=BatchLimits())
    padded = TextEncoder(package, backend, limits=anything)
    ways: dict[str, Callable[[], object]] = {
        "arrival order, 32 a batch": lambda: _in_groups(padded, texts, 32),
        "one by one": lambda: _in_groups(padded, texts, 1),
        "windows of 256, planned": lambda: _in_groups(whole, texts, 256),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    await whole.score(texts[:64])
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            await way()  # type: ignore[misc]
            seconds[name].append(time.perf_counter() - started)
    base = seconds["arrival order, 32 a batch"]
    return [
        {
            "way": name,
            "statements/s (median)": len(texts) / statistics.median(times),
            "against arrival order (median of rounds)": statistics.median(
                b / t for b, t in zip(base, times, strict=True)
            ),
        }
        for name, times in seconds.items()
    ]


if __name__ == "__main__":
    report("batching", asyncio.run(_measure()))
