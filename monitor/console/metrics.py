"""Prometheus metrics of `guardline console`, in the manner of `monitor.metrics`. Counters end in `_total`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

RECORDS = Counter(
    "guardline_console_records_total",
    "Records read, by what came of them: flag, review, decision, unreadable.",
    ["outcome"],
)
FLAGS_KEPT = Gauge("guardline_console_flags", "Flags and reviews that the console keeps.")
DECISIONS = Counter("guardline_console_decisions_total", "Decisions published, by kind.", ["decision"])
UNPUBLISHED = Counter(
    "guardline_console_decisions_unpublished_total", "Decisions that were not taken, because Kafka did not take them."
)
REVEALS = Counter("guardline_console_reveals_total", "Texts shown to a reviewer.", ["source"])
LOGINS = Counter("guardline_console_logins_total", "Attempts to log in: accepted, refused, limited.", ["outcome"])
STORE_FAILURES = Counter("guardline_console_store_failures_total", "Times the console's store did not answer.")
