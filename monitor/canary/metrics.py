"""Prometheus metrics of `guardline canary`, in the manner of `monitor.metrics`. Times in seconds."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from monitor.canary.ledger import Outcome

SENT = Counter("guardline_canary_sent_total", "Canaries published, by the verdict that they should get.", ["verdict"])
OUTCOMES = Counter(
    "guardline_canary_outcomes_total", "Canaries that are done with: ok, late, lost, wrong.", ["outcome"]
)
for _outcome in Outcome:
    OUTCOMES.labels(_outcome.value)  # a series that begins at 1 has not increased, by Prometheus' reckoning
RETURN_SECONDS = Histogram(
    "guardline_canary_return_seconds",
    "From handing an unsafe canary to the broker to reading its flag.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
OVERDUE = Gauge("guardline_canary_overdue", "Unsafe canaries that should be back.", ["partition"])
FOREIGN = Counter("guardline_canary_foreign_total", "Flags marked as canaries' that this process did not send.")
BACKLOG = Gauge("guardline_canary_backlog_records", "Records that the group has not committed.", ["partition"])
BACKLOG_AGE = Gauge("guardline_canary_backlog_age_seconds", "Age of the oldest of them.", ["partition"])
EXPIRED = Gauge(
    "guardline_canary_expired_records", "Records that retention deleted before they were committed.", ["partition"]
)
FLAG_RATE = Gauge("guardline_canary_flagged_share", "Flagged messages per message, in the trailing windows.")
FLAG_PROBABILITY = Gauge(
    "guardline_canary_flagged_probability", "Probability of as few flagged messages as in the last window."
)
PSI = Gauge("guardline_canary_score_psi", "Population stability index of the last window's scores.")
ALARM = Gauge("guardline_canary_alarm", "1 while the alarm goes off, else 0.", ["alarm"])
FAILURES = Counter("guardline_canary_failures_total", "Times a service did not answer, by which.", ["service"])
for _service in ("alertmanager", "broker", "store"):
    FAILURES.labels(_service)
