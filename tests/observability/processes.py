"""`guardline alerts` as a process, for what watches it from outside."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from tests.e2e.worker import CHECKOUT, Topics
from tests.fixtures_kafka import Broker

_COMMAND = "from monitor.alerts.command import command; command(prog_name='alerts')"


@asynccontextmanager
async def alerts(broker: Broker, topics: Topics, folder: Path, hook: str, port: int) -> AsyncIterator[None]:
    """Send every flag at once to a webhook."""
    path = folder / "alerts.yaml"
    sink = {"type": "webhook", "url": {"env": "HOOK"}}
    route = {"name": "all", "sinks": ["hook"], "group": {"wait": 0, "suppress": 0}}
    deadletter = await broker.topic("safety.alerts.deadletter", 1)
    path.write_text(yaml.safe_dump({"deadletter": deadletter, "sinks": {"hook": sink}, "routes": [route]}))
    environment = {
        **os.environ,
        **topics.environment(),
        "HOOK": hook,
        "GUARDLINE_KAFKA_BOOTSTRAP": broker.bootstrap,
        "GUARDLINE_SESSION_TIMEOUT": str(broker.session),
        "GUARDLINE_GROUP": topics.names["outputs"],
        "GUARDLINE_METRICS_PORT": str(port),
    }
    with (folder / "alerts.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _COMMAND, "--config", str(path), cwd=CHECKOUT, env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        await process.wait()
