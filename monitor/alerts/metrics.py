"""Prometheus metrics of `guardline alerts`, in the manner of `monitor.metrics`. Counters end in `_total`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

FLAGS = Counter(
    "guardline_alerts_flags_total",
    "Flags read, by what came of them: routed, unrouted, unreadable, canary.",
    ["outcome"],
)
for _outcome in ("routed", "unrouted", "unreadable", "canary"):
    FLAGS.labels(_outcome)  # a series that begins at 1 has not increased, by Prometheus' reckoning
REPEATS = Counter("guardline_alerts_repeats_total", "Flags that a lane had seen before.", ["route", "sink"])
NOTIFICATIONS = Counter(
    "guardline_alerts_notifications_total",
    "Alerts that are done with, by sink, kind and outcome: delivered, or why they are dead letters.",
    ["sink", "kind", "outcome"],
)
ATTEMPTS = Counter(
    "guardline_alerts_attempts_total",
    "Tries on a sink, by outcome: delivered, unavailable, refused.",
    ["sink", "outcome"],
)
SUPPRESSED = Counter(
    "guardline_alerts_suppressed_total", "Flags that waited for the end of a suppression window.", ["route", "sink"]
)
DIGESTED = Counter("guardline_alerts_digested_total", "Flags that went to a digest.", ["route", "sink"])
DEAD_LETTERS = Counter(
    "guardline_alerts_dead_letters_total", "Flags sent to the dead-letter topic.", ["sink", "reason"]
)
QUEUE = Gauge("guardline_alerts_queue", "Alerts that wait for a sink.", ["sink"])
SINK_UP = Gauge("guardline_alerts_sink_up", "1, or 0 from the last failed retry until the next success.", ["sink"])
PENDING = Gauge("guardline_alerts_pending_flags", "Flags that keep an offset from being committed.")
STORE_FAILURES = Counter(
    "guardline_alerts_store_failures_total", "Times the store did not answer and was done without."
)
