"""`guardline monitor` with the null model and a plan of troubles: `python -m tests.faults.worker`.

The process, its settings, its transport, its agent and its publisher are the monitor's; only what runs the graph is
replaced (unless Triton is asked for), and what the plan names.
"""

from __future__ import annotations

from tests.faults import clock

clock.install()

from collections.abc import Sequence  # noqa: E402 - the clock comes first
from typing import Any  # noqa: E402

from aiokafka import ConsumerRecord  # noqa: E402

import monitor.app  # noqa: E402
import monitor.factory  # noqa: E402
from monitor.agents import ChunkHandler  # noqa: E402
from monitor.microbatching import Backend  # noqa: E402
from monitor.worker import command  # noqa: E402
from tests.faults.null_model import NullBackend, NullModelError  # noqa: E402
from tests.faults.plan import Plan  # noqa: E402


def install(plan: Plan) -> None:
    """Put the null model and the plan's troubles in their places."""
    build_backend = monitor.factory.build_backend

    def build_null(settings: Any, package: Any, spec: Any) -> Backend:
        if settings.scorer == "triton":
            return build_backend(settings, package, spec)
        return NullBackend(package, plan)

    monitor.factory.build_backend = build_null
    if plan.max_poll_interval:
        monitor.app._MAX_POLL_INTERVAL = plan.max_poll_interval
    if plan.agent_raises_at:
        _raise_in_agent(plan.agent_raises_at)


def _raise_in_agent(at: int) -> None:
    handle, chunks = ChunkHandler.handle, 0

    async def raising(self: ChunkHandler, records: Sequence[ConsumerRecord], *rest: Any) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == at:
            raise NullModelError("as planned, in the agent")
        await handle(self, records, *rest)

    ChunkHandler.handle = raising  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    install(Plan.from_environment())
    command()
