"""The grants of each component: the least that it works with, derived from the settings' names.

Kafka: Read and Write imply Describe; an idempotent producer needs no grant of its own from Kafka 2.8 on (KIP-679),
older brokers want IdempotentWrite on the cluster. Redis: commands and key patterns of Redis 7 (`%R~` reads only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from monitor.settings import Settings

Operation = Literal["Read", "Write", "Describe"]


@dataclass(frozen=True, slots=True)
class KafkaGrant:
    """One operation on one topic or consumer group."""

    resource: Literal["topic", "group"]
    name: str
    operation: Operation
    why: str


@dataclass(frozen=True, slots=True)
class RedisGrant:
    """Commands on keys, which are patterns; `write` says whether the commands may change what they hold."""

    keys: tuple[str, ...]
    commands: tuple[str, ...]
    write: bool
    why: str


@dataclass(frozen=True, slots=True)
class Grants:
    """All of one component."""

    kafka: tuple[KafkaGrant, ...]
    redis: tuple[RedisGrant, ...] = ()


def _read(topic: str, why: str) -> KafkaGrant:
    return KafkaGrant("topic", topic, "Read", why)


def _write(topic: str, why: str) -> KafkaGrant:
    return KafkaGrant("topic", topic, "Write", why)


def _group(name: str, why: str) -> KafkaGrant:
    return KafkaGrant("group", name, "Read", why)


def _redis(settings: Settings, *grants: RedisGrant) -> tuple[RedisGrant, ...]:
    if settings.store != "redis":
        return ()
    return (RedisGrant((), ("ping",), write=False, why="the question at the start"), *grants)


def _follows_models(settings: Settings) -> bool:
    return settings.models_file is not None or settings.store == "redis"


_MODELS = ("guardline:models:*",)
_MOVES_MODELS = RedisGrant(
    _MODELS, ("lrange", "lpush", "ltrim", "del", "multi", "exec"), write=True, why="promote and roll back"
)


def _monitor(own: Settings) -> Grants:
    shadow = _follows_models(own) and own.shadow_share > 0
    return Grants(
        (
            _read(own.topic_outputs, "what it screens"),
            _group(own.group, "its partitions and its place in them"),
            _write(own.topic_flags, "unsafe statements"),
            _write(own.topic_review, "statements in the uncertainty band"),
            _write(own.topic_deadletter, "what could not be read"),
            *([_write(own.topic_verdicts, "audit records")] if own.emit_verdicts else []),
            *([_write(own.topic_shadow, "what champion and challenger decided")] if shadow else []),
        ),
        _redis(
            own,
            RedisGrant(
                ("guardline:score:*", "guardline:done:*"), ("mget", "set"), write=True, why="scores, done records"
            ),
            *(
                [RedisGrant(_MODELS, ("lrange",), write=False, why="which model is in use")]
                if own.models_file is None
                else []
            ),
        ),
    )


def _alerts(own: Settings, *, review: bool, deadletter: str) -> Grants:
    return Grants(
        (
            _read(own.topic_flags, "what it sends"),
            *([_read(own.topic_review, "what it sends, too")] if review else []),
            _group(f"{own.group}.alerts", "its partitions and its place in them"),
            _write(deadletter, "flags that could not be delivered"),
        ),
        _redis(own, RedisGrant(("guardline:alerts:*",), ("mget", "set"), write=True, why="what was delivered")),
    )


def _canary(own: Settings) -> Grants:
    return Grants(
        (
            _write(own.topic_outputs, "canaries"),
            _read(own.topic_outputs, "the time of the oldest record that waits"),
            _read(own.topic_flags, "what comes back"),
            *([_read(own.topic_verdicts, "verdicts on canaries, and scores")] if own.emit_verdicts else []),
            KafkaGrant("group", own.group, "Describe", "how far the monitors came"),
        ),
        _redis(
            own,
            RedisGrant(("guardline:canary:*",), ("mget", "set"), write=True, why="what is usual"),
            *(
                [RedisGrant(_MODELS, ("lrange",), write=False, why="whose canaries to send")]
                if own.models_file is None
                else []
            ),
        ),
    )


def _console(own: Settings) -> Grants:
    return Grants(
        (
            _read(own.topic_flags, "what reviewers look at"),
            _read(own.topic_review, "what reviewers look at"),
            _read(own.topic_outputs, "texts, while a reviewer looks at them"),
            _read(own.topic_feedback, "decisions, of other consoles too"),
            _group(f"{own.group}.console", "its partitions and how far it came"),
            _write(own.topic_feedback, "decisions"),
            _write(own.topic_audit_events, "logins and reveals, for the audit log"),
        ),
        _redis(
            own,
            RedisGrant(
                ("guardline:console:*",),
                ("hset", "hgetall", "expireat", "del", "zadd", "zrange", "zrangebyscore", "zrem", "xadd", "xread",
                 "xrevrange", "set", "exists", "multi", "exec"),
                write=True,
                why="flags without text, decisions, sessions that were ended",
            ),
            *(
                [RedisGrant(_MODELS, ("lrange",), write=False, why="which model's recommendations reviewers name")]
                if own.models_file is None
                else []
            ),
        ),
    )  # fmt: skip


def _replay(own: Settings) -> Grants:
    return Grants(
        (
            _read(own.topic_deadletter, "what it sends back"),
            _write(own.topic_outputs, "where that came from"),
            _group(f"{own.group}.replay", "how far it came; with --reason the name goes on"),
            _read(own.topic_outputs, "past inputs to judge again"),
            _read(own.topic_verdicts, "what was decided on them"),
        )
    )


def _promotions(own: Settings) -> tuple[KafkaGrant, ...]:
    return (_write(own.topic_audit_events, "promotions, for the audit log"),) if own.audit_actions else ()


def _models(own: Settings) -> Grants:
    return Grants(
        (_read(own.topic_shadow, "what champion and challenger decided"), *_promotions(own)),
        _redis(own, _MOVES_MODELS) if own.models_file is None else (),
    )


def _audit(own: Settings) -> Grants:
    """Of a log in a folder; `docs/audit.md` has what one in a topic needs beside."""
    return Grants(
        (
            _read(own.topic_flags, "what it records"),
            _read(own.topic_review, "what it records"),
            _read(own.topic_feedback, "what it records"),
            _read(own.topic_audit_events, "what it records"),
            _group(f"{own.group}.audit", "its partitions and how far it came"),
        )
    )


def _feedback(own: Settings) -> Grants:
    return Grants(
        (
            _read(own.topic_feedback, "decisions to export"),
            _read(own.topic_outputs, "statements, with --with-text; `guardline audit reproduce` reads messages"),
        )
    )


def _retrain(own: Settings) -> Grants:
    return Grants(
        (
            _read(own.topic_feedback, "decisions"),
            _read(own.topic_outputs, "the statements that they are about"),
            _read(own.topic_shadow, "what champion and challenger decided"),
            *_promotions(own),
        ),
        _redis(
            own,
            RedisGrant(
                ("guardline:retrain",),
                ("set", "get", "del", "pttl", "pexpire", "evalsha", "script|load"),
                write=True,
                why="one at a time",
            ),
            *([_MOVES_MODELS] if own.models_file is None else []),
        ),
    )


def _sender(own: Settings) -> Grants:
    return Grants((_write(own.topic_outputs, "answers"),))


def components(
    settings: Settings, *, alerts_review: bool = False, alerts_deadletter: str = "safety.alerts.deadletter"
) -> Mapping[str, Grants]:
    """Return the grants of every component, by its name.

    `alerts_review` and `alerts_deadletter` are `review` and `deadletter` of alerts.yaml.
    """
    return {
        "platform": _sender(settings),  # who publishes answers itself; see `monitor.producers`
        "intake": _sender(settings),
        "monitor": _monitor(settings),
        "alerts": _alerts(settings, review=alerts_review, deadletter=alerts_deadletter),
        "canary": _canary(settings),
        "console": _console(settings),
        "replay": _replay(settings),
        "models": _models(settings),
        "audit": _audit(settings),
        "feedback": _feedback(settings),
        "retrain": _retrain(settings),
    }
