"""The grants as text for people, commands of Kafka's `kafka-acls.sh`, a Strimzi `KafkaUser`, and Redis' `ACL SETUSER`.

None of them holds or resets a password: credentials are made apart from what they may do.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from monitor.acls.grants import Grants, KafkaGrant


def as_text(components: Mapping[str, Grants]) -> str:
    """Return every grant with its reason, for people."""
    lines = []
    for name, grants in components.items():
        lines.append(name)
        lines += [f"  kafka  {g.operation:<9}{g.resource} {g.name}  ({g.why})" for g in grants.kafka]
        for own in grants.redis:
            keys = f" on {' '.join(own.keys)}" if own.keys else ""
            lines.append(f"  redis  {' '.join(command.upper() for command in own.commands)}{keys}  ({own.why})")
    return "\n".join(lines)


def as_kafka_acls(components: Mapping[str, Grants], principals: Mapping[str, str], bootstrap: str) -> str:
    """Return commands of `kafka-acls.sh`, one a component and operation; `principals` as Kafka writes them."""
    lines = []
    for name, grants in components.items():
        by_operation: dict[tuple[str, str], list[KafkaGrant]] = {}
        for grant in grants.kafka:
            by_operation.setdefault((grant.operation, grant.resource), []).append(grant)
        for (operation, resource), own in by_operation.items():
            command = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--command-config", "admin.properties"]
            command += ["--add", "--allow-principal", principals[name], "--operation", operation]
            for grant in own:
                command += [f"--{resource}", grant.name]
            lines.append(shlex.join(command))
    return "\n".join(lines)


def as_strimzi(components: Mapping[str, Grants], principals: Mapping[str, str], cluster: str) -> str:
    """Return one `KafkaUser` a component, without its `authentication`; the user's name is the principal's."""
    users = []
    for name, grants in components.items():
        operations: dict[tuple[str, str], list[str]] = {}
        for grant in grants.kafka:
            operations.setdefault((grant.resource, grant.name), []).append(grant.operation)
        acls: list[dict[str, Any]] = [
            {"resource": {"type": resource, "name": own, "patternType": "literal"}, "operations": found}
            for (resource, own), found in operations.items()
        ]
        users.append(
            {
                "apiVersion": "kafka.strimzi.io/v1beta2",
                "kind": "KafkaUser",
                "metadata": {
                    "name": principals[name].removeprefix("User:"),
                    "labels": {"strimzi.io/cluster": cluster},
                },
                "spec": {"authorization": {"type": "simple", "acls": acls}},
            }
        )
    return yaml.safe_dump_all(users, sort_keys=False).rstrip()


def redis_rules(grants: Grants) -> list[str]:
    """Return the rules of one Redis user: nothing but these commands on these keys."""
    root, *selectors = [
        " ".join([*(f"{'~' if own.write else '%R~'}{key}" for key in own.keys), *(f"+{c}" for c in own.commands)])
        for own in grants.redis
    ]
    # Each pair of commands and keys is a selector of its own: the keys of one are none of the other's.
    return ["resetkeys", "resetchannels", "-@all", "clearselectors", *root.split(), *(f"({s})" for s in selectors)]


def as_redis(components: Mapping[str, Grants], users: Mapping[str, str]) -> str:
    """Return lines for `redis-cli`; a component that uses no Redis has none."""
    return "\n".join(
        " ".join(
            ["ACL SETUSER", users[name], "on", *(f'"{rule}"' if " " in rule else rule for rule in redis_rules(own))]
        )
        for name, own in components.items()
        if own.redis
    )
