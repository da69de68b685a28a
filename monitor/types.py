"""The nouns of the monitor: plain frozen values that the path from message to verdict hands on.

What crosses Kafka is in `records`; what the model package states is in `package`. Offsets count characters of the
text as received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what publishes answers from inside other programs reads records, and needs no arrays
    import numpy as np
    from numpy.typing import NDArray


class Verdict(StrEnum):
    """What is said of a statement, or of a message (`invalid` only of a message that cannot be read)."""

    UNSAFE = "unsafe"
    REVIEW = "review"
    ABSTAIN = "abstain"
    SAFE = "safe"
    OUT_OF_SCOPE = "out_of_scope"
    INVALID = "invalid"


#: From gravest to least: a message takes the gravest verdict of its statements.
GRAVITY = (Verdict.UNSAFE, Verdict.REVIEW, Verdict.ABSTAIN, Verdict.SAFE, Verdict.OUT_OF_SCOPE)


@dataclass(frozen=True, slots=True)
class Message:
    """One LLM output, whatever format it came in."""

    id: str
    text: str
    tenant: str | None = None
    model: str | None = None
    conversation_id: str | None = None
    created_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    #: W3C trace context that came in a CloudEvent's attributes, as headers (`traceparent`, `tracestate`).
    trace: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence or list item: `message.text[start:end]`, and `normalised`, the form that the model reads."""

    start: int
    end: int
    text: str
    normalised: str


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What the encoder gives for n texts: `embeddings` fp32 [n, dim], L2 norm 1; `p_unsafe` fp32 [n], calibrated."""

    embeddings: NDArray[np.float32]
    p_unsafe: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StatementScore:
    """All that policy needs to know of a statement; small enough to cache.

    `p_unsafe` is the probability that the statement speaks about a recommendation and contradicts it, `p_in_scope`
    that it speaks about one at all; `recommendation` is the id of the one that carries the verdict, `p_recommendation`
    how likely the statement speaks about it; `reason` says what was read that differs, where something was.
    """

    p_unsafe: float
    p_in_scope: float
    recommendation: str
    p_recommendation: float
    category: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The recommendation that a verdict rests on."""

    guideline: str
    version: str
    recommendation: str
    section: str
    text: str


@dataclass(frozen=True, slots=True)
class StatementVerdict:
    """The verdict of one statement. `score` is the calibrated probability that it is unsafe; 0 when not judged."""

    statement: Statement
    verdict: Verdict
    score: float
    category: str | None = None
    evidence: Evidence | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class MessageVerdict:
    """The verdict of one message: the gravest of its statements', with the highest score among those in scope."""

    message: Message
    verdict: Verdict
    score: float
    statements: tuple[StatementVerdict, ...]
    cached: int = 0

    def of(self, verdict: Verdict) -> tuple[StatementVerdict, ...]:
        """Return the statements that have this verdict, in text order."""
        return tuple(s for s in self.statements if s.verdict is verdict)
