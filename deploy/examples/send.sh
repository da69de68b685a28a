#!/bin/sh
# Send answers by HTTP to `guardline intake`: sh send.sh http://127.0.0.1:8088 TOKEN
# 202 means that Kafka has it. --retry repeats what was answered with 503; the id makes a repeat harmless.
set -eu
url=$1 token=$2

curl --silent --show-error --fail-with-body --retry 5 "$url/v1/outputs" \
  -H "Authorization: Bearer $token" -H "Content-Type: application/json" \
  -d '{"id": "m-1", "tenant": "riverside", "text": "Remdesivir is given as a 400 mg loading dose on day 1."}'

# The answer of an OpenAI-compatible server, as it came.
curl --silent --show-error --fail-with-body --retry 5 "$url/v1/outputs" \
  -H "Authorization: Bearer $token" -H "Content-Type: application/json" -H "Idempotency-Key: m-2" \
  -d '{"object": "chat.completion", "choices": [{"message": {"role": "assistant",
       "content": "Remdesivir is given as a 400 mg loading dose on day 1."}}]}'
