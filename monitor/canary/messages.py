"""Which canaries are sent, and the records that carry them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.canary.identity import PREFIX, TENANT
from monitor.canary.ledger import Canary, Sent
from monitor.errors import ConfigurationError
from monitor.factory import build_thresholds
from monitor.package import ModelPackage
from monitor.publisher import Event
from monitor.records import OutputRecord
from monitor.settings import Settings
from monitor.types import Verdict

_USABLE = (Verdict.UNSAFE, Verdict.SAFE, Verdict.OUT_OF_SCOPE)


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    text: str = Field(min_length=1)
    verdict: Verdict


def from_package(package: ModelPackage, settings: Settings) -> list[Canary]:
    """Return the canaries that a package carries.

    Raises:
        ConfigurationError: it carries none, or the settings ask for other decisions than the package's own, for which
            nobody has said what they should be.
    """
    exported = package.thresholds(verified=True)
    verified = settings.verify or package.manifest.verifier is None
    if not verified or build_thresholds(settings, package) != exported:
        raise ConfigurationError(
            "the package's canaries say what it decides with its own thresholds and its verifier, and the settings ask "
            "for others: give --messages with texts and the verdicts that they get"
        )
    return _checked([Canary(c.text, c.verdict) for c in package.manifest.canaries], str(package.path))


def from_file(path: Path) -> list[Canary]:
    """Return the canaries of a file with one `{"text", "verdict"}` a line.

    Raises:
        ConfigurationError: it cannot be read or is wrong; the message says in which line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: give --messages") from error
    canaries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = _Line.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the line"
            raise ConfigurationError(f"{path}, line {number}: {where}: {problem['msg']}") from error
        canaries.append(Canary(found.text, found.verdict))
    return _checked(canaries, str(path))


def _checked(canaries: Sequence[Canary], where: str) -> list[Canary]:
    usable = [canary for canary in canaries if canary.verdict in _USABLE]
    if not any(canary.flagged for canary in usable) or all(canary.flagged for canary in usable):
        raise ConfigurationError(
            f"{where}: canaries of both kinds are needed, unsafe ones and safe or out-of-scope ones: export the "
            "package again, or give --messages"
        )
    return usable


class Rounds:
    """Deals canaries: in each round an unsafe one and one that is not, to every partition, so that none is left out."""

    def __init__(self, canaries: Sequence[Canary]) -> None:
        self._unsafe = cycle([canary for canary in canaries if canary.flagged])
        self._others = cycle([canary for canary in canaries if not canary.flagged])

    def deal(self, partitions: Sequence[int], now: float) -> Iterator[Sent]:
        """Yield the canaries of a round, with ids that nobody has used."""
        for partition in partitions:
            for canary in (next(self._unsafe), next(self._others)):
                yield Sent(f"{PREFIX}{secrets.token_hex(8)}", canary, partition, now)


def event_of(sent: Sent, topic: str) -> Event:
    """Return the record that carries a canary."""
    record = OutputRecord(id=sent.id, text=sent.canary.text, tenant=TENANT)
    return Event(topic, None, record.model_dump_json().encode(), partition=sent.partition)
