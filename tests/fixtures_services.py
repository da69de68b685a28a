"""A real Redis and a real Triton, started on loopback for the tests that need them and ended after.

`make test` installs both (Debian's redis-server when root, tritonserver from a wheel in `.venv-triton`); without them
the tests are skipped with one line that says what is missing.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitor.package import ModelPackage

CHECKOUT = Path(__file__).resolve().parents[1]
TRITON_VENV = CHECKOUT / ".venv-triton"
sys.path.insert(0, str(CHECKOUT / "deploy" / "triton"))

from local import LocalTriton, free_ports  # noqa: E402 - deploy/ holds scripts, it is not a package


@dataclass
class LocalRedis:
    """A redis-server process that keeps nothing on disk."""

    port: int
    #: After those below, which they win over.
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += self.options
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError("redis-server did not open its port in 10 s")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def redis_server() -> Iterator[LocalRedis]:
    """A Redis of its own for each test, so that a test may end it."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    server = LocalRedis(free_ports(1)[0])
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def triton(model_package: ModelPackage) -> Iterator[LocalTriton]:
    """A tritonserver with the exported package loaded; tests may stop and start it."""
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    with LocalTriton(model_package.path, venv=TRITON_VENV) as server:
        yield server
