"""A producer that keeps what it is given, for tests of what finds the answer; sending is tested on brokers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.producers import Outcome, OutputProducer
from monitor.settings import Settings


class Recorder(OutputProducer):
    """Checks and encodes as the real one does; keeps the arguments in place of sending."""

    def __init__(self) -> None:
        super().__init__(Settings(_env_file=None))
        self.answers: list[dict[str, Any]] = []

    def publish(self, **answer: Any) -> bool:
        before = self.counts
        super().publish(**answer)
        if self.counts == before:
            self.answers.append({name: value for name, value in answer.items() if value is not None})
        return self.counts == before

    def _enqueue(self, *_: object) -> bool:
        return True

    @property
    def unreadables(self) -> int:
        return self.counts.get(Outcome.UNREADABLE, 0)

    @property
    def only(self) -> Mapping[str, Any]:
        assert len(self.answers) == 1, self.answers
        return self.answers[0]
