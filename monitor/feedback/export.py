"""Settled decisions as labelled statements, one JSON line each: what retraining learns from.

A row has the fields of a corpus row (`trainer.statements.corpus`), those by which `trainer.evaluation.reviews` finds a
statement again, and where the label comes from:

    id                "review-" and 32 hex digits of `statement_sha256`: the same in every export
    text              the statement as the reviewers saw it; null without `--with-text`, and where it is gone
    label             "unsafe" (accept, wrong_recommendation) or "safe" (reject)
    recommendation    id of the one that the label is against: the flag's, or the one that reviewers named
    category          the flag's; of a safe row, what it was wrongly flagged for
    difficulty        null: nobody measured it (the corpus reader wants one for unsafe rows: whoever mixes rows into a
                      corpus chooses it)
    parent            null: the row is a family of its own
    statement         12 hex digits of the SHA-256 of the normalised text, the key of `reviews`; null without text
    reviewer          "adjudicated"
    source            "review"
    decision          accept, reject, wrong_recommendation
    reviewers         how many made this decision
    dissenting        how many made another one, `unsure` among them
    decided_at        when the last of those who made it did (RFC 3339)
    flags             ids of the flags on this very statement that were settled so, the latest first
    message_id, tenant, start, end, statement_sha256, score, verdict     of the first flag
    model             {"name", "version"} that flagged it
    guideline         {"id", "version"}
    origin            {"topic", "partition", "offset"} of the message, or null

Rows are one a statement (by `statement_sha256`), oldest decision first. A statement that was settled as safe in one
place and as unsafe in another has no row: it is counted as conflicting. `unsure` and what is not settled give no row.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from monitor.errors import InvalidMessage
from monitor.feedback.adjudication import Outcome, Status, adjudicate, latest
from monitor.intake import parse
from monitor.records import Decision, FeedbackRecord, FlagRecord, Origin
from monitor.replay.reading import opened, record_at, topics_of
from monitor.settings import Settings
from monitor.text import normalise

_LABELS = {Decision.ACCEPT: "unsafe", Decision.WRONG_RECOMMENDATION: "unsafe", Decision.REJECT: "safe"}


@dataclass(frozen=True, slots=True)
class Settled:
    """A flag whose decision is settled: the records that made it, and how many reviewers decided otherwise."""

    flag: FlagRecord
    origin: Origin | None
    outcome: Outcome
    decided_at: datetime
    reviewers: int
    dissenting: int

    @property
    def label(self) -> str:
        """What the statement is by this decision: "safe" or "unsafe"."""
        return _LABELS[self.outcome.decision] if self.outcome.decision else ""


@dataclass(slots=True)
class Texts:
    """Statements that were found, by id of the flag; `missing` counts, by reason, those that were not."""

    found: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Export:
    """Rows, and the hashes of statements that were settled as safe and as unsafe."""

    rows: list[dict[str, Any]]
    conflicting: list[str]


def by_flag(decisions: Iterable[FeedbackRecord]) -> dict[str, list[FeedbackRecord]]:
    """Return the decisions on each flag, by its id."""
    result: dict[str, list[FeedbackRecord]] = defaultdict(list)
    for decision in decisions:
        result[decision.flag.id].append(decision)
    return dict(result)


def settled(decisions: Iterable[FeedbackRecord]) -> list[Settled]:
    """Return the flags whose decision is settled, in the order in which they were."""
    result = []
    for records in by_flag(decisions).values():
        outcome = adjudicate(records)
        if outcome.status is not Status.SETTLED:
            continue
        last = latest(records)
        made = [r for r in last if (r.decision, r.recommendation) == (outcome.decision, outcome.recommendation)]
        origin = next((r.origin for r in reversed(last) if r.origin is not None), None)
        flag = made[-1].flag
        result.append(Settled(flag, origin, outcome, made[-1].decided_at, len(made), len(last) - len(made)))
    return sorted(result, key=lambda s: (s.decided_at, s.flag.id))


def export(flags: Sequence[Settled], texts: Mapping[str, str]) -> Export:
    """Return a row for each statement, with the text where `texts` has that of one of its flags."""
    statements: dict[str, list[Settled]] = defaultdict(list)
    for one in flags:
        statements[one.flag.statement_sha256].append(one)
    conflicting = [digest for digest, own in statements.items() if len({one.label for one in own}) > 1]
    kept = [own[::-1] for digest, own in statements.items() if digest not in conflicting]
    return Export([_row(own, texts) for own in sorted(kept, key=lambda own: own[0].decided_at)], conflicting)


def _row(own: Sequence[Settled], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the row of a statement; `own` are its flags, the latest first."""
    first, flag = own[0], own[0].flag
    text = next((texts[one.flag.id] for one in own if one.flag.id in texts), None)
    evidence = flag.evidence
    return {
        "id": f"review-{flag.statement_sha256[:32]}",
        "text": text,
        "label": first.label,
        "recommendation": first.outcome.recommendation or evidence.recommendation,
        "category": flag.category,
        "difficulty": None,
        "parent": None,
        "statement": None if text is None else hashlib.sha256(normalise(text).encode()).hexdigest()[:12],
        "reviewer": "adjudicated",
        "source": "review",
        "decision": first.outcome.decision,
        "reviewers": first.reviewers,
        "dissenting": first.dissenting,
        "decided_at": first.decided_at.isoformat(),
        "flags": [one.flag.id for one in own],
        "message_id": flag.message_id,
        "tenant": flag.tenant,
        "start": flag.start,
        "end": flag.end,
        "statement_sha256": flag.statement_sha256,
        "score": flag.score,
        "verdict": flag.verdict,
        "model": flag.model.model_dump(),
        "guideline": {"id": evidence.guideline, "version": evidence.version},
        "origin": first.origin.model_dump() if first.origin else None,
    }


