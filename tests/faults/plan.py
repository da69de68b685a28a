"""What should go wrong inside a worker process, handed to it in its environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "GUARDLINE_FAULT_PLAN"


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts begin at 1 in each process; 0 means never.

    Attributes:
        pause: seconds that every batch of the null model takes.
        model_raises_every: every n-th batch raises instead of answering.
        agent_raises_at: the n-th chunk raises in the agent's body.
        clock_forward_at, clock_back_at: at the n-th batch the wall clock jumps an hour on, or two hours back.
        max_poll_interval: replaces the worker's (24 hours), in seconds.
    """

    pause: float = 0.0
    model_raises_every: int = 0
    agent_raises_at: int = 0
    clock_forward_at: int = 0
    clock_back_at: int = 0
    max_poll_interval: float = 0.0

    def environment(self) -> dict[str, str]:
        """Return the variable that carries the plan."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Plan:
        """Read the plan of this process."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))
