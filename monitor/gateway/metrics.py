"""What the intake did."""

from __future__ import annotations

from monitor.instruments import Counter, Gauge

RECORDS = Counter("guardline_intake_records_total", "Records that were accepted: the brokers have them.")
REQUESTS = Counter("guardline_intake_requests_total", "Requests answered, by HTTP status.", ["status"])
REFUSED = Counter("guardline_intake_refused_total", "Requests not accepted, by reason.", ["reason"])
BYTES_IN_FLIGHT = Gauge("guardline_intake_bytes_in_flight", "Bytes of requests that wait for the brokers.")
