"""What became of the answers, for the platform's own `/metrics`."""

from __future__ import annotations

from monitor.instruments import Counter

ANSWERS = Counter(
    "guardline_producer_answers_total",
    "Answers given to Guardline's producer, by what became of them; all but delivered and empty are not screened.",
    ["outcome"],
)
