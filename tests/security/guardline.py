"""A `guardline` command as a process, with what it said and how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_PATIENCE = 40.0


class Guardline:
    """Runs one command with an environment of its own; all it prints goes to `log`."""

    def __init__(self, *arguments: str, log: Path, environment: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GUARDLINE_")},
            "GUARDLINE_ONNX_THREADS": "1",
            **environment,
        }
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "monitor", *self._arguments,
                env=self._environment, cwd=CHECKOUT, stdout=file, stderr=file,
            )  # fmt: skip

    async def ended(self) -> int:
        """Return the exit code; a process that does not end by itself fails the test."""
        assert self.process is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"{self._arguments} did not end:\n{self.said[-3000:]}") from None

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def says(self, what: str) -> None:
        """Return when `what` was printed."""
        assert self.process is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                while what not in self.said:
                    assert self.process.returncode is None, self.said[-3000:]
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what!r} was not said:\n{self.said[-3000:]}") from None

    async def __aenter__(self) -> Guardline:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
