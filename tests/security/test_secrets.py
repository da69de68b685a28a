"""Planted secrets and planted message text, through a whole run with its faults: neither is said or kept anywhere."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from monitor.acls.grants import components
from monitor.acls.rendering import redis_rules
from monitor.settings import load_settings
from tests.alerts.servers import Receiver, receiving
from tests.fixtures_kafka import consume_all, produce
from tests.fixtures_secured import HOST, SecuredKafka, SecuredRedis
from tests.fixtures_services import free_ports
from tests.security.guardline import Guardline
from tests.security.test_acls import Deployment

pytestmark = [pytest.mark.connected, pytest.mark.model]

#: Told to be found wherever it is repeated: in any case, and as JSON escapes it.
TEXT = "Zebulon"
STATEMENT = f"Remdesivir is given to {TEXT} as a 417 mg loading dose on day 1."
#: What a flag's reason quotes of it.
QUOTED = "417"
INPUTS = [
    json.dumps({"id": "unsafe", "text": STATEMENT}).encode(),
    json.dumps({"id": "again", "text": STATEMENT}).encode(),
    f'{{"id": "torn", "text": "{STATEMENT}'.encode(),  # unreadable
    json.dumps({"id": "list", "text": [STATEMENT]}).encode(),
    json.dumps({"id": {"text": STATEMENT}, "text": STATEMENT}).encode(),
    f"\xff {STATEMENT}".encode("latin-1"),
    json.dumps({"id": "another", "choices": [{"message": {"content": 7, "note": STATEMENT}}]}).encode(),
]
SECRETS = {
    name: f"planted-{name}-{uuid.uuid4().hex}"
    for name in ("kafka", "redis", "slack", "pagerduty", "smtp", "webhook", "wrong")
}


@dataclass
class Run:
    """A monitor and alerts under their grants, with planted secrets; what they said is in `said`."""

    kafka: SecuredKafka
    redis: SecuredRedis
    folder: Path
    receiver: Receiver
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deployment = Deployment(self.folder)
        self.ports = dict(zip(("monitor", "alerts"), free_ports(2), strict=True))
        self.silent = free_ports(1)[0]
        self.config = self.folder / "alerts.yaml"
        sink = {"retry": {"attempts": 2, "first": 0, "most": 0}}
        sinks = {
            "hook": {"type": "webhook", "url": {"env": "HOOK"}, "token": {"env": "TOKEN"}},
            "chat": {"type": "slack", "url": {"file": str(self.folder / "slack")}},
            "oncall": {
                "type": "pagerduty", "routing_key": {"env": "PAGER"},
                "endpoint": f"http://{HOST}:{self.silent}/v2/enqueue",
            },
            "mail": {
                "type": "email", "host": HOST, "port": self.silent, "tls": "starttls", "username": "guardline",
                "password": {"env": "SMTP"}, "sender": "a@example.org", "to": ["b@example.org"],
            },
            "file": {"type": "file", "path": str(self.folder / "alerts.jsonl")},
        }  # fmt: skip
        routes = [{"name": "all", "sinks": list(sinks), "group": {"wait": 0, "suppress": 0}}]
        self.config.write_text(
            yaml.safe_dump(
                {
                    "deadletter": self.deployment.topic("undelivered"),
                    "sinks": {name: sink | own for name, own in sinks.items()},
                    "routes": routes,
                }
            )
        )
        (self.folder / "slack").write_text(f"http://{HOST}:{self.silent}/services/{SECRETS['slack']}")

    def environment(self, component: str, **changes: str) -> dict[str, str]:
        """Return the settings of one component, and allow its user what it needs."""
        user = f"{component}-{self.deployment.name}"
        own = self.deployment.environment | {
            "GUARDLINE_STORE": "redis",
            "GUARDLINE_VERIFY": "true",
            "GUARDLINE_LOG_LEVEL": "debug",
            "HOOK": self.receiver.url,
            "TOKEN": SECRETS["webhook"],
            "PAGER": SECRETS["pagerduty"],
            "SMTP": SECRETS["smtp"],
        }
        names = {name.removeprefix("GUARDLINE_").lower(): v for name, v in own.items() if name.startswith("GUARDLINE_")}
        grants = components(load_settings(**names), alerts_deadletter=self.deployment.topic("undelivered"))[component]
        self.kafka.add_user(user, SECRETS["kafka"])
        self.kafka.grant(user, [(g.resource, g.name, g.operation) for g in grants.kafka])
        self.redis.execute("ACL", "SETUSER", user, "reset", "on", f">{SECRETS['redis']}", *redis_rules(grants))
        return (
            own
            | self.kafka.settings(user, SECRETS["kafka"])
            | self.redis.settings(user, SECRETS["redis"])
            | {"GUARDLINE_METRICS_PORT": str(self.ports[component])}
            | changes
        )

    def command(self, name: str, *arguments: str, environment: Mapping[str, str]) -> Guardline:
        return Guardline(*arguments, log=self.folder / f"{name}.log", environment=environment)

    async def keep(self, name: str, *arguments: str, environment: Mapping[str, str]) -> int:
        """Run a command to its end and keep what it said."""
        async with self.command(name, *arguments, environment=environment) as process:
            code = await process.ended()
        self.said[name] = process.said
        return code

    async def metrics(self, component: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{HOST}:{self.ports[component]}/metrics") as response,
        ):
            self.said[f"metrics of {component}"] = await response.text()

    async def until(self, topic: str, records: int, process: Guardline) -> None:
        async with asyncio.timeout(60):
            while len(await consume_all(self.kafka.plaintext, self.deployment.topic(topic))) < records:
                assert process.process is not None
                assert process.process.returncode is None, process.said[-3000:]

    def kept_in_redis(self) -> str:
        """Return every key and value."""
        found = []
        for key in self.redis.execute("KEYS", "*"):
            kind = self.redis.execute("TYPE", key)
            assert kind == "string", f"{key} is a {kind}"
            found.append(f"{key} {self.redis.execute('GET', key)}")
        return "\n".join(sorted(found))


async def test_neither_secrets_nor_text_are_said_or_kept(
    kafka_with_acls: SecuredKafka, redis_with_acls: SecuredRedis, tmp_path: Path
) -> None:
    async with receiving() as receiver:
        run = Run(kafka_with_acls, redis_with_acls, tmp_path, receiver)
        own = run.deployment
        kafka_with_acls.topics(
            map(own.topic, ("outputs", "flags", "review", "verdicts", "deadletter", "undelivered", "shadow")),
            partitions=1,
        )
        monitor_settings = run.environment("monitor", GUARDLINE_TOPIC_SHADOW=own.topic("shadow"))
        alerts_settings = run.environment("alerts")
        monitor = run.command("monitor", "monitor", environment=monitor_settings)
        alerts = run.command("alerts", "alerts", "--config", str(run.config), environment=alerts_settings)
        await produce(kafka_with_acls.plaintext, own.topic("outputs"), INPUTS)
        async with monitor, alerts:
            await run.until("deadletter", 5, monitor)
            await run.until("flags", 2, monitor)
            await alerts.says("alert_given_up")
            await alerts.says("alert_delivered")
            kept = await asyncio.to_thread(run.kept_in_redis)
            # Redis goes away: both go on, and say so.
            redis_with_acls.server.stop()
            await produce(kafka_with_acls.plaintext, own.topic("outputs"), INPUTS[:1])
            await run.until("flags", 3, monitor)
            await monitor.says("store_unavailable")
            for component in ("monitor", "alerts"):
                await run.metrics(component)
            assert await monitor.stop() == 0
            assert await alerts.stop() == 0
        run.said |= {"monitor": monitor.said, "alerts": alerts.said}
        redis_with_acls.server.start()  # without users, but for the administrator
        wrong = {"GUARDLINE_KAFKA_PASSWORD": SECRETS["wrong"], "GUARDLINE_STORE": "memory"}
        nowhere = {"GUARDLINE_KAFKA_BOOTSTRAP": f"{HOST}:{run.silent}"}
        bad = {"GUARDLINE_ATTEMPTS": "-1"}
        config = ["--config", str(run.config)]
        codes = await asyncio.gather(
            run.keep("wrong password of Kafka", "monitor", environment=monitor_settings | wrong),
            run.keep("wrong password of Redis", "monitor", environment=monitor_settings),
            run.keep("doctor", "doctor", environment=monitor_settings),
            run.keep("doctor without broker", "doctor", "--json", environment=monitor_settings | nowhere),
            run.keep("bad setting", "monitor", environment=monitor_settings | bad),
            run.keep("alerts --check", "alerts", "--check", *config, environment=alerts_settings),
            run.keep("alerts --test", "alerts", "--test", "all", *config, environment=alerts_settings),
            run.keep("help", "monitor", "--help", environment=monitor_settings),
            run.keep("acls", "acls", environment=monitor_settings),
        )
    assert codes == [3, 3, 1, 1, 2, 0, 1, 0, 0], run.said

    # It was a whole run: the secrets were used and the text was judged.
    assert receiver.headers[0]["Authorization"] == f"Bearer {SECRETS['webhook']}"
    flag = json.loads((await consume_all(kafka_with_acls.plaintext, own.topic("flags")))[0].value or b"")
    assert QUOTED in flag["reason"]
    assert flag["statement"] == STATEMENT
    assert '"dead_letter"' in run.said["monitor"]
    assert "guardline_messages_total" in run.said["metrics of monitor"]
    assert "guardline:score:" in kept
    assert "guardline:alerts:done:" in kept

    for where, said in run.said.items():
        for name, secret in SECRETS.items():
            assert secret not in said, f"the secret of {name} is in what {where} said"
        assert TEXT.lower() not in said.lower(), f"message text in what {where} said:\n" + _around(said, TEXT)
        assert not re.search(rf"\b{QUOTED} mg", said), f"message text in what {where} said:\n" + _around(said, QUOTED)
    assert TEXT.lower() not in kept.lower(), _around(kept, TEXT)
    assert f"{QUOTED} mg" not in kept, _around(kept, QUOTED)
    delivered = json.dumps(receiver.bodies) + (tmp_path / "alerts.jsonl").read_text()
    assert TEXT not in delivered  # alerts carry text only where a route says so
    assert QUOTED not in delivered


def _around(said: str, what: str) -> str:
    place = said.lower().find(what.lower())
    return said[max(place - 300, 0) : place + 200]
