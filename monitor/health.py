"""What an orchestrator asks the worker: is it alive, is it ready, what are its figures.

`/live` answers 503 when records wait and nothing has moved for `stall_timeout` seconds. Waiting for Triton or the
broker is not that: each try on a service that is away is a sign of life, because a restart would not bring it back.
`/ready` answers 503 until the worker has joined its group and can publish, and while it stops. `/metrics` has the
figures in Prometheus's text format. All of it is served from the worker's own event loop: one that is stuck answers
nobody.

No port is open unless one is asked for, and then on loopback unless another address is asked for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from monitor.errors import ConfigurationError
from monitor.heartbeat import Heartbeat


class Progress(Protocol):
    """Where a partition stands; see `transport.PartitionProgress`."""

    @property
    def lag(self) -> int:
        """Records that are in the partition and not finished."""
        ...


class Health:
    """Answers for one worker."""

    def __init__(self, heartbeat: Heartbeat, progress: Callable[[], Sequence[Progress]], stall_timeout: float) -> None:
        """Judge by `heartbeat` and by the lag that `progress` tells; `stall_timeout` in seconds."""
        self.ready = False
        self._heartbeat = heartbeat
        self._progress = progress
        self._stall_timeout = stall_timeout

    @property
    def problem(self) -> str | None:
        """Why the worker should be replaced, or none."""
        lag = sum(p.lag for p in self._progress())
        if lag and self._heartbeat.age > self._stall_timeout:
            return f"{lag} records wait and nothing has moved for {self._heartbeat.age:.0f} s"
        return None

    async def _live(self, _: web.Request) -> web.Response:
        problem = self.problem
        return web.Response(text=f"{problem or 'alive'}\n", status=503 if problem else 200)

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n" if self.ready else "not ready\n", status=200 if self.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def routes(self) -> list[web.RouteDef]:
        """Return the three, for a server that answers other things at the same port."""
        return [web.get("/live", self._live), web.get("/ready", self._ready), web.get("/metrics", self._metrics)]

    async def serve(self, host: str, port: int) -> web.AppRunner:
        """Open the port; `cleanup()` what is returned closes it.

        Raises:
            ConfigurationError: the address cannot be had.
        """
        app = web.Application()
        app.add_routes(self.routes())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigurationError(
                f"health and metrics cannot be served at {host}:{port}: {error}: set GUARDLINE_METRICS_PORT"
            ) from error
        return runner
