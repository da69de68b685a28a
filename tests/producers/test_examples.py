"""The examples in deploy/examples, run as a user would; the LiteLLM one up to the flag."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.fixtures_kafka import Broker
from tests.producers.environment import plugins_python
from tests.producers.first_afternoon import EXAMPLE, flag_of
from tests.producers.openai_server import openai_server
from tests.producers.topic import Topic

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."


async def test_a_wrong_dose_in_a_completion_arrives_as_a_flag(broker: Broker, tmp_path: Path) -> None:
    flag = await flag_of(EXAMPLE, plugins_python(), broker, tmp_path)
    assert (flag.verdict, flag.statement, flag.category) == ("unsafe", TEXT, "dose")
    assert flag.reason == "400 mg stated, 200 mg recommended"
    assert flag.message_id.startswith("chatcmpl-")


@pytest.mark.parametrize("name", ["langchain_handler.py", "openai_client.py", "opentelemetry_spans.py"])
async def test_a_plug_in(name: str, embedded: Broker) -> None:
    topic = await Topic.create(embedded)
    with openai_server() as url:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLES / name,
            env={"PATH": os.environ["PATH"], "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k", **topic.environment()},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await program.communicate()
    assert program.returncode == 0
    assert printed.decode() in (TEXT, "")
    (message,) = await topic.messages()
    assert message.text == TEXT


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 20
