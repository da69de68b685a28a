import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor import metrics
from monitor.errors import ScorerUnavailable
from monitor.fallback import FallbackBackend


async def test_a_hanging_triton_is_asked_once_a_pause_not_once_a_batch() -> None:
    class Backend:
        def __init__(self, delay: float, error: Exception | None) -> None:
            self.calls, self._delay, self._error = 0, delay, error

        async def infer(self, input_ids: Any, attention_mask: Any) -> list[NDArray[Any]]:
            self.calls += 1
            await asyncio.sleep(self._delay)
            if self._error:
                raise self._error
            return [np.zeros((1, 2), np.float32), np.zeros(1, np.float32)]

        async def close(self) -> None: ...

    hanging, local = Backend(0.2, ScorerUnavailable("timeout")), Backend(0, None)
    backend, before = FallbackBackend(hanging, local, pause=0.1), metrics.FALLBACK_BATCHES._value.get()
    for _ in range(4):
        await backend.infer(np.zeros((1, 1), np.int64), np.ones((1, 1), np.int64))
    assert (hanging.calls, local.calls) == (1, 4)
    assert metrics.FALLBACK_BATCHES._value.get() == before + 4
