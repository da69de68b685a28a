"""One retraining at a time in a deployment, and who is at it.

With Redis the lock is redis-py's (one key with an expiry, released by its token only:
https://redis.io/docs/latest/develop/use/patterns/distributed-locks/), renewed by a thread while work goes on. Its value
is the holder, so that the next one can say who holds it. A process that was held up longer than the expiry has lost
the lock and may not know it yet; so the pointer is only moved behind `require`, which renews first: what follows has
the whole expiry for a write that takes a second. Where the store is memory it is a lock of the operating system on a
file in the run folder, which a killed process gives back.

Fails closed: without an answer of Redis nothing is retrained.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from redis.exceptions import LockError, RedisError

from monitor.connections.redis import blocking_redis_client, denied
from monitor.errors import GuardlineError, StoreUnavailable
from monitor.settings import Settings

_KEY = "guardline:retrain"
#: Seconds after which a holder that fell silent has lost the lock, and those between two renewals.
EXPIRY, RENEWAL = 60.0, 15.0


class LockHeld(GuardlineError):
    """Another retraining is at work: wait for it, or look at the process that the message names."""


class LockLost(GuardlineError):
    """This process was held up and another retraining may be at work: nothing was changed, run again."""


class Held(Protocol):
    """A lock that is held."""

    def require(self) -> None:
        """Return while the lock is ours for some time to come.

        Raises:
            LockLost: it is not, or that cannot be told.
        """
        ...


def holder() -> str:
    """Return who this is, for people: host, process, since when; unique."""
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{socket.gethostname()}, process {os.getpid()}, since {since} ({uuid4().hex[:8]})"


class _InRedis:
    def __init__(self, renew: Callable[[], object]) -> None:
        self._renew = renew
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="retrain-lock", daemon=True)

    def _keep(self) -> None:
        while not self._done.wait(RENEWAL):
            try:
                self._renew()
            except LockError:
                self._lost.set()
                return
            except RedisError:
                continue  # tried again; the expiry decides

    def require(self) -> None:
        try:
            if self._lost.is_set():
                raise LockError("expired")
            self._renew()
        except (LockError, RedisError) as error:
            raise LockLost(
                f"the lock {_KEY} is not ours any more ({error}): nothing was changed; run `guardline retrain` again"
            ) from error

    def __enter__(self) -> _InRedis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@contextmanager
def _redis(settings: Settings) -> Iterator[Held]:
    client = blocking_redis_client(settings)
    lock = client.lock(_KEY, timeout=EXPIRY, blocking=False, thread_local=False)
    try:
        if not lock.acquire(token=holder()):
            raise LockHeld(f"another retraining is at work: {client.get(_KEY)!s}")
        try:
            with _InRedis(lambda: lock.extend(EXPIRY, replace_ttl=True)) as held:
                yield held
        finally:
            with suppress(LockError, RedisError):  # expired; the next one waits no longer for it
                lock.release()
    except RedisError as error:
        raise denied(error) or StoreUnavailable(f"Redis does not answer, so nothing goes on: {error}") from error
    finally:
        client.close()


class _InFile:
    def require(self) -> None:
        """Return: the operating system keeps it for us while the process lives."""


@contextmanager
def _file(path: Path) -> Iterator[Held]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockHeld(f"another retraining is at work: {file.read().strip()}") from None
        file.truncate(0)
        file.write(holder() + "\n")
        file.flush()
        try:
            yield _InFile()
        finally:
            file.truncate(0)


@contextmanager
def held(settings: Settings, run: Path) -> Iterator[Held]:
    """Hold the lock of a deployment: in Redis where the store is Redis, else on a file in the run folder.

    Raises:
        LockHeld: another retraining is at work; the message says whose.
        StoreUnavailable: Redis does not answer.
    """
    if settings.store == "redis":
        with _redis(settings) as own:
            yield own
    else:
        with _file(run / "retraining" / "lock") as own:
            yield own
