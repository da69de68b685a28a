"""The script that makes the topics, run with a stand-in for Kafka's tool that writes down what it is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/kubernetes/components/topics/topics.sh"


def run(folder: Path, tool: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = folder / "kafka-topics.sh"
    path.write_text(f"#!/bin/sh\n{tool}\n")
    path.chmod(0o755)
    own = {"KAFKA_BIN": str(folder), "GUARDLINE_KAFKA_BOOTSTRAP": "kafka:9092", "REPLICATION": "3", "MIN_IN_SYNC": "2"}
    return subprocess.run(["sh", str(SCRIPT)], env=own | environment, capture_output=True, text=True)


def asked(folder: Path, **environment: str) -> dict[str, str]:
    """Return what the tool was asked, by topic."""
    done = run(folder, f'echo "$@" >> {folder}/asked', **environment)
    assert done.returncode == 0, done.stderr
    lines = (folder / "asked").read_text().splitlines()
    return {line.partition("--topic ")[2].partition(" ")[0]: line for line in lines}


def test_what_is_made(tmp_path: Path) -> None:
    topics = asked(tmp_path)
    assert all("--create --if-not-exists" in line for line in topics.values())
    assert all("--replication-factor 3 --config min.insync.replicas=2" in line for line in topics.values())
    assert "--partitions 12" in topics["llm.outputs"]
    assert "--config retention.ms=604800000 --config max.message.bytes=1000000" in topics["llm.outputs"]
    assert {name for name, line in topics.items() if "retention.ms=-1" in line} == {
        "safety.feedback",
        "safety.audit",
        "safety.audit.events",
    }
    assert "--partitions 1 " in topics["safety.audit"]
    assert "--command-config" not in "".join(topics.values())


def test_names_partitions_and_credentials_are_the_environment_s(tmp_path: Path) -> None:
    topics = asked(
        tmp_path,
        GUARDLINE_TOPIC_OUTPUTS="answers",
        OUTPUTS_PARTITIONS="48",
        OUTPUTS_RETENTION_MS="3600000",
        KAFKA_CLIENT_CONFIG="/run/secrets/client.properties",
    )
    assert "--partitions 48 " in topics["answers"]
    assert "retention.ms=3600000" in topics["answers"]
    assert all("--command-config /run/secrets/client.properties" in line for line in topics.values())


@pytest.mark.parametrize("missing", ["REPLICATION", "MIN_IN_SYNC", "GUARDLINE_KAFKA_BOOTSTRAP"])
def test_what_is_not_said_is_not_guessed(tmp_path: Path, missing: str) -> None:
    done = subprocess.run(
        ["env", "-u", missing, "sh", str(SCRIPT)],
        env={"KAFKA_BIN": str(tmp_path), "GUARDLINE_KAFKA_BOOTSTRAP": "k:1", "REPLICATION": "1", "MIN_IN_SYNC": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert missing in done.stderr


def test_a_topic_that_cannot_be_made_ends_it(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 7").returncode == 7
