"""Flags with a statement of their own, and decisions on them."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from monitor.records import Decision, FeedbackRecord, FlagRecord, Origin
from tests.alerts.flags import make_flag
from tests.audit.logs import START, feedback

ACCEPT, REJECT, WRONG, UNSURE = Decision


def flag_on(statement: str, number: int = 0, *, withheld: bool = False, start: int = 0, **changes: Any) -> FlagRecord:
    """Return a flag on this very statement; another number is another message."""
    return make_flag(
        number,
        statement=None if withheld else statement,
        statement_sha256=hashlib.sha256(statement.encode()).hexdigest(),
        start=start,
        end=start + len(statement),
        **changes,
    )


def decided(
    flag: FlagRecord, *decisions: Decision | tuple[Decision, str], minute: int = 0, **more: Any
) -> list[FeedbackRecord]:
    """Return the decisions of reviewers a, b, c, ... on a flag, a minute apart."""
    return [
        feedback(
            flag,
            chr(ord("a") + n),
            decision if isinstance(decision, Decision) else decision[0],
            minute + n,
            recommendation=None if isinstance(decision, Decision) else decision[1],
            **more,
        )
        for n, decision in enumerate(decisions)
    ]


def origin(offset: int, topic: str = "llm.outputs") -> Origin:
    return Origin(topic=topic, partition=0, offset=offset)


def at(minute: int) -> str:
    return (START + timedelta(minutes=minute)).isoformat()
