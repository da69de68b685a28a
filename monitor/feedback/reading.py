"""Records of `safety.feedback` as decisions: one, or all that the topic holds.

Unknown fields pass, as in flags. What is no decision is counted and said, never guessed at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import AwareDatetime, ConfigDict, ValidationError

from monitor.alerts.reading import LenientFlag
from monitor.errors import ConfigurationError, InvalidMessage
from monitor.intake.problems import first_problem
from monitor.records import FeedbackRecord, Origin
from monitor.replay.places import resolve
from monitor.replay.reading import batches, opened, topics_of
from monitor.settings import Settings

_LENIENT = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Origin(Origin):
    model_config = _LENIENT


class _Feedback(FeedbackRecord):
    model_config = _LENIENT
    flag: LenientFlag
    origin: _Origin | None = None
    decided_at: AwareDatetime  # decisions are put in order by it


def read_feedback(value: bytes | None) -> FeedbackRecord:
    """Return the decision in a record's value.

    Raises:
        InvalidMessage: it holds none; reason and detail repeat nothing of it.
    """
    if value is None:
        raise InvalidMessage("empty", "the record has no value")
    try:
        return _Feedback.model_validate_json(value)
    except ValidationError as error:
        raise first_problem(error) from error


@dataclass(slots=True)
class Feedback:
    """What a topic of decisions holds: `unreadable` counts, by reason, the records that are none."""

    decisions: list[FeedbackRecord] = field(default_factory=list)
    unreadable: Counter[str] = field(default_factory=Counter)


async def read_topic(settings: Settings, advance: Callable[[int, int], object]) -> Feedback:
    """Read all decisions, from the topic's beginning to where it ends now; a repeated one counts once.

    `advance` is told how many records were read and how many there are.

    Raises:
        ConfigurationError: there is no such topic.
        GuardlineError: the broker does not answer, or refuses this client.
    """
    topic = settings.topic_feedback
    partitions = (await topics_of(settings)).get(topic)
    if not partitions:
        raise ConfigurationError(f"no topic {topic} on the broker: create it, or set GUARDLINE_TOPIC_FEEDBACK")
    found = Feedback()
    seen: set[str] = set()
    async with opened(settings) as consumer:
        spans = await resolve(consumer, partitions, "earliest", "latest")
        total, read = sum(map(len, spans.values())), 0
        async for records in batches(consumer, spans, most=1000, stop=asyncio.Event()):
            read += len(records)
            advance(read, total)
            for record in records:
                try:
                    decision = read_feedback(record.value)
                except InvalidMessage as error:
                    found.unreadable[error.reason] += 1
                    continue
                if decision.id not in seen:
                    seen.add(decision.id)
                    found.decisions.append(decision)
    return found
