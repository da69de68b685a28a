"""Compute the verdict behind a flag again, from the message and the model package that the log names.

It goes the monitor's own path (`monitor.screening`), in this process, at the thresholds of the entry. On the same CPU
with the same ONNX Runtime a graph gives the same numbers; graphs of eight bits run their rows one by one, so that what
else was scored in that moment has no part in it (`monitor.onnx_scorer`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from monitor.audit.chain import ChainBroken, read_entry
from monitor.audit.log import AuditLog
from monitor.errors import ConfigurationError, GuardlineError, InvalidMessage, ModelMismatch
from monitor.factory import build_assessment, build_pointer
from monitor.intake import parse
from monitor.memory import MemoryStore
from monitor.models.pointer import Alias
from monitor.package import ModelPackage
from monitor.records import ModelReference, Origin, Thresholds
from monitor.replay.reading import opened, record_at, topics_of
from monitor.screening import Screening
from monitor.settings import Settings
from monitor.text import well_formed
from monitor.types import Message, StatementVerdict

#: What must be the same, in the order in which it is shown.
COMPARED = ("verdict", "score", "category", "recommendation", "start", "end", "statement_sha256")
_FLAGS = ("flag", "review")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What was recorded of a flag and what comes out now; `recomputed` is None where no such statement is found."""

    flag: str
    model: ModelReference
    thresholds: Thresholds
    recorded: Mapping[str, Any]
    recomputed: Mapping[str, Any] | None

    @property
    def differences(self) -> list[str]:
        """The names of what is not the same."""
        if self.recomputed is None:
            return list(COMPARED)
        return [name for name in COMPARED if self.recorded[name] != self.recomputed[name]]

    @property
    def identical(self) -> bool:
        """Whether all of it is the same, the score to its last digit."""
        return not self.differences


async def find(log: AuditLog, flag: str, *, advance: Callable[[int], object]) -> dict[str, Any]:
    """Return the details of a flag's entry; `advance` is told how many more entries were looked at.

    Raises:
        ConfigurationError: the log has no such flag.
        GuardlineError: the entry was changed.
    """
    wanted = flag.encode()
    async for lines in log.read():
        for line in lines:
            if wanted not in line.value:
                continue
            try:
                entry = read_entry(line.value)
            except ChainBroken as error:
                raise GuardlineError(f"{line.place}: {error}: `guardline audit verify` says more") from error
            if entry["kind"] in _FLAGS and entry["subject"] == flag:
                details: dict[str, Any] = entry["details"]
                return details
        advance(len(lines))
    raise ConfigurationError(f"no flag {flag} in this log: is the id whole, and `guardline audit record` up to date?")


async def _candidates(settings: Settings) -> AsyncIterator[Path]:
    yield settings.model
    pointer = build_pointer(settings)
    if pointer is None:
        return
    try:
        for alias in Alias:
            for choice in await pointer.history(alias):
                yield choice.path
    finally:
        await pointer.close()


async def find_package(settings: Settings, reference: ModelReference, path: Path | None) -> ModelPackage:
    """Return the package that gave a verdict: at `path`, else the settings' or one of those that were promoted.

    Raises:
        ConfigurationError: it is not there.
        ModelMismatch: `path` holds none that can be used.
        StoreUnavailable: what was promoted cannot be read now.
    """
    if path is not None:
        package = ModelPackage.load(path)
        if package.reference != reference:
            own = package.reference
            raise ConfigurationError(
                f"{path} is {own.name} {own.version}, and the flag is of {reference.name} {reference.version}"
            )
        return package
    async for candidate in _candidates(settings):
        try:
            package = ModelPackage.load(candidate)
        except (ConfigurationError, ModelMismatch):
            continue
        if package.reference == reference:
            return package
    raise ConfigurationError(
        f"no package {reference.name} {reference.version} in use or promoted before: say where it is with --model"
    )


def read_message(content: bytes, message_id: str) -> Message:
    """Return the message in a file: a record as the input topic takes it, or the bare text.

    Raises:
        InvalidMessage: it is neither.
    """
    if content.lstrip()[:1] == b"{":
        return parse(content, origin=message_id)
    try:
        return Message(id=message_id, text=well_formed(content.decode()))
    except UnicodeDecodeError as error:
        raise InvalidMessage("not_utf8", "the text is not UTF-8") from error


async def fetch_message(settings: Settings, origin: Mapping[str, Any] | None) -> Message:
    """Return the message at its place in the input topic.

    Raises:
        ConfigurationError: it is not known where it is, it is not of the input topic, or it is gone.
        GuardlineError: the broker does not answer, or what lies there is no message.
    """
    if origin is None:
        raise ConfigurationError("the flag does not say where its message is: give the message with --message FILE")
    place = Origin.model_validate(origin)
    partition = TopicPartition(place.topic, place.partition)
    if place.topic != settings.topic_outputs or partition not in (await topics_of(settings)).get(place.topic, []):
        raise ConfigurationError(
            f"the message is in {place.topic}/{place.partition}, which is not of GUARDLINE_TOPIC_OUTPUTS "
            f"({settings.topic_outputs}): set it, or give the message with --message FILE"
        )
    async with opened(settings) as consumer:
        record = await record_at(consumer, partition, place.offset)
    if record is None:
        raise ConfigurationError(
            f"{place.topic}/{place.partition}:{place.offset} is gone from the broker, by the topic's retention: give "
            "the message with --message FILE"
        )
    return message_of(record)


def message_of(record: ConsumerRecord) -> Message:
    """Return the message in a record of the input topic.

    Raises:
        InvalidMessage: it holds none.
    """
    return parse(record.value, record.headers, origin=f"{record.topic}-{record.partition}-{record.offset}")


def _verified(package: ModelPackage, thresholds: Thresholds, settings: Settings) -> bool:
    """Tell whether the verifier read for this verdict: no setting moves `in_scope`, and each path has its own."""
    both = {verified: package.thresholds(verified=verified).in_scope for verified in (True, False)}
    matching = [verified for verified, in_scope in both.items() if in_scope == thresholds.in_scope]
    return matching[0] if len(matching) == 1 else settings.verify


async def reproduce(
    flag: str, details: Mapping[str, Any], package: ModelPackage, message: Message, settings: Settings
) -> Reproduction:
    """Judge the message again and compare the statement that was flagged.

    Raises:
        ModelMismatch, ScorerFailed: the package cannot be used here.
    """
    thresholds = Thresholds.model_validate(details["thresholds"])
    verify = _verified(package, thresholds, settings)
    own = settings.model_copy(update={"scorer": "onnx", "verify": verify})
    screening = Screening(
        package, assessment=build_assessment(own, package), store=MemoryStore(), thresholds=thresholds
    )
    try:
        verdict = (await screening.screen([message]))[0]
    finally:
        await screening.close()
    return Reproduction(
        flag=flag,
        model=package.reference,
        thresholds=thresholds,
        recorded={name: details[name] for name in COMPARED},
        recomputed=_recomputed(verdict.statements, details["start"], details["end"]),
    )


def _recomputed(statements: Iterable[StatementVerdict], start: int, end: int) -> dict[str, Any] | None:
    for judged in statements:
        span = judged.statement
        if (span.start, span.end) == (start, end):
            return {
                "verdict": judged.verdict.value,
                "score": round(judged.score, 6),
                "category": judged.category,
                "recommendation": judged.evidence.recommendation if judged.evidence else None,
                "start": span.start,
                "end": span.end,
                "statement_sha256": hashlib.sha256(span.text.encode()).hexdigest(),
            }
    return None
