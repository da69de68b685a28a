"""Debian's Prometheus and Alertmanager, started on loopback for the tests that need them and ended after."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures_services import CHECKOUT, free_ports

DEPLOY = CHECKOUT / "deploy"
PACKAGES = {"promtool": "prometheus", "prometheus": "prometheus", "amtool": "prometheus-alertmanager"}
PACKAGES["prometheus-alertmanager"] = "prometheus-alertmanager"
_START_SECONDS = 30


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip, and say what to install, where a tool is not there."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    packages = " ".join(sorted({PACKAGES[tool] for tool in missing}))
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}: apt-get install {packages}")


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool and return what it said."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)


def get(url: str, **parameters: str) -> Any:
    """Return the JSON at an address; of an error as well."""
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    try:
        with urllib.request.urlopen(f"{url}{query}", timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.loads(error.read() or b"null")


@contextmanager
def _serving(command: list[str], ready: str, log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def prometheus_config(folder: Path, ports: Mapping[str, int], *, alertmanager: str | None = None) -> Path:
    """Write a configuration with the shipped rules and jobs, scraped every second, each at its port on loopback."""
    shipped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in shipped["scrape_configs"]}
    assert ports.keys() <= jobs
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus" / name) for name in shipped["rule_files"]],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in ports.items()
        ],
    }
    if alertmanager is not None:
        target = alertmanager.removeprefix("http://")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [target]}]}]}
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a Prometheus."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn",
    ]  # fmt: skip
    with _serving(command, f"{url}/-/ready", folder / "prometheus.log"):
        yield url


@contextmanager
def alertmanager(config: Path, folder: Path) -> Iterator[str]:
    """Yield the address of an Alertmanager that belongs to no cluster."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    command = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={url.removeprefix('http://')}", "--cluster.listen-address=", "--log.level=warn",
    ]  # fmt: skip
    with _serving(command, f"{url}/-/ready", folder / "alertmanager.log"):
        yield url


async def alerts_at(url: str) -> list[dict[str, Any]]:
    """Return the alerts that an Alertmanager holds."""
    found: list[dict[str, Any]] = await asyncio.to_thread(get, f"{url}/api/v2/alerts")
    return found
