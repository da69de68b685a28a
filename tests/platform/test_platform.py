"""`make platform` says what is missing, works where nothing is, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.fixtures_kafka import CHECKOUT
from tests.platform.requirements import missing

#: Seconds; on a quiet machine it takes 35.
_PATIENCE = 400
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


def _until(process: subprocess.Popen[bytes], log: Path, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@contextmanager
def _platform(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run it in a session of its own, as in a terminal; yield it and what it prints."""
    log, temporary = folder / "printed", folder / "temporary"
    temporary.mkdir()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*_COMMAND, *options], cwd=CHECKOUT, env=_environment(temporary), stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process, log
    finally:
        if process.poll() is None:  # the test failed: give it the time to stop what it started
            process.terminate()
            process.wait(_PATIENCE)
    assert _processes_in(folder) == []
    assert list(temporary.iterdir()) == []


@complete
@pytest.mark.connected
@pytest.mark.model
def test_it_works_until_it_is_ended_from_the_keyboard(tmp_path: Path) -> None:
    with _platform(tmp_path, "--keep") as (process, log):
        _until(process, log, lambda: "It runs until Ctrl-C" in log.read_text())
        (link,) = re.findall(r"logs you in once: (http\S+)", log.read_text())
        with build_opener(HTTPCookieProcessor()).open(link, timeout=30) as page:
            assert not page.geturl().endswith("/login"), "the link does not log in"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(_PATIENCE)
        assert process.returncode == 0, log.read_text()
    assert "The platform works." in log.read_text()
    assert "✗" not in log.read_text()


@complete
@pytest.mark.connected
def test_ended_while_it_starts_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with _platform(tmp_path) as (process, log):
        _until(process, log, lambda: bool(_processes_in(tmp_path)))
        process.terminate()
        process.wait(_PATIENCE)
        assert process.returncode == 130, log.read_text()
