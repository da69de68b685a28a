"""`make platform` says what is missing, works where nothing is, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures_kafka import CHECKOUT
from tests.platform.requirements import missing

_COMMAND = [sys.executable, "-m", "tests.platform"]
complete = pytest.mark.skipif(bool(list(missing())), reason=f"not installed: {'; '.join(missing())}")


def _environment(folder: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), **changes}


def _processes_in(folder: Path) -> list[str]:
    """Return the command lines that name the folder: every server is told of its files there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if str(folder) in line:
            found.append(line)
    return found


def test_what_is_missing_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    environment = _environment(tmp_path, PATH="/nonexistent", KAFKA_BOOTSTRAP="")
    done = subprocess.run(_COMMAND, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stdout + done.stderr
    for line in ("redis-server: apt-get install redis-server", "prometheus: apt-get install prometheus", "Kafka: "):
        assert line in done.stdout
    assert list(tmp_path.iterdir()) == []


@complete
@pytest.mark.connected
@pytest.mark.model
def test_it_works_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        _COMMAND, cwd=CHECKOUT, env=_environment(tmp_path), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The platform works." in done.stdout
    assert "✗" not in done.stdout
    assert _processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@complete
@pytest.mark.connected
def test_interrupted_while_it_starts_it_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        _COMMAND, cwd=CHECKOUT, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 60
    while not _processes_in(tmp_path):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert _processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
