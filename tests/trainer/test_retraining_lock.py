"""One retraining at a time: on a file and over a real Redis, lost and won."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from monitor.errors import StoreUnavailable
from monitor.settings import Settings
from tests.fixtures_services import LocalRedis
from trainer.retraining import lock
from trainer.retraining.lock import LockHeld, LockLost, held

MEMORY = Settings(store="memory")


def redis_settings(url: str) -> Settings:
    return Settings(store="redis", redis_url=url)


def test_a_second_one_is_told_who_is_at_work(tmp_path: Path) -> None:
    with held(MEMORY, tmp_path) as own:
        own.require()
        with pytest.raises(LockHeld, match=f"process {os.getpid()}, since 20"), held(MEMORY, tmp_path):
            pass
    with held(MEMORY, tmp_path):
        pass


def test_a_killed_process_gives_the_file_back(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from monitor.settings import Settings\n"
        "from trainer.retraining.lock import held\n"
        "with held(Settings(store='memory'), Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match=f"process {process.pid}"), held(MEMORY, tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with held(MEMORY, tmp_path) as own:
        own.require()


@pytest.mark.connected
def test_redis_keeps_the_lock_for_one_and_says_whose(redis_server: LocalRedis, tmp_path: Path) -> None:
    settings = redis_settings(redis_server.url)
    with held(settings, tmp_path) as own:
        own.require()
        with pytest.raises(LockHeld, match=f"process {os.getpid()}"), held(settings, tmp_path):
            pass
    with held(settings, tmp_path) as again:
        again.require()


@pytest.mark.connected
def test_a_lock_that_somebody_else_took_after_it_expired_is_lost(redis_server: LocalRedis, tmp_path: Path) -> None:
    client = Redis.from_url(redis_server.url)
    with held(redis_settings(redis_server.url), tmp_path) as own:
        client.set("guardline:retrain", "another, since then")
        with pytest.raises(LockLost, match="nothing was changed"):
            own.require()
    # It is not ours to release.
    assert client.get("guardline:retrain") == b"another, since then"
    client.delete("guardline:retrain")


@pytest.mark.connected
def test_a_lock_is_renewed_while_work_goes_on(
    redis_server: LocalRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEWAL", 0.02)
    client = Redis.from_url(redis_server.url)
    with held(redis_settings(redis_server.url), tmp_path):
        client.pexpire("guardline:retrain", 20_000)
        for _ in range(500):
            if int(client.pttl("guardline:retrain")) > 30_000:  # type: ignore[arg-type]
                break
        else:
            pytest.fail("the expiry was not moved on")


def test_without_redis_nothing_is_retrained(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailable, match="Redis does not answer"),
        held(redis_settings("redis://127.0.0.1:1/0"), tmp_path),
    ):
        pass
