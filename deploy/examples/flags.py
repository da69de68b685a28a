"""Print every flag of the topic: all that it takes where `guardline alerts` is more than you want.

pip install aiokafka; python flags.py kafka:9092. Flags come at least once: drop repeats by their id, as here.
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(bootstrap: str) -> None:
    """Read for ever; offsets are committed by the client every five seconds."""
    seen: set[str] = set()  # yours would expire, and outlive a restart
    async with AIOKafkaConsumer("safety.flags", bootstrap_servers=bootstrap, group_id="my-flags") as consumer:
        async for record in consumer:
            flag = json.loads(record.value)
            if flag["id"] not in seen:
                seen.add(flag["id"])
                print(flag["score"], flag["tenant"], flag["evidence"]["recommendation"], flag["statement"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"))
