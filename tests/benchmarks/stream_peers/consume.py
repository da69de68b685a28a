"""The Quix Streams consumer of `tests.benchmarks.stream`, in its own environment. Run by `stream`, not by hand.

In and out as `tests/benchmarks/stream_consumers.py`, which cannot be imported here: Quix Streams wants another
librdkafka than Guardline has. Measuring ends with the last message; the few flags still in librdkafka's queue then are
not waited for, which is in its favour.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
from typing import Any

import orjson
from quixstreams import Application


def cpu_seconds() -> float:
    """Return the CPU (user and system, all threads) that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Consume, then print what it cost."""
    task: dict[str, Any] = json.loads(sys.argv[1])
    application = Application(
        broker_address=task["bootstrap"],
        consumer_group=task["group"],
        auto_offset_reset="earliest",
        commit_interval=1.0,
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="ERROR",
        state_dir=tempfile.mkdtemp(),
        producer_extra_config={"enable.idempotence": True, "acks": "all"},
    )
    marks: dict[int, tuple[float, float]] = {}
    done = 0

    def flag_of(value: bytes) -> bytes | None:
        nonlocal done
        record = orjson.loads(value)
        flag = orjson.dumps({"message_id": record["id"], "score": 1.0}) if record["flag"] else None
        done += 1
        if done in (task["warm"], task["messages"]):
            marks[done] = (cpu_seconds(), time.perf_counter())
        if done == task["messages"]:
            application.stop()
        return flag

    stream = application.dataframe(application.topic(task["source"], value_deserializer="bytes"))
    stream = stream.apply(flag_of).filter(lambda flag: flag is not None)
    stream.to_topic(application.topic(task["flags"], value_serializer="bytes"))
    application.run()
    (cpu, clock), (cpu_end, clock_end) = marks[task["warm"]], marks[task["messages"]]
    print(
        json.dumps(
            {
                "cpu_s": cpu_end - cpu,
                "seconds": clock_end - clock,
                "messages": task["messages"] - task["warm"],
                "done": done,
            }
        )
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
