"""Messages in, verdicts out: the heart of the monitor, without a broker.

Per call: segment every message, let the scope gate dismiss what cannot concern the guideline (and `medicines` what is
about other medicines), give each statement the
context that it lacks and set aside what its author does not assert (`context`), look up what was scored before, score
the rest of all messages together, remember it, and let `policy` decide. The store that it needs is declared here;
`redis_store` and `memory` satisfy it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import orjson
import structlog

from monitor import metrics
from monitor.assertion import Stance
from monitor.assessment import Assessment
from monitor.canary.identity import is_canary
from monitor.context import Reading, read
from monitor.errors import StoreUnavailable
from monitor.medicines import Topic
from monitor.package import ModelPackage
from monitor.policy import gravest, judge
from monitor.records import ModelReference, Thresholds
from monitor.scope import ScopeGate
from monitor.segmentation import segment
from monitor.types import Message, MessageVerdict, Statement, StatementScore, StatementVerdict, Verdict

_log = structlog.get_logger(__name__)
#: Above this many characters a batch is prepared in a thread, so that one huge message does not stop the event loop.
_LONG = 100_000
#: Statements looked up and scored at once.
_SLICE = 2048


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A message and its statements, with what the models read of each: None where its verdict is `fixed` before."""

    message: Message
    statements: list[Statement]
    readings: list[Reading | None]
    fixed: list[Verdict | None]


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
        #: Whether it decides as the package did at its export: by the same models, at the package's own thresholds.
        self.as_exported = (assessment.path == "verified") == (manifest.combination is not None) and (
            self.thresholds == package.thresholds(verified=True)
        )
        self._assessment = assessment
        self._store = store
        self._gate = ScopeGate(manifest.scope.terms, manifest.scope.language)
        self._topic = Topic(
            manifest.guideline.treatment,
            manifest.scope.names,
            manifest.scope.language,
            [*(r.text for r in manifest.recommendations), *manifest.scope.terms],
        )
        self._terms = manifest.scope.terms
        self._name = manifest.guideline.treatment
        self._names = manifest.scope.names

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
        return {text: self._explained(text, score) for text, score in remembered.items() if score is not None}

    def _explained(self, text: str, score: StatementScore) -> StatementScore:
        """Return a remembered score with its reason, which is read again where a verdict will show it."""
        if judge(score, self.thresholds) not in (Verdict.UNSAFE, Verdict.REVIEW):
            return score
        return replace(score, reason=self._assessment.reason(score.recommendation, text))

    async def _remember(self, scores: Mapping[str, StatementScore]) -> None:
        try:
            # Without the reason, which quotes the statement: no store holds message text.
            values = {text: orjson.dumps(asdict(score) | {"reason": None}) for text, score in scores.items()}
            await self._store.put({self._key(text): value for text, value in values.items()})
        except StoreUnavailable:
            metrics.STORE_FAILURES.inc()  # the read before has already said so in the log

    async def _score(self, texts: Sequence[str], afresh: Set[str]) -> tuple[dict[str, StatementScore], set[str]]:
        """Return the score of each distinct text, and which of them were remembered; those of `afresh` never are.

        In slices, so that a huge message neither fills memory with embeddings nor loses all its work when the scorer
        goes away near the end.
        """
        scores: dict[str, StatementScore] = {}
        cached: set[str] = set()
        for start in range(0, len(texts), _SLICE):
            part = texts[start : start + _SLICE]
            known = await self._remembered([text for text in part if text not in afresh])
            cached |= known.keys()
            missing = [text for text in part if text not in known]
            if missing:
                fresh = dict(zip(missing, await self._assessment.assess(missing), strict=True))
                await self._remember(fresh)
                known |= fresh
            scores |= known
        return scores, cached

    def _verdict(self, statement: Statement, score: StatementScore, stance: Stance) -> StatementVerdict:
        """Return the verdict of a statement that was scored."""
        verdict = judge(score, self.thresholds)
        if verdict is Verdict.OUT_OF_SCOPE:
            return StatementVerdict(statement, verdict, 0.0)
        if verdict is Verdict.UNSAFE and stance is Stance.REPORTED:
            verdict = Verdict.REVIEW  # what others say, neither endorsed nor rejected, is for people to judge
        evidence = self._assessment.evidence(score.recommendation)
        # What differs in the wording of a statement that was found safe explains nothing.
        reason = score.reason if verdict in (Verdict.UNSAFE, Verdict.REVIEW) else None
        return StatementVerdict(statement, verdict, score.p_unsafe, score.category, evidence, reason)

    def _prepare(self, messages: Sequence[Message]) -> list[_Prepared]:
        """Return each message with what is to be scored of it, and what is decided without."""
        return [self._prepare_one(message) for message in messages]

    def _prepare_one(self, message: Message) -> _Prepared:
        statements = segment(message.text)
        # Statement by statement: one pass of a regular expression over megabytes would hold the interpreter for
        # seconds, and the worker's heartbeat with it.
        texts = [statement.normalised for statement in statements]
        if not any(map(self._gate.concerns, texts)) or self._topic.elsewhere(texts):
            return _Prepared(message, statements, [None] * len(statements), [Verdict.OUT_OF_SCOPE] * len(statements))
        readings: list[Reading | None] = []
        fixed: list[Verdict | None] = []
        for statement, reading in zip(
            statements, read(message.text, statements, self._terms, self._name, self._names), strict=True
        ):
            verdict = None
            if self._gate.foreign(statement.normalised):
                verdict = Verdict.ABSTAIN
            elif not reading.stance.judged or self._gate.is_fragment(reading.text):
                verdict = Verdict.OUT_OF_SCOPE
            readings.append(reading if verdict is None else None)
            fixed.append(verdict)
        return _Prepared(message, statements, readings, fixed)

    async def screen(self, messages: Sequence[Message]) -> list[MessageVerdict]:
        """Return one verdict per message, in order.

        Raises:
            ScorerUnavailable: nothing was decided; try the same messages again.
        """
        if sum(len(message.text) for message in messages) > _LONG:
            prepared = await asyncio.to_thread(self._prepare, messages)
        else:
            prepared = self._prepare(messages)
        texts = list(dict.fromkeys(reading.text for own in prepared for reading in own.readings if reading))
        # A remembered score would say nothing of the model that a canary is to try.
        canaries = [own for own in prepared if is_canary(own.message.tenant, own.message.id)]
        afresh = {reading.text for own in canaries for reading in own.readings if reading}
        scores, cached = await self._score(texts, afresh)
        verdicts = []
        for own in prepared:
            judged = tuple(
                self._verdict(statement, scores[reading.text], reading.stance)
                if reading
                else StatementVerdict(statement, verdict or Verdict.OUT_OF_SCOPE, 0.0)
                for statement, reading, verdict in zip(own.statements, own.readings, own.fixed, strict=True)
            )
            hits = sum(reading.text in cached for reading in own.readings if reading)
            verdicts.append(MessageVerdict(own.message, *gravest(judged), judged, cached=hits))
        return verdicts

    async def close(self) -> None:
        """Release the models; the store belongs to whoever made it."""
        await self._assessment.close()
