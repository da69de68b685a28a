"""What crosses Kafka: the native input record and the events that Guardline publishes.

Pydantic models validate what comes in and state what goes out (`model_json_schema()`). Input ignores
unknown fields, so that platforms may add their own; output schemas only ever gain fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from monitor.text import well_formed
from monitor.types import Evidence, Message, MessageVerdict, StatementVerdict, Verdict

#: One message of 10 MB can hold half a million statements. An event lists, and a message raises, no more than this;
#: the counts of its verdict tell of the rest.
MAX_STATEMENTS = 200
#: 9999-12-31: a producer that sends microseconds must not stop the stream.
_LAST_MILLISECOND = 253_402_300_799_000

#: CloudEvents `type` of each event.
FLAG_TYPE = "guardline.statement.unsafe"
REVIEW_TYPE = "guardline.statement.review"
VERDICT_TYPE = "guardline.message.verdict"
FEEDBACK_TYPE = "guardline.flag.feedback"
ACTION_TYPE = "guardline.action"


class OutputRecord(BaseModel):
    """The native record of the input topic: one answer of a language model."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    id: str = Field(min_length=1, max_length=512, description="The platform's id of this answer.")
    text: str = Field(description="The answer, as shown to the reader. May be empty.")
    tenant: str | None = Field(default=None, description="Who the answer was given for, for routing.")
    model: str | None = Field(default=None, description="The language model that wrote it.")
    conversation_id: str | None = Field(default=None, description="Keeps flags of one conversation in order.")
    created_at: datetime | None = Field(default=None, strict=False, description="When it was written (RFC 3339).")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Anything else; not interpreted.")

    def to_message(self) -> Message:
        """Return the message that the path works on."""
        return Message(
            id=well_formed(self.id),
            text=well_formed(self.text),
            tenant=self.tenant,
            model=self.model,
            conversation_id=self.conversation_id,
            created_at=self.created_at,
            metadata=self.metadata,
        )


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Origin(_Event):
    """Where a message lies in Kafka: its text is read there when it is needed, and kept nowhere else.

    Flags carry it in their headers, not in their body: the same message sent twice gives the same flag to the byte.
    """

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class ModelReference(_Event):
    """The model package that gave a verdict."""

    name: str
    version: str


class Thresholds(_Event):
    """Where the verdicts begin, as probabilities: `review <= score < unsafe` is the band for human eyes."""

    unsafe: float = Field(ge=0, le=1)
    review: float = Field(ge=0, le=1)
    in_scope: float = Field(ge=0, le=1, description="Least probability of concerning the guideline to be judged.")


class EvidenceRecord(_Event):
    """The recommendation that the statement most likely speaks about."""

    guideline: str
    version: str
    recommendation: str
    section: str
    text: str

    @classmethod
    def of(cls, evidence: Evidence) -> EvidenceRecord:
        """Convert from the noun."""
        return cls(
            guideline=evidence.guideline,
            version=evidence.version,
            recommendation=evidence.recommendation,
            section=evidence.section,
            text=evidence.text,
        )


class FlagRecord(_Event):
    """One statement that contradicts the guideline (`unsafe`) or may do so (`review`)."""

    id: str = Field(description="The same for the same tenant, message, span and model: drop repeats by it.")
    verdict: Literal["unsafe", "review"]
    message_id: str
    tenant: str | None
    conversation_id: str | None
    source_model: str | None = Field(description="The language model that wrote the message.")
    start: int = Field(ge=0, description="First character of the statement in the text as received.")
    end: int = Field(ge=0, description="One past its last character.")
    statement: str | None = Field(description="The statement, or null where the policy withholds text.")
    statement_sha256: str
    score: float = Field(ge=0, le=1, description="Calibrated probability that the statement is unsafe.")
    category: str
    reason: str | None = Field(
        default=None,
        description='What differs, as "400 mg stated, 200 mg recommended"; null where that was not read, or where the '
        "policy withholds text, because it quotes the statement.",
    )
    evidence: EvidenceRecord
    model: ModelReference
    thresholds: Thresholds
    created_at: datetime | None = Field(description="When the message was written, where the platform said so.")
    received_at: datetime = Field(description="The broker's time stamp of the message.")


class Decision(StrEnum):
    """What a reviewer says of a flag."""

    ACCEPT = "accept"
    REJECT = "reject"
    WRONG_RECOMMENDATION = "wrong_recommendation"
    UNSURE = "unsure"


class FeedbackRecord(_Event):
    """What one reviewer decided on one flag. The latest of a reviewer on a flag counts."""

    id: str = Field(description="The same for the same flag, reviewer and time: drop repeats by it.")
    flag: FlagRecord = Field(description="What was decided on; as it was published, so without text where that is.")
    origin: Origin | None = Field(default=None, description="Where the message is, if the flag's headers said so.")
    reviewer: str = Field(min_length=1, max_length=200)
    decision: Decision
    recommendation: str | None = Field(
        default=None, description="With `wrong_recommendation`, the one that the statement does contradict."
    )
    note: str | None = Field(default=None, max_length=4000)
    decided_at: datetime


