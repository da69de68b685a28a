"""`guardline acls` prints enough and nothing more: real Kafka and Redis, with exactly these grants and without each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from httpx import AsyncClient

from monitor.acls.command import command
from monitor.acls.grants import Grants, components
from monitor.acls.rendering import redis_rules
from monitor.connections.redis import redis_client
from monitor.console.redis import RedisConsoleStore
from monitor.console.store import Problem
from monitor.errors import ConfigurationError, GuardlineError, StoreUnavailable
from monitor.models.pointer import Alias, Choice, RedisPointer
from monitor.records import Origin
from monitor.redis_store import RedisStore
from monitor.settings import DEFAULT_MODEL, Settings, load_settings
from monitor.types import Message
from tests.alerts.flags import make_flag
from tests.console.site import Visitor
from tests.console.stage import SPAN, TEXT, Console, Scene, item
from tests.fixtures_kafka import CHECKOUT, Broker, consume_all, produce
from tests.fixtures_secured import Grant, SecuredKafka, SecuredRedis, acl_tool
from tests.security.guardline import Guardline
from trainer.retraining.lock import held

connected = pytest.mark.connected
SAFE = "Remdesivir is given as a 200 mg loading dose on day 1."
UNSAFE = "Remdesivir is given as a 400 mg loading dose on day 1."
INPUTS = [
    json.dumps({"id": "safe", "text": SAFE}).encode(),
    json.dumps({"id": "unsafe", "text": UNSAFE}).encode(),
    b"not JSON",
]
ROLES = ("outputs", "flags", "review", "verdicts", "deadletter")


@dataclass
class Deployment:
    """Topics and a group that no other test has, as settings."""

    folder: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def topic(self, role: str) -> str:
        return f"{role}.{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{f"GUARDLINE_TOPIC_{role.upper()}": self.topic(role) for role in ROLES},
            "GUARDLINE_GROUP": f"group.{self.name}",
            "GUARDLINE_MODEL": str(DEFAULT_MODEL),
            "GUARDLINE_VERIFY": "false",
            "GUARDLINE_EMIT_VERDICTS": "true",
            "GUARDLINE_THRESHOLD_REVIEW": "0",  # so that the safe statement is one for review
            "GUARDLINE_SESSION_TIMEOUT": "2",
            "GUARDLINE_DRAIN_TIMEOUT": "2",
            "GUARDLINE_PUBLISH_TIMEOUT": "5",
        }

    def grants(self, component: str, environment: Mapping[str, str]) -> list[Grant]:
        own = {name.removeprefix("GUARDLINE_").lower(): value for name, value in environment.items()}
        found = components(load_settings(**own), alerts_deadletter=self.topic("undelivered"))[component]
        return [(grant.resource, grant.name, grant.operation) for grant in found.kafka]


async def has_records(kafka: SecuredKafka, topics: Sequence[str], process: Guardline) -> None:
    for topic in topics:
        async with asyncio.timeout(60):
            while not await consume_all(kafka.plaintext, topic):
                assert process.process is not None
                assert process.process.returncode is None, process.said[-3000:]


async def needs_each_grant(
    kafka: SecuredKafka,
    own: Deployment,
    component: str,
    arguments: Sequence[str],
    works: Callable[..., Awaitable[None]],
) -> None:
    """Run a component with its grants, which must work, and without each, which must end with 3 and say why."""

    async def run(missing: int | None) -> tuple[int, str]:
        # A group of its own, so that each run reads from the beginning.
        environment = own.environment | {"GUARDLINE_GROUP": f"group.{uuid.uuid4().hex[:8]}"}
        left = [grant for index, grant in enumerate(own.grants(component, environment)) if index != missing]
        user = f"user-{uuid.uuid4().hex[:8]}"
        kafka.add_user(user, "right")
        kafka.grant(user, left)
        log = own.folder / f"{component}-without-{missing}.log"
        environment |= kafka.settings(user, "right")
        async with Guardline(*arguments, log=log, environment=environment) as process:
            if missing is None:
                await works(process)
                return await process.stop(), process.said
            return await process.ended(), process.said

    code, said = await run(None)
    assert code == 0, said[-3000:]
    grants = own.grants(component, own.environment)
    for missing, (code, said) in zip(grants, await asyncio.gather(*map(run, range(len(grants)))), strict=True):
        last = said.splitlines()[-1]
        assert code == 3, f"without {missing}: {code}\n{said[-3000:]}"
        assert re.fullmatch(r"guardline: Kafka does not allow this user .*: `guardline acls` prints the grants", last)


@connected
@pytest.mark.model
async def test_the_monitor_works_with_its_grants_and_stops_without_any_one_of_them(
    kafka_with_acls: SecuredKafka, tmp_path: Path
) -> None:
    own = Deployment(tmp_path)
    kafka_with_acls.topics(map(own.topic, ROLES), partitions=1)
    await produce(kafka_with_acls.plaintext, own.topic("outputs"), INPUTS)

    async def works(monitor: Guardline) -> None:
        await has_records(kafka_with_acls, [own.topic(role) for role in ROLES if role != "outputs"], monitor)

    await needs_each_grant(kafka_with_acls, own, "monitor", ["monitor"], works)


@connected
async def test_alerts_work_with_their_grants_and_stop_without_any_one_of_them(
    kafka_with_acls: SecuredKafka, tmp_path: Path
) -> None:
    own = Deployment(tmp_path)
    kafka_with_acls.topics([own.topic("flags"), own.topic("undelivered")], partitions=1)
    flag = make_flag(received_at=datetime.now(UTC)).model_dump_json().encode()
    await produce(kafka_with_acls.plaintext, own.topic("flags"), [flag, b"not JSON"])
    config, alerts = tmp_path / "alerts.yaml", tmp_path / "alerts.jsonl"
    config.write_text(
        yaml.safe_dump(
            {
                "deadletter": own.topic("undelivered"),
                "sinks": {"file": {"type": "file", "path": str(alerts)}},
                "routes": [{"name": "all", "sinks": ["file"], "group": {"wait": 0, "suppress": 0}}],
            }
        )
    )

    async def works(process: Guardline) -> None:
        await has_records(kafka_with_acls, [own.topic("undelivered")], process)
        await process.says("alert_delivered")

    await needs_each_grant(kafka_with_acls, own, "alerts", ["alerts", "--config", str(config)], works)
    assert "rem-1.2" in alerts.read_text()


@connected
async def test_the_console_works_with_its_grants(kafka_with_acls: SecuredKafka, tmp_path: Path) -> None:
    scene = await Scene.create(Broker("with ACLs", kafka_with_acls.plaintext, session=2.0))
    statement = scene.statement(TEXT, SPAN, score=0.9, category="dose", recommendation="2.1-loading-dose")
    flag = (await scene.publish([(Message("m", TEXT), [statement])]))[0].flags[0]
    own = Deployment(tmp_path)
    user = f"user-{own.name}"
    kafka_with_acls.add_user(user, "right")
    kafka_with_acls.grant(
        user, own.grants("console", scene.environment() | {"GUARDLINE_GROUP": scene.names["outputs"]})
    )
    secured = {k.removeprefix("GUARDLINE_").lower(): v for k, v in kafka_with_acls.settings(user, "right").items()}
    async with Console(scene, tmp_path, **secured) as console, AsyncClient(base_url=console.url) as client:
        anna = Visitor(client)
        await anna.login("anna")
        async with asyncio.timeout(60):
            while (await anna.get(f"/flags/{flag.id}")).status_code == 404:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        assert "400 mg" in (await anna.post(f"/flags/{flag.id}/reveal")).text
        assert (await anna.post(f"/flags/{flag.id}/decision", decision="accept")).status_code == 303
    assert len(await consume_all(kafka_with_acls.plaintext, scene.names["feedback"])) == 1


# Redis


async def _monitor_in_redis(settings: Settings) -> None:
    store, pointer = RedisStore(redis_client(settings)), RedisPointer(redis_client(settings))
    try:
        for kind in ("score", "done"):
            await store.put({f"{kind}:a": b"1"})
            assert await store.get([f"{kind}:a"]) == [b"1"]
        assert await pointer.history(Alias.CHAMPION) == []
    finally:
        await store.close()
        await pointer.close()


async def _alerts_in_redis(settings: Settings) -> None:
    store = RedisStore(redis_client(settings))
    try:
        for kind in ("done", "window", "budget"):
            await store.put({f"alerts:{kind}:a": b"1"})
            assert await store.get([f"alerts:{kind}:a"]) == [b"1"]
    finally:
        await store.close()


async def _canary_in_redis(settings: Settings) -> None:
    store, pointer = RedisStore(redis_client(settings)), RedisPointer(redis_client(settings))
    try:
        await store.put({"canary:group:topic": b"{}"})
        assert await store.get(["canary:group:topic"]) == [b"{}"]
        assert await pointer.history(Alias.CHAMPION) == []
    finally:
        await store.close()
        await pointer.close()


async def _console_in_redis(settings: Settings) -> None:
    store = RedisConsoleStore(redis_client(settings), retention=60)
    pointer = RedisPointer(redis_client(settings))
    try:
        kept = item(received_at=datetime.now(UTC))
        await store.put([kept])
        assert len([found async for items in store.load() for found in items]) == 1
        assert (await store.changes("0-0", 0.01))[1] == [kept.flag.id]
        await store.report([Problem(Origin(topic="flags", partition=0, offset=0), "empty", "", datetime.now(UTC))])
        assert len(await store.problems()) == 1
        await store.position()
        await store.revoke("session", 60)
        assert await store.revoked("session")
        await store.forget(datetime.now(UTC) + timedelta(days=1))
        assert await pointer.history(Alias.CHAMPION) == []
    finally:
        await store.close()
        await pointer.close()


async def _models_in_redis(settings: Settings) -> None:
    pointer = RedisPointer(redis_client(settings))
    try:
        choice = Choice(path=Path("p"), name="n", version="1", at=datetime.now(UTC))
        await pointer.move(Alias.CHALLENGER, choice)
        assert await pointer.history(Alias.CHALLENGER) == [choice]
        await pointer.clear(Alias.CHALLENGER)
    finally:
        await pointer.close()


async def _retrain_in_redis(settings: Settings) -> None:
    def work() -> None:
        try:
            for _ in range(2):  # the second time proves that the first let go
                with held(settings, Path("unused")) as lock:
                    lock.require()
        except GuardlineError as error:
            raise StoreUnavailable(str(error)) from error

    await asyncio.to_thread(work)
    await _models_in_redis(settings)


def _smaller(grants: Grants) -> list[Grants]:
    """Return the grants without each command, and without each pattern of keys."""
    found = []
    for index, own in enumerate(grants.redis):
        less = [replace(own, commands=tuple(c for c in own.commands if c != command)) for command in own.commands]
        less += [replace(own, keys=tuple(k for k in own.keys if k != key)) for key in own.keys]
        found += [replace(grants, redis=(*grants.redis[:index], one, *grants.redis[index + 1 :])) for one in less]
    return found


@connected
@pytest.mark.parametrize(
    ("component", "work"),
    [
        ("monitor", _monitor_in_redis),
        ("alerts", _alerts_in_redis),
        ("canary", _canary_in_redis),
        ("console", _console_in_redis),
        ("models", _models_in_redis),
        ("retrain", _retrain_in_redis),
    ],
)
async def test_redis_grants_suffice_and_none_is_superfluous(
    redis_with_acls: SecuredRedis, component: str, work: Callable[[Settings], Awaitable[None]]
) -> None:
    grants = components(Settings(store="redis"))[component]
    settings = load_settings(
        store="redis", redis_url=redis_with_acls.url("own", "secret"), redis_ca_file=redis_with_acls.authority.ca
    )

    async def with_only(grants: Grants) -> None:
        redis_with_acls.execute("FLUSHALL")
        redis_with_acls.execute("SCRIPT", "FLUSH")
        redis_with_acls.execute("ACL", "SETUSER", "own", "reset", "on", ">secret", *redis_rules(grants))
        async with redis_client(settings) as client:  # what every component asks at its start
            try:
                await client.ping()
            except Exception as error:
                raise StoreUnavailable(str(error)) from error
        await work(settings)

    await with_only(grants)
    for fewer in _smaller(grants):
        with pytest.raises(StoreUnavailable):
            await with_only(fewer)


# What is printed


def _printed(monkeypatch: pytest.MonkeyPatch, *arguments: str, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(f"GUARDLINE_{name.upper()}", value)
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@connected
def test_kafkas_own_tool_takes_the_commands(
    kafka_with_acls: SecuredKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"user-{uuid.uuid4().hex[:8]}"
    printed = _printed(
        monkeypatch, "--component", "monitor", "--format", "kafka-acls", "--principal", f"User:{user}",
        kafka_bootstrap=kafka_with_acls.plaintext,
    )  # fmt: skip
    tool = tmp_path / "kafka-acls.sh"
    tool.write_text(f'#!/bin/sh\nexec {shlex.join(acl_tool())} "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "admin.properties").write_text("")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e"], input=printed, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {(g.resource, g.name, g.operation) for g in components(load_settings())["monitor"].kafka}
    assert kafka_with_acls.grants(user) == expected


@connected
def test_redis_takes_the_lines(redis_with_acls: SecuredRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = _printed(monkeypatch, "--component", "monitor", "--format", "redis", store="redis")
    tls = ["--tls", "--cacert", str(redis_with_acls.authority.ca), "--user", "admin", "--no-auth-warning"]
    done = subprocess.run(
        ["redis-cli", "-p", str(redis_with_acls.port), *tls, "--pass", redis_with_acls.admin_password],
        input=printed, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["OK"] * len(printed.splitlines())
    listed = redis_with_acls.execute("ACL", "LIST")
    (user,) = [line for line in listed if line.startswith("user guardline-monitor ")]
    # No password: nobody can log in before somebody sets one.
    assert not {"nopass", "~*", "allkeys", "+@all"} & set(user.split())
    assert " #" not in user
    assert "-@all +ping (" in user


def test_strimzi_gets_one_user_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    users = list(yaml.safe_load_all(_printed(monkeypatch, "--format", "strimzi", "--cluster", "ours", group="g")))
    found = components(load_settings())
    assert [user["metadata"]["name"] for user in users] == [f"guardline-{name}" for name in found]
    for user, grants in zip(users, found.values(), strict=True):
        assert user["metadata"]["labels"] == {"strimzi.io/cluster": "ours"}
        assert "authentication" not in user["spec"]
        printed = {
            (acl["resource"]["type"], acl["resource"]["name"], operation)
            for acl in user["spec"]["authorization"]["acls"]
            for operation in acl["operations"]
        }
        assert printed == {(own.resource, own.name, own.operation) for own in grants.kafka}


def test_people_are_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _printed(monkeypatch, "--component", "monitor", store="redis", topic_flags="my.flags", shadow_share="0")
    assert "Write    topic my.flags  (unsafe statements)" in text
    assert "safety.shadow" not in text
    assert "LRANGE on guardline:models:*" in text


def test_the_alerts_file_is_asked_for_its_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    example = str(CHECKOUT / "deploy/examples/alerts.yaml")
    text = _printed(monkeypatch, "--component", "alerts", "--alerts-config", example)
    assert "Write    topic safety.alerts.deadletter" in text


def test_an_unknown_component_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"no component cleaner: there are .*monitor, alerts"):
        CliRunner().invoke(command, ["--component", "cleaner"], catch_exceptions=False)


def test_without_redis_there_are_no_lines_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="GUARDLINE_STORE=redis"):
        CliRunner().invoke(command, ["--format", "redis"], catch_exceptions=False)
