"""Messages in, verdicts out: the heart of the monitor, without a broker.

Per call: normalise and segment every message, let the scope gate dismiss what cannot concern the guideline, look up
the statements that were scored before, score the rest of all messages together, remember them, and let `policy`
decide. The store that it needs is declared here; `redis_store` and `memory` satisfy it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

import orjson
import structlog

from monitor import metrics
from monitor.assessment import Assessment
from monitor.errors import StoreUnavailable
from monitor.package import ModelPackage
from monitor.policy import gravest, judge
from monitor.records import ModelReference, Thresholds
from monitor.scope import ScopeGate
from monitor.segmentation import segment
from monitor.text import normalise
from monitor.types import Message, MessageVerdict, Statement, StatementScore, StatementVerdict, Verdict

_log = structlog.get_logger(__name__)
#: Above this many characters a batch is prepared in a thread, so that one huge message does not stop the event loop.
_LONG = 100_000
#: Statements looked up and scored at once.
_SLICE = 2048

_Prepared = tuple[Message, list[Statement], Verdict | None]


class VerdictStore(Protocol):
    """Remembers scores and finished events. Fails open: `StoreUnavailable` costs time and repeats, nothing else."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none."""
        ...

    async def put(self, values: Mapping[str, bytes]) -> None:
        """Remember values until they expire."""
        ...

    async def close(self) -> None:
        """Release what the store holds."""
        ...


def _decoded(value: bytes | None) -> StatementScore | None:
    """Return a remembered score; None where there is none, or one that another version wrote differently."""
    if value is None:
        return None
    try:
        return StatementScore(**orjson.loads(value))
    except (TypeError, ValueError):
        return None


class Screening:
    """Screens batches of messages with one model package."""

    def __init__(
        self,
        package: ModelPackage,
        *,
        assessment: Assessment,
        store: VerdictStore,
        thresholds: Thresholds | None = None,
    ) -> None:
        manifest = package.manifest
        self.model: ModelReference = package.reference
        self.thresholds = thresholds or package.thresholds(verified=assessment.path == "verified")
        self._assessment = assessment
        self._store = store
        self._gate = ScopeGate(manifest.scope.terms, manifest.scope.language)

    def _key(self, normalised: str) -> str:
        digest = hashlib.sha256(normalised.encode()).hexdigest()[:32]
        return f"score:{self.model.name}@{self.model.version}:{self._assessment.path}:{digest}"

    async def _remembered(self, texts: Sequence[str]) -> dict[str, StatementScore]:
        try:
            values = await self._store.get([self._key(text) for text in texts])
        except StoreUnavailable as error:
            metrics.STORE_FAILURES.inc()
            _log.warning("store_unavailable", action="scoring without cache", error=str(error))
            return {}
        remembered = {text: _decoded(value) for text, value in zip(texts, values, strict=True)}
        return {text: score for text, score in remembered.items() if score is not None}

    async def _remember(self, scores: Mapping[str, StatementScore]) -> None:
        try:
            await self._store.put({self._key(text): orjson.dumps(asdict(score)) for text, score in scores.items()})
        except StoreUnavailable:
            metrics.STORE_FAILURES.inc()  # the read before has already said so in the log

    async def _score(self, texts: Sequence[str]) -> tuple[dict[str, StatementScore], set[str]]:
        """Return the score of each distinct text, and which of them were remembered.

        In slices, so that a huge message neither fills memory with embeddings nor loses all its work when the scorer
        goes away near the end.
        """
        scores: dict[str, StatementScore] = {}
        cached: set[str] = set()
        for start in range(0, len(texts), _SLICE):
            part = texts[start : start + _SLICE]
            known = await self._remembered(part)
            cached |= known.keys()
            missing = [text for text in part if text not in known]
            if missing:
                fresh = dict(zip(missing, await self._assessment.assess(missing), strict=True))
                await self._remember(fresh)
                known |= fresh
            scores |= known
        return scores, cached

    def _verdict(self, statement: Statement, score: StatementScore | None) -> StatementVerdict:
        """Return the verdict of a statement; one that was not scored is a fragment."""
        if score is None:
            return StatementVerdict(statement, Verdict.OUT_OF_SCOPE, 0.0)
        verdict = judge(score, self.thresholds)
        if verdict is Verdict.OUT_OF_SCOPE:
            return StatementVerdict(statement, verdict, 0.0)
        evidence = self._assessment.evidence(score.recommendation)
        # What differs in the wording of a statement that was found safe explains nothing.
        reason = score.reason if verdict in (Verdict.UNSAFE, Verdict.REVIEW) else None
        return StatementVerdict(statement, verdict, score.p_unsafe, score.category, evidence, reason)

    def _prepare(self, messages: Sequence[Message]) -> list[_Prepared]:
        """Return each message with its statements and the verdict of the scope gate, None where it lets pass."""
        prepared: list[_Prepared] = []
        for message in messages:
            normalised = normalise(message.text)
            verdict = None
            if not self._gate.concerns(normalised):
                verdict = Verdict.OUT_OF_SCOPE
            elif self._gate.foreign(normalised):
                verdict = Verdict.ABSTAIN
            prepared.append((message, segment(message.text), verdict))
        return prepared

    async def screen(self, messages: Sequence[Message]) -> list[MessageVerdict]:
        """Return one verdict per message, in order.

        Raises:
            ScorerUnavailable: nothing was decided; try the same messages again.
        """
        if sum(len(message.text) for message in messages) > _LONG:
            gated = await asyncio.to_thread(self._prepare, messages)
        else:
            gated = self._prepare(messages)
        distinct = dict.fromkeys(s.normalised for _, statements, v in gated if v is None for s in statements)
        texts = [text for text in distinct if not self._gate.is_fragment(text)]
        scores, cached = await self._score(texts)
        verdicts = []
        for message, statements, fixed in gated:
            if fixed is None:
                judged = tuple(self._verdict(s, scores.get(s.normalised)) for s in statements)
            else:
                judged = tuple(StatementVerdict(s, fixed, 0.0) for s in statements)
            hits = sum(s.normalised in cached for s in statements) if fixed is None else 0
            verdicts.append(MessageVerdict(message, *gravest(judged), judged, cached=hits))
        return verdicts

    async def close(self) -> None:
        """Release the models; the store belongs to whoever made it."""
        await self._assessment.close()
