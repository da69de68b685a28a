"""Answers in your GenAI spans are screened: pip install 'guardline[opentelemetry]'; GUARDLINE_KAFKA_BOOTSTRAP=..."""

import json

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from monitor.producers.opentelemetry import GuardlineSpanProcessor

trace.set_tracer_provider(provider := TracerProvider())
provider.add_span_processor(GuardlineSpanProcessor())

# What your instrumentation does, where the capture of message content is switched on:
part = {"type": "text", "content": "Remdesivir is given as a 400 mg loading dose on day 1."}
with trace.get_tracer("yours").start_as_current_span("chat", attributes={"gen_ai.response.id": "r-1"}) as span:
    span.set_attribute("gen_ai.output.messages", json.dumps([{"role": "assistant", "parts": [part]}]))
