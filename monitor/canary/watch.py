"""What the topics say, gathered: canaries coming back, the share of flagged messages, their scores, and what follows.

Pure: records and times come in, alarms come out. Events of canaries count for the ledger and for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from monitor.alerts.reading import read_flag
from monitor.canary import metrics
from monitor.canary.alarms import Alarm, Name
from monitor.canary.backlog import PartitionBacklog
from monitor.canary.drift import DriftState, ScoreDrift
from monitor.canary.flag_rate import FlagRate, FlagRateState
from monitor.canary.identity import is_canary
from monitor.canary.ledger import CanaryLedger, Judgement
from monitor.errors import InvalidMessage
from monitor.records import ModelReference
from monitor.types import Verdict

#: Verdicts that come with a score.
_SCORED = (Verdict.UNSAFE, Verdict.REVIEW, Verdict.SAFE)
#: Flagged messages that are remembered: flags come at least once, and a message may have several.
_REMEMBERED = 100_000
#: Seconds for which flags that are not ours are told of.
_FOREIGN_SECONDS = 600.0
#: Seconds after the start in which canaries of the process before may still come back.
_HEIRS_SECONDS = 3600.0


class WatchState(BaseModel):
    """What a restart should not forget: figures, no content."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model: tuple[str, str] | None = None
    flag_rate: FlagRateState = FlagRateState()
    drift: DriftState | None = None
    verdicts: bool = False


