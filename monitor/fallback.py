"""Score in-process while Triton is away, and go back to it by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from monitor import metrics
from monitor.errors import ScorerUnavailable
from monitor.microbatching import Backend

_log = structlog.get_logger(__name__)


class FallbackBackend:
    """Asks `primary`; after a failure asks `secondary` for `pause` seconds before it tries the first again."""

    def __init__(self, primary: Backend, secondary: Backend, *, pause: float = 10.0) -> None:
        self._primary = primary
        self._secondary = secondary
        self._pause = pause
        self._again_at = 0.0

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the outputs of one batch; see `microbatching.Backend`."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._again_at:
            try:
                outputs = await self._primary.infer(input_ids, attention_mask)
            except ScorerUnavailable as error:
                self._again_at = clock() + self._pause  # from when it failed: a hanging server takes its time
                metrics.SCORER_FAILURES.inc()
                _log.warning("scorer_unavailable", error=str(error), action=f"in-process for {self._pause:.0f} s")
            else:
                return outputs
        metrics.FALLBACK_BATCHES.inc()
        return await self._secondary.infer(input_ids, attention_mask)

    async def close(self) -> None:
        """Close both."""
        await self._primary.close()
        await self._secondary.close()
