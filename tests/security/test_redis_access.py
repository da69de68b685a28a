"""Redis with TLS and ACL users, against a real one: with the right credential, and with wrong ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.connections.access import ensure_access
from monitor.connections.redis import redis_client
from monitor.doctor import findings
from monitor.errors import AccessDenied, ConfigurationError, StoreUnavailable
from monitor.redis_store import RedisStore
from monitor.settings import Settings, load_settings
from tests.fixtures_secured import HOST, Authority, SecuredRedis, secured_redis
from tests.fixtures_services import free_ports
from tests.security.guardline import Guardline

pytestmark = pytest.mark.connected


@pytest.fixture
def user(redis_with_acls: SecuredRedis) -> SecuredRedis:
    """With a user `own`, password `secret`, who may do what a store needs."""
    redis_with_acls.execute("ACL", "SETUSER", "own", "on", ">secret", "~guardline:*", "+ping", "+mget", "+set")
    return redis_with_acls


@pytest.fixture
def strict(authority: Authority, redis_with_acls: SecuredRedis) -> Iterator[SecuredRedis]:
    """One that asks for client certificates, too."""
    with secured_redis(authority, "admin-secret", client_certificates=True) as server:
        yield server


def settings_of(server: SecuredRedis, user: str = "own", password: str = "secret", **changes: Any) -> Settings:
    values = {"store": "redis", "redis_url": server.url(user, password), "redis_ca_file": server.authority.ca}
    return load_settings(**values | changes)


async def test_the_right_user_reads_and_writes_by_tls(user: SecuredRedis) -> None:
    settings = settings_of(user)
    await ensure_access(settings, scoring=True)
    store = RedisStore(redis_client(settings))
    await store.put({"a": b"1"})
    assert await store.get(["a"]) == [b"1"]
    await store.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"password": "wrong-password"}, "refuses the user or the password: check those in GUARDLINE_REDIS_URL"),
        ({"user": "nobody"}, "refuses the user or the password"),
        ({"redis_ca_file": None}, "not trusted .*: set GUARDLINE_REDIS_CA_FILE"),
        ({"host": "localhost"}, "not trusted .*Hostname mismatch"),
    ],
)
async def test_a_wrong_credential_is_said_with_what_to_do(
    user: SecuredRedis, changes: dict[str, Any], says: str
) -> None:
    if "host" in changes:
        changes = {"redis_url": user.url("own", "secret", changes["host"])}
    with pytest.raises(AccessDenied, match=says) as refused:
        await ensure_access(settings_of(user, **changes), scoring=True)
    assert "wrong-password" not in str(refused.value)


async def test_a_user_who_may_nothing_is_told_of_the_grants(user: SecuredRedis) -> None:
    user.execute("ACL", "SETUSER", "own", "-@all")
    with pytest.raises(AccessDenied, match="`guardline acls` prints the grants"):
        await ensure_access(settings_of(user), scoring=True)


async def test_client_certificates(strict: SecuredRedis) -> None:
    strict.execute("ACL", "SETUSER", "own", "on", ">secret", "~guardline:*", "+ping", "+mget", "+set")
    own = strict.authority
    pair = {"redis_certificate_file": own.client_certificate, "redis_key_file": own.client_key}
    await ensure_access(settings_of(strict, **pair), scoring=True)
    with pytest.raises(AccessDenied, match="set GUARDLINE_REDIS_CERTIFICATE_FILE and _KEY_FILE"):
        await ensure_access(settings_of(strict), scoring=True)


async def test_a_redis_that_is_away_refuses_nobody(authority: Authority) -> None:
    settings = load_settings(store="redis", redis_url=f"rediss://{HOST}:{free_ports(1)[0]}", redis_ca_file=authority.ca)
    await ensure_access(settings, scoring=True)


async def test_a_password_that_is_changed_later_is_named_and_the_store_goes_on_without(user: SecuredRedis) -> None:
    store = RedisStore(redis_client(settings_of(user), timeout=30))
    await store.put({"a": b"1"})
    user.execute("ACL", "SETUSER", "own", "resetpass", ">another")
    user.execute("CLIENT", "KILL", "USER", "own")
    with pytest.raises(StoreUnavailable):
        await store.get(["a"])  # the connection that was open
    with pytest.raises(StoreUnavailable, match="refuses the user or the password"):
        await store.get(["a"])
    await store.close()


def test_certificates_cannot_be_left_unchecked_by_the_url(user: SecuredRedis) -> None:
    settings = load_settings(store="redis", redis_url=user.url("own", "secret") + "?ssl_cert_reqs=none")
    with pytest.raises(ConfigurationError, match="certificates are always checked") as refused:
        redis_client(settings)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://own:secret@host", "redis://own:secret@host:port/0", "own:secret@host"])
def test_what_is_no_url_of_redis_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="give redis://") as refused:
        redis_client(load_settings(redis_url=url))
    assert "secret" not in f"{refused.value}"


def test_doctor_names_the_address_and_no_password(user: SecuredRedis) -> None:
    (line,) = [f for f in findings(settings_of(user, password="wrong-password")) if f.what == "redis"]
    assert not line.ok
    assert line.detail == (
        f"Redis at {HOST}:{user.port} refuses the user or the password: check those in GUARDLINE_REDIS_URL"
    )
    (line,) = [f for f in findings(settings_of(user)) if f.what == "redis"]
    assert line.ok


async def test_monitor_and_alerts_end_with_3_when_the_password_is_wrong(user: SecuredRedis, tmp_path: Path) -> None:
    config = tmp_path / "alerts.yaml"
    config.write_text("sinks: {t: {type: terminal}}\nroutes: [{name: all, sinks: [t]}]\n")
    # Nobody listens there: Kafka must not be waited for.
    environment = user.settings("own", "wrong-password") | {"GUARDLINE_KAFKA_BOOTSTRAP": f"{HOST}:{free_ports(1)[0]}"}

    async def ends(*arguments: str) -> None:
        log = tmp_path / f"{arguments[0]}.log"
        async with Guardline(*arguments, log=log, environment=environment) as process:
            assert await process.ended() == 3, process.said
        assert process.said.splitlines()[-1].startswith("guardline: Redis at ")

    await asyncio.gather(ends("monitor"), ends("alerts", "--config", str(config)))
