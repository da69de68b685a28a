"""One record of `safety.flags` or `safety.review` as a flag.

The topics' schemas only ever gain fields, so unknown ones pass: a monitor may be newer than its alert consumers.
"""

from __future__ import annotations

from pydantic import ConfigDict, ValidationError

from monitor.errors import InvalidMessage
from monitor.intake.problems import first_problem
from monitor.records import EvidenceRecord, FlagRecord, ModelReference, Thresholds

_LENIENT = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Evidence(EvidenceRecord):
    model_config = _LENIENT


class _Model(ModelReference):
    model_config = _LENIENT


class _Thresholds(Thresholds):
    model_config = _LENIENT


class LenientFlag(FlagRecord):
    """A flag that may have fields of a newer monitor."""

    model_config = _LENIENT
    evidence: _Evidence
    model: _Model
    thresholds: _Thresholds


def read_flag(value: bytes | None) -> FlagRecord:
    """Return the flag in a record's value.

    Raises:
        InvalidMessage: it holds none; reason and detail repeat nothing of it.
    """
    if value is None:
        raise InvalidMessage("empty", "the record has no value")
    try:
        return LenientFlag.model_validate_json(value)
    except ValidationError as error:
        raise first_problem(error) from error