#: A value in the details of an action. Strings are names and digests; text of messages belongs in none.
Detail = Annotated[str, Field(max_length=200)] | bool | int | float | None


class ActionRecord(_Event):
    """What somebody did beside deciding on flags: logged in, had a text revealed, promoted a model."""

    id: str = Field(description="Drop repeats by it.")
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="reveal, login, promotion, rollback, ...")
    actor: str = Field(min_length=1, max_length=200, description="Who did it.")
    subject: str = Field(max_length=512, description="The id of what it was done to: a flag, a model, a session.")
    details: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], Detail] = Field(
        default={}, max_length=20, description="More about it, without message text."
    )
    at: datetime


class StatementRecord(_Event):
    """One statement of a verdict event, without its text."""

    start: int
    end: int
    verdict: Verdict
    score: float
    category: str | None
    recommendation: str | None


class VerdictRecord(_Event):
    """The audit record of one input: what was decided, by which model. Carries no message text."""

    id: str
    message_id: str | None = Field(description="Null where the input could not be read.")
    tenant: str | None
    verdict: Verdict
    score: float
    reason: str | None = Field(description="Why the input is invalid; else null.")
    counts: dict[Verdict, int] = Field(description="Statements by verdict.")
    statements: list[StatementRecord] = Field(description="Those that were judged, the gravest 200 at most.")
    model: ModelReference
    topic: str
    partition: int
    offset: int
    received_at: datetime


class Opinion(_Event):
    """What one model decided on a message."""

    model: ModelReference
    verdict: Verdict
    score: float
    unsafe: list[tuple[int, int]] = Field(description="Spans of the statements that it takes for unsafe.")

    @classmethod
    def of(cls, model: ModelReference, verdict: MessageVerdict) -> Opinion:
        """Summarise a verdict."""
        spans = [(s.statement.start, s.statement.end) for s in gravest_statements(verdict, (Verdict.UNSAFE,))]
        return cls(model=model, verdict=verdict.verdict, score=round(verdict.score, 6), unsafe=spans)


class ShadowRecord(_Event):
    """What champion and challenger decided on one message of the stream. Carries no message text."""

    id: str
    message_id: str
    tenant: str | None
    champion: Opinion
    challenger: Opinion


def event_id(*parts: object) -> str:
    """Return a deterministic id, 32 hex digits, of what identifies an event."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:32]


def timestamp(milliseconds: int) -> datetime:
    """Return a Kafka time stamp (milliseconds since the epoch; -1 for none) as a time."""
    return datetime.fromtimestamp(min(max(milliseconds, 0), _LAST_MILLISECOND) / 1000, UTC)


def flag_record(
    verdict: MessageVerdict,
    statement: StatementVerdict,
    *,
    model: ModelReference,
    thresholds: Thresholds,
    received_at: datetime,
    include_text: bool,
) -> FlagRecord:
    """Return the event for one statement. Nothing in it depends on the clock, so a repeat is identical to the byte."""
    if statement.evidence is None or statement.category is None:
        raise ValueError("only a judged statement becomes a flag")
    message, span = verdict.message, statement.statement
    return FlagRecord(
        id=event_id(message.tenant or "", message.id, span.start, span.end, model.name, model.version),
        verdict="unsafe" if statement.verdict is Verdict.UNSAFE else "review",
        message_id=message.id,
        tenant=message.tenant,
        conversation_id=message.conversation_id,
        source_model=message.model,
        start=span.start,
        end=span.end,
        statement=span.text if include_text else None,
        statement_sha256=hashlib.sha256(span.text.encode()).hexdigest(),
        score=round(statement.score, 6),
        category=statement.category,
        reason=statement.reason if include_text else None,
        evidence=EvidenceRecord.of(statement.evidence),
        model=model,
        thresholds=thresholds,
        created_at=message.created_at,
        received_at=received_at,
    )


def gravest_statements(verdict: MessageVerdict, kinds: Sequence[Verdict]) -> list[StatementVerdict]:
    """Return the statements of these verdicts in text order; of more than 200, those with the highest scores."""
    chosen = [s for s in verdict.statements if s.verdict in kinds]
    if len(chosen) > MAX_STATEMENTS:
        chosen = sorted(chosen, key=lambda s: -s.score)[:MAX_STATEMENTS]
        chosen.sort(key=lambda s: s.statement.start)
    return chosen


def statement_records(verdict: MessageVerdict) -> list[StatementRecord]:
    """Return the judged statements of a verdict, the gravest first where there are too many, without their text."""
    return [
        StatementRecord(
            start=s.statement.start,
            end=s.statement.end,
            verdict=s.verdict,
            score=round(s.score, 6),
            category=s.category,
            recommendation=s.evidence.recommendation if s.evidence else None,
        )
        for s in gravest_statements(verdict, (Verdict.UNSAFE, Verdict.REVIEW, Verdict.SAFE))
    ]
