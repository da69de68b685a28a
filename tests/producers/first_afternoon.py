"""From a clean folder to a flag: install with LiteLLM, run the example's five lines, see the wrong dose flagged.

`make try-litellm` does it with an environment of its own and the embedded broker; a test does it with what is
installed, on every broker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from monitor.embedded_broker import EmbeddedBroker
from monitor.records import FlagRecord
from monitor.settings import DEFAULT_MODEL
from tests.e2e.worker import Topics, Worker, collect
from tests.fixtures_kafka import Broker

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = CHECKOUT / "deploy" / "examples" / "litellm_callback.py"


async def flag_of(example: Path, python: Path, broker: Broker, folder: Path) -> FlagRecord:
    """Run a monitor and, in an empty folder, a user's program; return the one flag that comes of it."""
    topics = await Topics.create(broker)
    async with Worker(broker, DEFAULT_MODEL, topics, folder / "monitor.log") as worker:
        program = await asyncio.create_subprocess_exec(
            python,
            example,
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "GUARDLINE_KAFKA_BOOTSTRAP": broker.bootstrap,
                "GUARDLINE_TOPIC_OUTPUTS": topics.names["outputs"],
            },
        )
        assert await program.wait() == 0
        published = await collect(broker.bootstrap, topics, 1, worker, settle=False)
        await worker.stop()
    (flag,) = published["flags"]
    return FlagRecord.model_validate_json(flag.value)


def main() -> None:
    """Do it all, and say what it does."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker() as embedded:
        folder = Path(name)
        print("pip install 'guardline[litellm]' ... (a minute)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{CHECKOUT}[litellm]"], check=True)
        print(f"\n{EXAMPLE.read_text()}", flush=True)
        broker = Broker("embedded", embedded.bootstrap, session=2.0, make_topic=embedded.create_topic)
        flag = asyncio.run(flag_of(EXAMPLE, python, broker, folder))
    print(f"flagged: {flag.statement}\nwhy:     {flag.reason}\nbreaks:  {flag.evidence.recommendation}")


if __name__ == "__main__":
    main()
