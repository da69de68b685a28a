"""Run the tritonserver that is bundled in nvidia-pytriton on a model package: a real Triton without a container.

For machines without Docker or GPU, and for the tests. It serves `configs/cpu.pbtxt` (python backend, ONNX Runtime on
CPU) of the same package that NVIDIA's container serves on a GPU. The server and its backend run in an environment of
their own (`.venv-triton`, see requirements.txt), because the backend needs numpy<2.

    python deploy/triton/local.py runs/covid19-remdesivir/package --venv .venv-triton
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SERVER = Path("pytriton") / "tritonserver"


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _site_packages(venv: Path) -> Path:
    found = sorted(venv.glob("lib/python3.*/site-packages"))
    if not found or not (found[0] / _SERVER / "bin" / "tritonserver").exists():
        raise SystemExit(
            f"{venv}: no tritonserver there: pip install -r deploy/triton/requirements.txt into it (make test does)"
        )
    return found[0]


def _link_backend(site: Path, backends: Path) -> None:
    """Collect the python backend's parts in one folder. Links, because a copied stub loses its RPATH."""
    python = backends / "python"
    python.mkdir(parents=True)
    version = site.parent.name.removeprefix("python")
    parts = [
        site / _SERVER / "backends" / "python" / "libtriton_python.so",
        site / _SERVER / "backends" / "python" / "triton_python_backend_utils.py",
        site / _SERVER / "python_backend_stubs" / version / "triton_python_backend_stub",
    ]
    for part in parts:
        (python / part.name).symlink_to(part)


@dataclass(frozen=True)
class Ports:
    """Where the server listens, all on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int


class LocalTriton:
    """A tritonserver process on loopback; use as a context manager."""

    def __init__(self, package: Path, *, venv: Path, ports: Ports | None = None, options: Sequence[str] = ()) -> None:
        """Serve all models of `package`: the encoder and, where it has one, the verifier.

        `options` are further ones of tritonserver, for example those of TLS.
        """
        self._options = options
        self._package = package.resolve()
        self._models = sorted(file.parent.name for file in self._package.glob("*/config.pbtxt"))
        if not self._models:
            raise SystemExit(f"{package}: no model package: no folder in it has a config.pbtxt")
        self._venv = venv.resolve()
        self.ports = ports or Ports(*free_ports(3))
        self._folder = TemporaryDirectory(prefix="guardline-triton-")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = Path(self._folder.name) / "triton.log"
        site = _site_packages(self._venv)
        self._binary = site / _SERVER / "bin" / "tritonserver"
        _link_backend(site, Path(self._folder.name) / "backends")

    @property
    def url(self) -> str:
        """gRPC address, host:port."""
        return f"127.0.0.1:{self.ports.grpc}"

    def start(self, timeout: float = 60.0) -> None:
        """Start the server and wait until all models are ready.

        Raises:
            RuntimeError: it ended, or was not ready in `timeout` seconds; the message holds the end of its log.
        """
        environment = {
            **os.environ,
            "PATH": f"{self._venv / 'bin'}:{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [
            str(self._binary),
            f"--model-repository={self._package}",
            f"--backend-directory={Path(self._folder.name) / 'backends'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self._models),
            "--model-config-name=cpu",
            "--disable-auto-complete-config",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=3",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            f"--http-port={self.ports.http}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-port={self.ports.metrics}",
            *self._options,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + timeout
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-3000:]
                self.stop()
                raise RuntimeError(f"tritonserver did not get ready:\n{tail}")
            time.sleep(0.1)

    def ready(self) -> bool:
        """Tell whether all models are loaded and answer."""
        return all(map(self._ready, self._models))

    def _ready(self, model: str) -> bool:
        url = f"http://127.0.0.1:{self.ports.http}/v2/models/{model}/ready"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End the server, its stubs with it."""
        if self._process is None:
            return
        group = self._process.pid
        for number, patience in ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            break
        self._process = None

    def __enter__(self) -> LocalTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()


def main() -> None:
    """Serve one package until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="model package")
    parser.add_argument("--venv", type=Path, default=Path(".venv-triton"), help="environment with nvidia-pytriton")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    arguments = parser.parse_args()
    ports = Ports(arguments.http_port, arguments.grpc_port, arguments.metrics_port)
    with LocalTriton(arguments.package, venv=arguments.venv, ports=ports) as server:
        print(f"Triton serves {arguments.package} at grpc {server.url}; Ctrl-C ends it.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
