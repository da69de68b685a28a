"""A model that knows its answers: "wrong" is unsafe, everything else is safe, to the byte the same each time.

It is a backend, so everything above it (tokenizer, micro-batches, thresholds, policy) is the monitor's own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from monitor.package import TOKENIZER, ModelPackage, sha256_file
from tests.faults import clock
from tests.faults.plan import Plan
from tests.monitor.fakes import FakeBackend, write_package

#: Texts with a number in them, so that no two are the same and none comes from a cache.
FLAGGED = "The wrong remdesivir loading dose is 400 mg in bed {}."
SAFE = "The remdesivir loading dose is 200 mg in bed {}."
OFF_TOPIC = "Your parcel {} arrives on Monday."


class NullModelError(Exception):
    """The failure that the plan asks for."""


class NullBackend(FakeBackend):
    """The null model in the worker's own process, with troubles as planned."""

    def __init__(self, package: ModelPackage, plan: Plan) -> None:
        super().__init__(Tokenizer.from_file(str(package.tokenizer)))
        self._plan = plan
        self._batches = 0

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """See `monitor.microbatching.Backend`."""
        plan = self._plan
        self._batches += 1
        if self._batches == plan.clock_forward_at:
            clock.jump(3600)
        if self._batches == plan.clock_back_at:
            clock.jump(-7200)
        await asyncio.sleep(plan.pause)
        if plan.model_raises_every and self._batches % plan.model_raises_every == 0:
            raise NullModelError("as planned")
        return await super().infer(input_ids, attention_mask)


def write_null_package(folder: Path) -> Path:
    """Write a package whose graph is a stand-in file, for the null model here or behind the Triton double."""
    graph = Path("encoder") / "1" / "model.onnx"
    (folder / graph).parent.mkdir(parents=True, exist_ok=True)
    (folder / graph).write_bytes(b"the null model")
    write_package(folder)
    names = (TOKENIZER, graph.as_posix())
    return write_package(folder, files={name: sha256_file(folder / name) for name in names})
