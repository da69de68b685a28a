"""An audit trail that stays in this process."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from monitor.records import ActionRecord, Detail
from tests.audit.logs import START


class MemoryTrail:
    """A `monitor.audit.trail.AuditTrail` that keeps actions in a list."""

    def __init__(self) -> None:
        self.actions: list[ActionRecord] = []

    async def record(self, kind: str, *, actor: str, subject: str, details: Mapping[str, Detail] | None = None) -> None:
        self.actions.append(
            ActionRecord(id=uuid4().hex, kind=kind, actor=actor, subject=subject, details=dict(details or {}), at=START)
        )
