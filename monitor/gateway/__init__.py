"""`guardline intake`: answers by HTTP, for platforms that cannot or will not speak Kafka.

The way of a request: `senders` (whose token is it?) -> `reading` (body and headers to records, by the monitor's own
intake, so that what the monitor could not read is refused here and now) -> `server` (publishes, answers); for
OpenTelemetry's exporters `otlp` first takes the answers out of their telemetry. `problems` says what is wrong, after
RFC 9457.

**Fails closed for the sender.** 202 means that the brokers have every record of the request, on all in-sync replicas.
Where they cannot be reached in time the answer is 503 with Retry-After, and nothing is promised: send the same again,
with the same ids, and at worst it is there twice, which the monitor's ids undo. A request is taken whole or not at all.
"""
