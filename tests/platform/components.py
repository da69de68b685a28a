"""Guardline's processes, each under its own user."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.fixtures_secured import HOST, Authority, SecuredKafka, SecuredRedis
from tests.fixtures_services import LocalTriton, free_ports
from tests.platform.credentials import PLATFORM, Credentials
from tests.platform.servers import ALERTS_CONFIG
from tests.security.guardline import Guardline

#: By component; `python -m monitor ...`. The names are those of the jobs that Prometheus' rules know.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "monitor": ("monitor",),
    "alerts": ("alerts", "--config", str(ALERTS_CONFIG)),
    "canary": ("canary",),
    "console": ("console",),
    "audit": ("audit", "record"),
    "intake": ("intake",),
}
#: What all of them are told, and what `guardline acls` has to know.
COMMON = {
    "GUARDLINE_EMIT_VERDICTS": "true",
    "GUARDLINE_AUDIT_ACTIONS": "true",
    "GUARDLINE_DRAIN_TIMEOUT": "10",
}
#: Who gets a link that logs in once, where the platform is kept.
GUESTS = ("you", "colleague")
_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Places:
    """Where everything is that is started before Guardline itself."""

    kafka: SecuredKafka
    redis: SecuredRedis
    triton: LocalTriton
    #: Of Redis and Triton; Kafka has its own.
    authority: Authority
    alertmanager: str


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started here, as `__main__` does for the servers: they are told to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Components:
    """The processes; by name `ports` are those of their metrics, `environments` what they and PLATFORM are told."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.audit_log = folder / "audit"
        *own, self._console_port = free_ports(len(COMMANDS) + 1)
        self.ports = dict(zip(COMMANDS, own, strict=True))
        self.running: dict[str, Guardline] = {}
        self.environments: dict[str, dict[str, str]] = {}

    @property
    def intake(self) -> str:
        return f"http://{HOST}:{self.ports['intake']}"

    @property
    def console(self) -> str:
        return f"http://{HOST}:{self._console_port}"

    @property
    def links(self) -> dict[str, str]:
        """The console's login links, by guest."""
        return dict(re.findall(rf"^({'|'.join(GUESTS)}) (http\S+)$", self.running["console"].said, re.MULTILINE))

    def settings(self, name: str, places: Places, credentials: Credentials) -> dict[str, str]:
        """Return what a component is told beside its user; much of it is the same for all."""
        found = COMMON | {"GUARDLINE_METRICS_PORT": str(self.ports[name])}
        if name == "monitor":
            found |= {
                "GUARDLINE_SCORER": "triton",
                "GUARDLINE_TRITON_URL": places.triton.url,
                "GUARDLINE_TRITON_TLS": "true",
                "GUARDLINE_TRITON_CA_FILE": str(places.authority.ca),
            }
        elif name == "alerts":
            found["ALERTMANAGER_URL"] = places.alertmanager
        elif name == "canary":
            found |= {"GUARDLINE_CANARY_EVERY": "5", "GUARDLINE_CANARY_WITHIN": "60"}
        elif name == "console":
            found |= {
                "GUARDLINE_CONSOLE_PORT": str(self._console_port),
                "GUARDLINE_CONSOLE_TOKENS_FILE": str(credentials.users_file),
            }
        elif name == "audit":
            found["GUARDLINE_AUDIT_PATH"] = str(self.audit_log)
        elif name == "intake":
            del found["GUARDLINE_METRICS_PORT"]  # it has one port for all
            found |= {
                "GUARDLINE_INTAKE_PORT": str(self.ports[name]),
                "GUARDLINE_INTAKE_TOKENS_FILE": str(credentials.senders_file),
            }
        return found

    async def start(self, stack: AsyncExitStack, places: Places, credentials: Credentials, *, guests: bool) -> None:
        """Start all of them; `guests`: the console prints login links.

        Raises:
            RuntimeError: one ended, or did not get ready.
        """
        settings = {name: self.settings(name, places, credentials) for name in COMMANDS} | {PLATFORM: {}}
        for name, own in settings.items():
            self.environments[name] = credentials.environment(name, places.kafka, places.redis, own)
        with _without_interrupts():
            for name, command in COMMANDS.items():
                links = [f"--one-time-link={guest}" for guest in GUESTS] if guests and name == "console" else []
                log = self.logs / f"{name}.log"
                process = Guardline(*command, *links, log=log, environment=self.environments[name])
                self.running[name] = await stack.enter_async_context(process)
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._ready(session, name) for name in COMMANDS))

    async def _ready(self, session: aiohttp.ClientSession, name: str) -> None:
        own, url = self.running[name], f"http://{HOST}:{self.ports[name]}/ready"
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    try:
                        async with session.get(url) as answer:
                            if answer.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                    if own.process is not None and own.process.returncode is not None:
                        raise RuntimeError(f"`guardline {name}` ended with {own.process.returncode}")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise RuntimeError(f"`guardline {name}` was not ready after {_READY_SECONDS:.0f} s") from None

    async def first_end(self) -> None:
        """Return never: wait until one of them ends though nobody stopped it.

        Raises:
            RuntimeError: one did.
        """

        async def end(name: str, process: Guardline) -> None:
            assert process.process is not None
            raise RuntimeError(f"`guardline {name}` ended with {await process.process.wait()}")

        await asyncio.gather(*(end(name, process) for name, process in self.running.items()))

    async def stop(self) -> dict[str, int]:
        """Tell all of them to stop, and return their exit codes."""
        codes = await asyncio.gather(*(process.stop() for process in self.running.values()))
        return dict(zip(self.running, codes, strict=True))
