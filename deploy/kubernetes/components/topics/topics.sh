#!/bin/sh
# Create the topics that do not exist yet; one that exists stays as it is, partitions and all. Run by docker-compose.yml
# and by the CronJob `topics`, in the image apache/kafka. Names are the settings' (monitor/settings.py), defaults too.
# Inputs are kept a little below the 1 MiB that a producer sends at most, so that the dead letter of any input, original
# bytes and headers, can be sent too.
set -eu

topic() {
  name=$1 partitions=$2 retention=$3
  shift 3
  "${KAFKA_BIN:-/opt/kafka/bin}/kafka-topics.sh" --bootstrap-server "$GUARDLINE_KAFKA_BOOTSTRAP" \
    ${KAFKA_CLIENT_CONFIG:+--command-config "$KAFKA_CLIENT_CONFIG"} --create --if-not-exists --topic "$name" \
    --partitions "$partitions" --replication-factor "$REPLICATION" --config "min.insync.replicas=$MIN_IN_SYNC" \
    --config "retention.ms=$retention" "$@"
}

outputs=${OUTPUTS_PARTITIONS:-12} events=${EVENTS_PARTITIONS:-6}
# 7, 30 and 90 days; message text is health data.
outputs_kept=${OUTPUTS_RETENTION_MS:-604800000}
verdicts_kept=${VERDICTS_RETENTION_MS:-2592000000}
events_kept=${EVENTS_RETENTION_MS:-7776000000}

topic "${GUARDLINE_TOPIC_OUTPUTS:-llm.outputs}" "$outputs" "$outputs_kept" --config max.message.bytes=1000000
topic "${GUARDLINE_TOPIC_FLAGS:-safety.flags}" "$events" "$events_kept"
topic "${GUARDLINE_TOPIC_REVIEW:-safety.review}" "$events" "$events_kept"
topic "${GUARDLINE_TOPIC_VERDICTS:-safety.verdicts}" "$events" "$verdicts_kept"
topic "${GUARDLINE_TOPIC_DEADLETTER:-safety.deadletter}" "$events" "$events_kept"
topic "${GUARDLINE_TOPIC_SHADOW:-safety.shadow}" "$events" "$verdicts_kept"
# Reviewers' decisions are what the model learns from: kept for good.
topic "${GUARDLINE_TOPIC_FEEDBACK:-safety.feedback}" "$events" -1
# The audit log, where a topic holds it: one partition, for good. And what people did, for that log.
topic "${GUARDLINE_TOPIC_AUDIT:-safety.audit}" 1 -1
topic "${GUARDLINE_TOPIC_AUDIT_EVENTS:-safety.audit.events}" "$events" -1
# Flags that no sink took; `deadletter` in the configuration of `guardline alerts`.
topic "${ALERTS_DEADLETTER:-safety.alerts.deadletter}" "$events" "$events_kept"
