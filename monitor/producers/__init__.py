"""Publish answers from inside the program that gives them, two lines a platform.

`OutputProducer` is the one part that speaks to Kafka; the others find the answer in what their library hands them, and
give it over: `litellm` (a callback), `langchain` (a callback handler), `openai` (`wrap(client)`), `opentelemetry` (a
span processor). Each is an extra of its name and imports its library when it is itself imported.

**Fails open for the platform.** An answer is given to its reader whether it can be published or not: nothing here waits
for a broker, and nothing raises into the caller once it is constructed. What cannot be published is dropped, counted by
reason (`guardline_producer_answers_total`) and said in the log. Where an answer must not be given unless it is
recorded, send it to `guardline intake` and wait for the 202 instead.

What is sent is the answer's text, id, model, time, tenant and conversation; no prompt, no metadata.
"""

from monitor.producers.producer import Outcome, OutputProducer, shared_producer

__all__ = ["Outcome", "OutputProducer", "shared_producer"]
