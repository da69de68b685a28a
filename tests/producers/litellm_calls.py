"""What the tests of the LiteLLM callback call, in the environment that has LiteLLM; its mock stands for a provider.

python litellm_calls.py: publishes to the broker of the environment and prints what became of the answers.
"""

import asyncio
import json

import litellm

from monitor.producers import OutputProducer
from monitor.producers.litellm import GuardlineLogger

ASKED = [{"role": "user", "content": "How is it given?"}]
TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."


def chat(case: str, **more: object) -> dict[str, object]:
    metadata = {"conversation_id": case, "tenant": "south"} if case == "sync" else {"conversation_id": case}
    return {"model": "gpt-4o-mini", "messages": ASKED, "mock_response": TEXT, "metadata": metadata, **more}


async def main(producer: OutputProducer) -> None:
    await litellm.acompletion(**chat("async"))
    async for _ in await litellm.acompletion(**chat("async stream"), stream=True):
        pass
    await litellm.aresponses(model="gpt-4o-mini", input="How?", mock_response=TEXT, metadata={"a": "b"})
    await litellm.atext_completion(model="gpt-3.5-turbo-instruct", prompt="How?", mock_response=TEXT)
    await litellm.aembedding(model="text-embedding-3-small", input=["How?"], mock_response=[[0.1]])
    await reported(producer, 6)
    litellm.turn_off_message_logging = True
    await litellm.acompletion(**chat("hidden"))
    await reported(producer, 7)


async def reported(producer: OutputProducer, number: int) -> None:
    """Return when LiteLLM's own tasks and threads have reported so many answers."""
    for _ in range(600):
        if sum(producer.counts.values()) + producer.waiting >= number:
            return
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    litellm.drop_params = True
    producer = OutputProducer()
    litellm.callbacks = [GuardlineLogger(producer, tenant="north")]
    litellm.completion(**chat("sync"))
    for _ in litellm.completion(**chat("stream"), stream=True):
        pass
    asyncio.run(main(producer))
    producer.close()
    print(json.dumps(producer.counts))
