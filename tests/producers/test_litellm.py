"""The callback in LiteLLM itself, which has an environment of its own (see pyproject.toml)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.embedded_broker import EmbeddedBroker
from monitor.types import Message
from tests.producers.environment import plugins_python
from tests.producers.topic import Topic

CALLS = Path(__file__).with_name("litellm_calls.py")
TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."


@pytest.fixture(scope="module")
def published() -> Iterator[tuple[list[Message], dict[str, int], str]]:
    """Messages, counts and log of one run of all calls."""
    with EmbeddedBroker() as broker:
        topic = Topic.of(broker)
        result = subprocess.run(
            [plugins_python(), CALLS],
            # Else LiteLLM waits for a list of prices from the internet.
            env={"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", **topic.environment()},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        yield asyncio.run(topic.messages()), json.loads(result.stdout), result.stderr


def test_each_way_of_calling_is_published_once(published: tuple[list[Message], dict[str, int], str]) -> None:
    messages, counts, _ = published
    chats = {message.conversation_id: message for message in messages if message.conversation_id}
    assert set(chats) == {"sync", "stream", "async", "async stream"}
    assert all(m.model == "gpt-4o-mini" and m.id.startswith("chatcmpl-") and m.created_at for m in chats.values())
    others = [message for message in messages if not message.conversation_id]
    assert sorted(message.id.partition("-")[0].partition("_")[0] for message in others) == ["chatcmpl", "resp"]
    assert {message.text for message in messages} == {TEXT}
    assert counts["delivered"] == len(messages) == 6


def test_whom_an_answer_is_for(published: tuple[list[Message], dict[str, int], str]) -> None:
    tenants = {message.conversation_id: message.tenant for message in published[0]}
    assert (tenants["sync"], tenants["async"]) == ("south", "north")


def test_an_answer_that_litellm_hides_is_counted_and_said(
    published: tuple[list[Message], dict[str, int], str],
) -> None:
    _, counts, log = published
    assert counts == {"delivered": 6, "unreadable": 1}
    assert "redaction of logged messages" in log
    assert "400 mg" not in log