class _Decided(BaseModel):
    """The part of a verdict record that is looked at; unknown fields pass, as its schema may gain some."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    message_id: str | None
    tenant: str | None
    verdict: Verdict
    score: float
    model: ModelReference


class Watch:
    """Watches the output of one consumer group."""

    def __init__(
        self, ledger: CanaryLedger, *, backlog_age: float, now: float, state: WatchState | None = None
    ) -> None:
        """Expect no record to wait longer than `backlog_age` seconds; begin at `now` or go on with `state`."""
        state = state or WatchState()
        self._ledger = ledger
        self._backlog_age = backlog_age
        self._model = state.model
        self._flag_rate = FlagRate(state.flag_rate)
        self._drift = ScoreDrift(now, state.drift)
        self._verdicts = state.verdicts
        self._committed: dict[int, int] | None = None
        self._backlog: Sequence[PartitionBacklog] = ()
        self._began = self._measured = now
        self._flagged: dict[str, None] = {}
        self._new = 0  # flagged messages since the last count
        self._canaries = 0  # canaries that were sent since then
        self._foreign: float | None = None

    @property
    def state(self) -> WatchState:
        """What to go on with after a restart."""
        return WatchState(
            model=self._model,
            flag_rate=self._flag_rate.state,
            drift=self._drift.state,
            verdicts=self._verdicts,
        )

    def sent(self, count: int) -> None:
        """Note that canaries were sent: they are not among the messages that are counted."""
        self._canaries += count

    def flag(self, value: bytes | None, now: float) -> Judgement | None:
        """Take a record of the topic of flags. What is none is passed over: `guardline alerts` reports it."""
        try:
            flag = read_flag(value)
        except InvalidMessage:
            return None
        self._use(flag.model, now)
        if is_canary(flag.tenant, flag.message_id):
            if self._ledger.knows(flag.message_id):
                return self._ledger.flag(flag.message_id, now)
            inherited = flag.received_at.timestamp() < self._began and now - self._began < _HEIRS_SECONDS
            if not inherited:
                metrics.FOREIGN.inc()
                self._foreign = now
            return None
        message = f"{flag.tenant or ''}\x1f{flag.message_id}"
        if message not in self._flagged:
            self._flagged[message] = None
            if len(self._flagged) > _REMEMBERED:
                del self._flagged[next(iter(self._flagged))]
            self._new += 1
            if not self._verdicts:
                self._drift.add(flag.score, now)
        return None

    def verdict(self, value: bytes | None, now: float) -> Judgement | None:
        """Take a record of the topic of verdicts; once there are any, the drift is theirs and not that of flags."""
        try:
            decided = _Decided.model_validate_json(value or b"")
        except ValidationError:
            return None
        self._use(decided.model, now)
        if is_canary(decided.tenant, decided.message_id):
            return self._ledger.verdict(str(decided.message_id), decided.verdict, now)
        if not self._verdicts:
            self._verdicts = True
            self._drift = ScoreDrift(now)
        if decided.verdict in _SCORED:
            self._drift.add(decided.score, now)
        return None

    def backlog(self, partitions: Sequence[PartitionBacklog], now: float) -> None:
        """Take what the broker says of the group; what it has committed since then are messages that were done with."""
        before, self._committed = self._committed, {p.partition: p.committed for p in partitions}
        self._backlog, self._measured = partitions, now
        if before is not None:  # else there were flags before this, and nobody knows of how many messages
            done = sum(max(p.committed - before.get(p.partition, p.committed), 0) for p in partitions)
            self._flag_rate.add(max(done - self._canaries, self._new), self._new)
        self._new = self._canaries = 0

    def _use(self, model: ModelReference, now: float) -> None:
        """Begin anew under another model: its rate and scores are its own."""
        reference = (model.name, model.version)
        if reference != self._model:
            if self._model is not None:
                self._flag_rate, self._drift = FlagRate(), ScoreDrift(now)
            self._model = reference

    def publish_metrics(self, now: float) -> None:
        """Set the gauges."""
        overdue: dict[int, int] = {}
        for sent in self._ledger.overdue(now):
            overdue[sent.partition] = overdue.get(sent.partition, 0) + 1
        for p in self._backlog:
            name = str(p.partition)
            metrics.BACKLOG.labels(name).set(p.records)
            metrics.BACKLOG_AGE.labels(name).set(p.age(self._measured))
            metrics.EXPIRED.labels(name).set(p.expired)
            metrics.OVERDUE.labels(name).set(overdue.get(p.partition, 0))
        metrics.FLAG_RATE.set(self._flag_rate.reference.rate)
        metrics.FLAG_PROBABILITY.set(self._flag_rate.probability)
        metrics.PSI.set(self._drift.psi)

    def alarms(self, now: float) -> Iterator[Alarm]:
        """Yield what is wrong now."""
        if overdue := self._ledger.overdue(now):
            longest, partitions = max(now - s.at for s in overdue), _listed({s.partition for s in overdue})
            detail = f"{len(overdue)} unsafe canaries have not come back as flags, the oldest for {longest:.0f} s"
            yield Alarm(Name.OVERDUE, f"{detail} (partitions {partitions})")
        if losing := self._ledger.losing:
            yield Alarm(Name.LOST, f"the last unsafe canaries of partitions {_listed(losing)} never came back as flags")
        if self._ledger.wrong:
            yield Alarm(Name.WRONG, f"{self._ledger.wrong} canaries are decided otherwise than they should be")
        if self._foreign is not None and now - self._foreign < _FOREIGN_SECONDS:
            yield Alarm(Name.FOREIGN, "flags are marked as canaries' that this process did not send")
        if late := [p for p in self._backlog if p.age(self._measured) > self._backlog_age]:
            waiting, age = sum(p.records for p in late), max(p.age(self._measured) for p in late)
            yield Alarm(Name.BACKLOG, f"{waiting} records wait to be screened, the oldest for {age:.0f} s")
        if expired := sum(p.expired for p in self._backlog):
            yield Alarm(Name.EXPIRED, f"{expired} records were deleted by retention before they were screened")
        if self._flag_rate.too_few:
            usual = self._flag_rate.reference.rate
            detail = f"fewer messages are flagged than the usual {usual:.2%}"
            yield Alarm(
                Name.FEW_FLAGS, f"{detail}: the probability of that by chance is {self._flag_rate.probability:.1g}"
            )
        if self._drift.drifted:
            yield Alarm(Name.DRIFT, f"scores have moved: PSI {self._drift.psi:.2f}, bound {self._drift.bound:.2f}")


def _listed(partitions: Sequence[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(partitions)))
