"""From records of Kafka to drafts of entries: what an audit must know, and nothing that it need not.

In every entry that came of a record, `details.event` is the id of the event and `details.source` where the record lies.
Beside them:

    flag, review   subject: the flag's id. verdict, score, category, recommendation, guideline and model with version,
                   thresholds, message_id, tenant, start, end, statement_sha256, received_at, and origin: where the
                   message lies. Not the statement, nor `reason`, which quotes it, nor the conversation.
    decision       subject: the flag's id; actor: the reviewer. decision, recommendation, model, origin, decided_at,
                   and the SHA-256 of the note, not the note.
    an action      subject and actor as the action's; about: its details; acted_at.
    unreadable     subject: the record's place. size and SHA-256 of its bytes (null without any), and why.

Entries of the log's own: genesis (the first), segment (the first of a further file; offsets: where to read on), gap
(records that were gone from a topic before they were read), repair (what a crash left of a line).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from pydantic import ConfigDict, SecretStr, ValidationError

from monitor.alerts.reading import read_flag
from monitor.audit.chain import GENESIS, SEGMENT, Draft, Head
from monitor.audit.log import Torn
from monitor.errors import InvalidMessage
from monitor.events import origin_of
from monitor.feedback.reading import read_feedback
from monitor.intake.problems import first_problem
from monitor.records import ActionRecord, FlagRecord, ModelReference, event_id
from monitor.settings import Settings

UNREADABLE, GAP, REPAIR = "unreadable", "gap", "repair"
#: Kinds that no action may have: they say what Guardline itself saw.
RESERVED = frozenset({GENESIS, SEGMENT, UNREADABLE, GAP, REPAIR, "flag", "review", "decision"})


class _Action(ActionRecord):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def source_of(record: ConsumerRecord) -> dict[str, Any]:
    """Return where a record lies."""
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def _model(model: ModelReference) -> dict[str, str]:
    return {"name": model.name, "version": model.version}


def _flag(flag: FlagRecord, record: ConsumerRecord) -> Draft:
    origin = origin_of(record.headers)
    details = {
        "event": flag.id,
        "source": source_of(record),
        "verdict": flag.verdict,
        "score": flag.score,
        "category": flag.category,
        "recommendation": flag.evidence.recommendation,
        "guideline": {"id": flag.evidence.guideline, "version": flag.evidence.version},
        "model": _model(flag.model),
        "thresholds": {
            "unsafe": flag.thresholds.unsafe, "review": flag.thresholds.review, "in_scope": flag.thresholds.in_scope,
        },
        "message_id": flag.message_id,
        "tenant": flag.tenant,
        "start": flag.start,
        "end": flag.end,
        "statement_sha256": flag.statement_sha256,
        "received_at": flag.received_at.isoformat(),
        "origin": origin.model_dump() if origin else None,
    }  # fmt: skip
    return Draft("flag" if flag.verdict == "unsafe" else "review", flag.id, details)


class Drafts:
    """Makes drafts of the records of each topic."""

    def __init__(self, settings: Settings) -> None:
        """Read the topics that the settings name; people are pseudonyms where `audit_key` is set."""
        self._key: SecretStr | None = settings.audit_key
        self._readers: Mapping[str, Callable[[ConsumerRecord], Draft]] = {
            settings.topic_flags: self._flag,
            settings.topic_review: self._flag,
            settings.topic_feedback: self._decision,
            settings.topic_audit_events: self._action,
        }

    @property
    def topics(self) -> list[str]:
        """All topics that drafts are made of."""
        return list(self._readers)

    def of(self, record: ConsumerRecord) -> Draft:
        """Return the draft of a record, whatever is in it: one that cannot be read becomes an entry that says so."""
        try:
            return self._readers[record.topic](record)
        except InvalidMessage as error:
            return self.unreadable(record, error)

    @staticmethod
    def unreadable(record: ConsumerRecord, error: InvalidMessage) -> Draft:
        """Return the draft for a record that is no event."""
        value = record.value
        details = {
            "event": event_id(record.topic, record.partition, record.offset),
            "source": source_of(record),
            "size": 0 if value is None else len(value),
            "sha256": None if value is None else hashlib.sha256(value).hexdigest(),
            "reason": error.reason,
            "detail": error.detail,
        }
        return Draft(UNREADABLE, f"{record.topic}/{record.partition}:{record.offset}", details)

    def _person(self, name: str) -> str:
        if self._key is None:
            return name
        digest = hmac.digest(self._key.get_secret_value().encode(), name.encode(), "sha256").hex()
        return f"hmac-sha256:{digest[:32]}"

    @staticmethod
    def _flag(record: ConsumerRecord) -> Draft:
        return _flag(read_flag(record.value), record)

    def _decision(self, record: ConsumerRecord) -> Draft:
        feedback = read_feedback(record.value)
        origin = feedback.origin
        details = {
            "event": feedback.id,
            "source": source_of(record),
            "decision": feedback.decision.value,
            "recommendation": feedback.recommendation,
            "model": _model(feedback.flag.model),
            "origin": origin.model_dump() if origin else None,
            "note_sha256": None if feedback.note is None else hashlib.sha256(feedback.note.encode()).hexdigest(),
            "decided_at": feedback.decided_at.isoformat(),
        }
        return Draft("decision", feedback.flag.id, details, self._person(feedback.reviewer))

    def _action(self, record: ConsumerRecord) -> Draft:
        if record.value is None:
            raise InvalidMessage("empty", "the record has no value")
        try:
            action = _Action.model_validate_json(record.value)
        except ValidationError as error:
            raise first_problem(error) from error
        if action.kind in RESERVED:
            raise InvalidMessage("invalid_field", "kind: reserved for entries of the log's own")
        details = {
            "event": action.id,
            "source": source_of(record),
            "about": action.details,
            "acted_at": action.at.isoformat(),
        }
        return Draft(action.kind, action.subject, details, self._person(action.actor))


def genesis(log_id: str) -> Draft:
    """Return the draft of the first entry: `log_id` tells this log from others."""
    return Draft(GENESIS, log_id, {"format": 1, "canonical": "RFC 8785", "digest": "SHA-256"})


def segment(offsets: Mapping[TopicPartition, int]) -> Draft:
    """Return the draft of the first entry of a further segment: the offsets to read on at, by partition."""
    at = {f"{p.topic}/{p.partition}": offset for p, offset in sorted(offsets.items())}
    return Draft(SEGMENT, "", {"offsets": at})


def gap(partition: TopicPartition, first: int, last: int) -> Draft:
    """Return the draft for the offsets `first` to `last` of a partition, which were gone before they were read."""
    place = {"topic": partition.topic, "partition": partition.partition}
    return Draft(GAP, f"{partition.topic}/{partition.partition}", {**place, "first": first, "last": last})


def repair(torn: Torn, head: Head) -> Draft:
    """Return the draft for an unfinished line that was cut off after `head`."""
    return Draft(REPAIR, torn.place, {"size": torn.size, "sha256": torn.sha256, "after": head.seq})
