"""From a reviewer's form to a decision that counts: checked, published, and only then stored.

Fails closed: a decision that the broker did not acknowledge was not made, and the page says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from monitor.console import metrics
from monitor.console.desk import Desk
from monitor.console.messages import Messages
from monitor.console.store import Item
from monitor.errors import GuardlineError, StoreUnavailable
from monitor.feedback.adjudication import Status, adjudicate, latest
from monitor.publisher import Event, Publisher
from monitor.records import FEEDBACK_TYPE, Decision, FeedbackRecord, event_id

_log = structlog.get_logger(__name__)
_SOURCE = "guardline/console"
_SECONDS = 15.0
NOTE_LENGTH = 4000


class Refused(GuardlineError):
    """A decision that was not made; the message says why and what to do."""


class Unpublished(GuardlineError):
    """A decision that Kafka did not take: it was not made."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a form says."""

    decision: Decision
    recommendation: str | None = None
    note: str | None = None

    @classmethod
    def of(cls, form: Mapping[str, str], *, known: Collection[str], own: str) -> Choice:
        """Read a form.

        Args:
            form: fields `decision`, `recommendation`, `note`.
            known: ids of the recommendations that may be named.
            own: the one that the flag names.

        Raises:
            Refused: the form is incomplete, or names a recommendation that there is not.
        """
        given = form.get("decision", "")
        if given not in {*Decision}:
            raise Refused("Choose accept, reject, wrong recommendation or unsure.")
        decision, note = Decision(given), form.get("note", "").strip()
        if len(note) > NOTE_LENGTH:
            raise Refused(f"The note has {len(note)} characters: at most {NOTE_LENGTH} are kept.")
        recommendation = None
        if decision is Decision.WRONG_RECOMMENDATION:
            recommendation = form.get("recommendation", "").strip()
            if not recommendation:
                raise Refused("Name the recommendation that the statement contradicts.")
            if recommendation not in known:
                raise Refused("There is no recommendation of that id: choose one from the list.")
            if recommendation == own:
                raise Refused("The flag names that recommendation already: accept it instead.")
        return cls(decision, recommendation, note or None)


def may_decide(item: Item, reviewer: str) -> bool:
    """Tell whether this reviewer may decide now.

    Not on a settled flag; and not again once others have decided as well, because what they said is shown from then on.
    """
    if adjudicate(item.decisions).status is Status.SETTLED:
        return False
    reviewers = {record.reviewer for record in item.decisions}
    return reviewer not in reviewers or reviewers == {reviewer}


def visible_decisions(item: Item, reviewer: str) -> list[FeedbackRecord]:
    """Return the decisions that this reviewer may see: none of others' before the own, or before they are settled."""
    last = latest(item.decisions)
    decided = any(record.reviewer == reviewer for record in last)
    return last if decided or adjudicate(item.decisions).status is Status.SETTLED else []


def feedback_event(record: FeedbackRecord, topic: str) -> Event:
    """Return the event of a decision, keyed by its flag, so that decisions on one flag keep their order."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": record.id,
        "ce_source": _SOURCE,
        "ce_type": FEEDBACK_TYPE,
        "ce_time": record.decided_at.isoformat(),
        "content-type": "application/json",
    }
    headers = tuple((name, value.encode()) for name, value in attributes.items())
    return Event(topic, record.flag.id.encode(), record.model_dump_json().encode(), headers)


def _now() -> datetime:
    return datetime.now(UTC)


class Deciding:
    """Makes decisions."""

    def __init__(
        self,
        desk: Desk,
        messages: Messages,
        publisher: Publisher,
        topic: str,
        *,
        timeout: float = _SECONDS,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Publish to `topic`, waiting `timeout` seconds at most."""
        self._desk = desk
        self._messages = messages
        self._publisher = publisher
        self._topic = topic
        self._timeout = timeout
        self._clock = clock

    async def decide(self, item: Item, reviewer: str, choice: Choice) -> FeedbackRecord:
        """Publish a decision and take it over.

        Raises:
            Refused: this reviewer may not decide on this flag any more.
            Unpublished: Kafka did not acknowledge it, so it was not made.
        """
        if not may_decide(item, reviewer):
            raise Refused("This flag needs no further decision of yours: it is settled, or others have decided since.")
        now = self._clock()
        try:
            async with asyncio.timeout(self._timeout):
                record = FeedbackRecord(
                    id=event_id(item.flag.id, reviewer, now.isoformat()),
                    flag=await self._messages.published(item),
                    origin=item.origin,
                    reviewer=reviewer,
                    decision=choice.decision,
                    recommendation=choice.recommendation,
                    note=choice.note,
                    decided_at=now,
                )
                refused = await self._publisher.publish([feedback_event(record, self._topic)])
        except (GuardlineError, TimeoutError) as error:
            metrics.UNPUBLISHED.inc()
            _log.error("decision_unpublished", flag=item.flag.id, reviewer=reviewer, error=repr(error))
            raise Unpublished("Kafka did not confirm the decision, so it does not count. Try again.") from error
        if refused:
            metrics.UNPUBLISHED.inc()
            raise Unpublished("Kafka refuses the decision as too large: shorten the note.")
        metrics.DECISIONS.labels(choice.decision.value).inc()
        try:
            await self._desk.put([Item.of_decision(record)])
        except StoreUnavailable as error:
            # It is in the topic, from where `intake` stores it once the store is back.
            metrics.STORE_FAILURES.inc()
            _log.warning("decision_not_stored_yet", flag=item.flag.id, error=str(error), action="reading it from Kafka")
        return record
