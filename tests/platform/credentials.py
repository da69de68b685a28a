"""Every user of the platform and their secrets, made afresh at each start and kept in files of one folder.

Each component of Guardline has a user of its own in Kafka and in Redis, who may do what `guardline acls` prints for
that component: the command is run, and what it prints is what is granted. A component gets its secrets in its
environment, which is kept in a file as well, so that a person can run another command as the same user.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from monitor.console.users import Role, digest, new_token
from tests.fixtures_secured import Grant, SecuredKafka, SecuredRedis
from tests.security.guardline import Guardline

#: The team's own program, which publishes answers.
PLATFORM = "platform"
#: Those that have users.
COMPONENTS = (PLATFORM, "intake", "monitor", "alerts", "canary", "console", "audit")
REVIEWERS = ("anna.meyer", "ben.okafor")
SENDER = "riverside-chat"
#: Of users, as `guardline acls` prints them.
_PREFIX = "guardline-"


async def _printed(form: str, settings: Mapping[str, str], alerts_config: Path, log: Path) -> str:
    """Return what `guardline acls` prints."""
    chosen = [f"--component={component}" for component in COMPONENTS]
    command = ("acls", f"--format={form}", f"--alerts-config={alerts_config}", *chosen)
    async with Guardline(*command, log=log, environment=settings) as process:
        if code := await process.ended():
            raise RuntimeError(f"`guardline acls` ended with {code}: {process.said}")
        return process.said


class Credentials:
    """The secrets of one start, in `folder`, which nobody else can read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.redis_admin = secrets.token_urlsafe()
        self.sender = new_token()
        self.reviewers = {name: new_token() for name in REVIEWERS}
        self._kafka = {component: secrets.token_urlsafe() for component in COMPONENTS}
        self._redis = {component: secrets.token_urlsafe() for component in COMPONENTS}
        self._session = new_token()
        #: Those that have a user in Redis; the others use none.
        self._in_redis: set[str] = set()
        self.sender_file = self._write("sender.token", self.sender)
        self.senders_file = self._write(
            "senders.yaml", yaml.safe_dump({"senders": [{"name": SENDER, "sha256": digest(self.sender)}]})
        )
        users = [
            {"name": name, "role": Role.REVIEWER.value, "sha256": digest(token)}
            for name, token in self.reviewers.items()
        ]
        self.users_file = self._write("users.yaml", yaml.safe_dump({"users": users}))

    @property
    def all(self) -> Iterable[str]:
        """Every secret there is; none of them may ever be said."""
        return [
            self.redis_admin, self.sender, self._session,
            *self.reviewers.values(), *self._kafka.values(), *self._redis.values(),
        ]  # fmt: skip

    def _write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(content)
        return path

    async def grant(
        self, kafka: SecuredKafka, redis: SecuredRedis, settings: Mapping[str, str], alerts_config: Path
    ) -> tuple[int, int]:
        """Make every user and allow it what `guardline acls` prints with these settings.

        Return how many grants that are in Kafka and in Redis: operations on a topic or group, commands on keys.
        """
        strimzi, lines = await asyncio.gather(
            *(
                _printed(form, {**settings, "GUARDLINE_STORE": "redis"}, alerts_config, self.folder / form)
                for form in ("strimzi", "redis")
            )
        )
        return await asyncio.to_thread(self._grant, kafka, redis, strimzi, lines)

    def _grant(self, kafka: SecuredKafka, redis: SecuredRedis, strimzi: str, lines: str) -> tuple[int, int]:
        in_kafka = in_redis = 0
        for document in yaml.safe_load_all(strimzi):
            name = document["metadata"]["name"]
            kafka.add_user(name, self._kafka[name.removeprefix(_PREFIX)])
            own = list(_grants(document))
            kafka.grant(name, own)
            in_kafka += len(own)
        for line in lines.splitlines():
            _, _, name, *_ = words = shlex.split(line)
            redis.execute(*words)
            component = name.removeprefix(_PREFIX)
            redis.execute("ACL", "SETUSER", name, f">{self._redis[component]}")
            self._in_redis.add(component)
            in_redis += line.count("+")
        return in_kafka, in_redis

    def environment(
        self, component: str, kafka: SecuredKafka, redis: SecuredRedis, settings: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the environment of a component's process, and keep it in a file."""
        user = _PREFIX + component
        found = {**settings, **kafka.settings(user, self._kafka[component])}
        if component in self._in_redis:
            found |= redis.settings(user, self._redis[component])
        if component == "console":
            found["GUARDLINE_CONSOLE_SECRET"] = self._session
        self._write(f"{component}.env", "".join(f"{name}={shlex.quote(value)}\n" for name, value in found.items()))
        return found


def _grants(document: Mapping[str, Any]) -> Iterable[Grant]:
    """Yield the grants of a `KafkaUser`."""
    for acl in document["spec"]["authorization"]["acls"]:
        resource = acl["resource"]
        for operation in acl["operations"]:
            yield resource["type"], resource["name"], operation
