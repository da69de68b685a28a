"""Faults on purpose, with exact accounting: what was put in, what came out, and what a fault cost.

`python -m tests.faults` runs every fault of `catalogue` on Apache Kafka and on librdkafka's mock cluster, against
`guardline monitor` as a process and, as the negative control, against a stock Faust agent.
"""
