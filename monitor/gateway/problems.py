"""What is wrong with a request, as `application/problem+json` (RFC 9457): nothing of its content is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web

from monitor.errors import InvalidMessage


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one record; `index` counts the records of the request from 0."""

    index: int
    reason: str
    detail: str

    @classmethod
    def of(cls, index: int, error: InvalidMessage) -> Fault:
        """Return what the monitor's intake says of a record."""
        return cls(index, error.reason, error.detail)


class Refused(Exception):
    """A request that is not accepted."""

    def __init__(
        self,
        status: HTTPStatus,
        reason: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        retry_after: int | None = None,
    ) -> None:
        """Refuse with a status, a stable slug, a sentence for people, and when to come back, in seconds."""
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail
        self.faults = faults
        self.retry_after = retry_after


#: More than a person would read; the count says how many there are.
_MOST_FAULTS = 20


def unreadable(faults: Sequence[Fault], records: int) -> Refused:
    """Return the refusal of a request because of its records."""
    too_large = all(fault.reason == "record_too_large" for fault in faults)
    first = faults[0]
    what = (
        first.detail
        if records == 1
        else f"{len(faults)} of {records} records, first number {first.index}: {first.detail}"
    )
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
    return Refused(status, first.reason, f"nothing was accepted: {what}", faults=faults)


def response(refused: Refused) -> web.Response:
    """Return the answer to a refused request."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": refused.status.phrase,
        "status": refused.status.value,
        "detail": refused.detail,
        "reason": refused.reason,
    }
    if refused.faults:
        body["errors"] = [
            {"index": fault.index, "reason": fault.reason, "detail": fault.detail}
            for fault in refused.faults[:_MOST_FAULTS]
        ]
    headers = {"Content-Type": "application/problem+json"}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    if refused.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=refused.status, body=orjson.dumps(body), headers=headers)
