"""Every answer of an OpenAI client is screened: pip install 'guardline[openai]'; GUARDLINE_KAFKA_BOOTSTRAP=kafka:9092.

Azure's client and any OpenAI-compatible server (OPENAI_BASE_URL) work alike; so does AsyncOpenAI.
"""

from openai import OpenAI

from monitor.producers.openai import wrap

client = wrap(OpenAI(), tenant="riverside")
asked = [{"role": "user", "content": "How is remdesivir given?"}]
for chunk in client.chat.completions.create(model="gpt-4o-mini", messages=asked, stream=True):
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
