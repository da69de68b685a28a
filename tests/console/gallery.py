"""Two weeks of flags and decisions, made from the corpus of whole answers, for the trends page and the pictures.

Drawn with a fixed seed; times count back from now, because the console forgets what is old.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from monitor.console.deciding import feedback_event
from monitor.records import Decision, FeedbackRecord, FlagRecord, event_id
from monitor.segmentation import segment
from monitor.types import Message, StatementVerdict
from tests.console.stage import THRESHOLDS, Published, Scene
from trainer.guideline.guidelines import DEFAULT_PACK, Pack
from trainer.statements.corpus import load_answers

_DAYS = 14
_TENANTS = ("riverside", "st-anna", "medchat")
_WRITERS = ("gpt-4o-mini", "gpt-4o-mini", "deepseek-chat")
_REVIEWERS = ("anna", "ben", "cara")
#: Of the answers, which come to the console: those with an error, and safe ones that are flagged wrongly.
_ERRORS, _FALSE = 120, 34
#: The corpus' finer categories by those of the model.
_CATEGORIES = {
    "stale_advice": "outdated",
    "special_population": "population",
    "severity_stage": "severity",
    "administration": "route",
    "safety": "monitoring",
    "preparation": "route",
    "prophylaxis": "indication",
    "choice": "indication",
}


def _statements(scene: Scene, row: dict[str, Any], rng: random.Random) -> list[StatementVerdict]:
    text, known = row["text"], [r.id for r in scene.package.manifest.recommendations]
    if not row["spans"]:
        longest = max(segment(text), key=lambda s: s.end - s.start)
        score = THRESHOLDS.review + rng.random() ** 1.4 * (0.93 - THRESHOLDS.review)
        wrong = rng.choice([id_ for id_ in known if id_.startswith(("2", "3"))])
        span = (longest.start, longest.end)
        return [
            scene.statement(
                text, span, score=score, category=rng.choice(["dose", "timing", "population"]), recommendation=wrong
            )
        ]
    return [
        scene.statement(
            text,
            (span["start"], span["end"]),
            score=1 - rng.random() ** 1.5 * (1 - THRESHOLDS.review),
            category=_CATEGORIES.get(span["category"], span["category"]),
            recommendation=span["recommendation"],
        )
        for span in row["spans"]
        if span["recommendation"] in known
    ]


async def publish_gallery(scene: Scene) -> list[Published]:
    """Publish messages and flags of two weeks."""
    rng = random.Random(7)
    rows = load_answers(Pack.load(DEFAULT_PACK).corpus)
    chosen = [row for row in rows if row["spans"]][:_ERRORS] + [row for row in rows if row["label"] == "safe"][:_FALSE]
    rng.shuffle(chosen)
    messages = [
        (
            Message(row["id"], row["text"], rng.choice(_TENANTS), rng.choice(_WRITERS), None),
            _statements(scene, row, rng),
        )
        for row in chosen
    ]
    now = datetime.now(UTC)
    # More on weekdays, and none in the future.
    received = sorted(now - timedelta(days=_DAYS * rng.random() ** 1.2, minutes=5) for _ in messages)
    return await scene.publish(messages, received=received)


async def publish_decisions(
    scene: Scene, published: Sequence[Published], *, undecided: Sequence[str] = ()
) -> list[FeedbackRecord]:
    """Publish what three reviewers said of most flags; those of the messages `undecided` are left alone."""
    rng = random.Random(11)
    records: list[FeedbackRecord] = []
    for message in published:
        if message.message.id in undecided:
            continue
        for flag in message.flags:
            wrongly = flag.category in ("timing", "dose", "population") and flag.score < 0.85
            first, second, third = rng.sample(_REVIEWERS, 3)
            said = [Decision.REJECT if wrongly and rng.random() < 0.7 else Decision.ACCEPT]
            if rng.random() < 0.62:
                said.append(said[0] if rng.random() < 0.86 else rng.choice([Decision.UNSURE, Decision.REJECT]))
            if len(said) == 2 and said[0] != said[1] and rng.random() < 0.5:
                said.append(Decision.ACCEPT)
            if rng.random() < 0.18:
                continue
            for minute, (reviewer, decision) in enumerate(zip((first, second, third), said, strict=False)):
                records.append(_decision(flag, reviewer, decision, minute))
    await scene.send([feedback_event(record, scene.names["feedback"]) for record in records])
    return records


def _decision(flag: FlagRecord, reviewer: str, decision: Decision, minute: int) -> FeedbackRecord:
    when = flag.received_at + timedelta(minutes=30 + 40 * minute)
    return FeedbackRecord(
        id=event_id(flag.id, reviewer, when), flag=flag, reviewer=reviewer, decision=decision, decided_at=when
    )
