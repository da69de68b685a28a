"""Prometheus metrics of `guardline audit record`, in the manner of `monitor.metrics`. Counters end in `_total`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Info

ENTRIES = Counter("guardline_audit_entries_total", "Entries appended by this process, by kind.", ["kind"])
REPEATS = Counter("guardline_audit_repeats_total", "Records whose event the log had already.")
FAILURES = Counter("guardline_audit_append_failures_total", "Times the log could not be written.")
LAST_SEQ = Gauge("guardline_audit_last_seq", "Number of the last entry.")
LAST_TIME = Gauge("guardline_audit_last_append_timestamp_seconds", "When it was appended; seconds since the epoch.")
CHECKPOINT = Info("guardline_audit_checkpoint", "Hash and number of an entry, to be kept elsewhere; renewed at times.")