async def read_texts(settings: Settings, flags: Sequence[Settled], advance: Callable[[int, int], object]) -> Texts:
    """Return the statements behind flags: of the flag where it carries one, else of the message in the input topic.

    A text whose hash is not the flag's is not taken. `advance` is told how many flags were looked at, and of how many.

    Raises:
        GuardlineError: the broker does not answer, or refuses this client.
    """
    texts = Texts()
    known = {p for partitions in (await topics_of(settings)).values() for p in partitions}
    async with opened(settings) as consumer:
        for number, one in enumerate(flags, 1):
            text = one.flag.statement
            if text is None:
                text = await _original(settings, consumer, known, one, texts.missing)
            if text is not None:
                if hashlib.sha256(text.encode()).hexdigest() == one.flag.statement_sha256:
                    texts.found[one.flag.id] = text
                else:
                    texts.missing["the text there is another one"] += 1
            advance(number, len(flags))
    return texts


async def _original(
    settings: Settings,
    consumer: AIOKafkaConsumer,
    known: Iterable[TopicPartition],
    one: Settled,
    missing: Counter[str],
) -> str | None:
    origin = one.origin
    if origin is None:
        missing["the flag does not say where its message is"] += 1
        return None
    partition = TopicPartition(origin.topic, origin.partition)
    # Anyone may have written what a decision says of the origin: nothing but inputs is read.
    if origin.topic != settings.topic_outputs or partition not in known:
        missing["the message is not in GUARDLINE_TOPIC_OUTPUTS"] += 1
        return None
    record = await record_at(consumer, partition, origin.offset)
    if record is None:
        missing["the message is gone, by the topic's retention"] += 1
        return None
    try:
        message = parse(record.value, record.headers, origin=f"{record.topic}-{record.partition}-{record.offset}")
    except InvalidMessage:
        missing["the record there is no message"] += 1
        return None
    return message.text[one.flag.start : one.flag.end]
