"""`guardline intake` as a process, and what it says before it starts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession
from click.testing import CliRunner

from monitor.acls.grants import components
from monitor.console.users import digest
from monitor.embedded_broker import EmbeddedBroker
from monitor.errors import ConfigurationError
from monitor.factory import build_publisher
from monitor.gateway.command import build_senders, command
from monitor.gateway.senders import load_senders
from monitor.settings import Settings
from tests.fixtures_kafka import Broker
from tests.fixtures_secured import SecuredKafka
from tests.gateway.intake import intake
from tests.producers.topic import Topic

CHECKOUT = Path(__file__).parents[2]
SEND = CHECKOUT / "deploy" / "examples" / "send.sh"


async def test_from_curl_to_the_topic_and_an_orderly_end(
    embedded: Broker, embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    topic = await Topic.create(embedded)
    made = CliRunner().invoke(command, ["--new-token", "riverside"]).output
    token = re.search(r"^  (\S{43})$", made, re.MULTILINE)
    entry = re.search(r"^  - name: .*\n    sha256: .*$", made, re.MULTILINE)
    assert token
    assert entry
    (tmp_path / "senders.yaml").write_text(f"senders:\n{entry[0]}\n")
    embedded_broker.down()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "monitor",
        "intake",
        "--port",
        "0",
        env={**os.environ, **topic.environment(), "GUARDLINE_INTAKE_TOKENS_FILE": str(tmp_path / "senders.yaml")},
        stderr=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        assert process.stderr is not None
        log = b""
        async with asyncio.timeout(60):
            while not (started := re.search(rb'"address": ?"(http://[^"]+)"', log)):
                log += await process.stderr.readline()
        url = started[1].decode()
        async with ClientSession(url) as http:
            async with http.get("/live") as live, http.get("/ready") as ready:
                assert (live.status, ready.status) == (200, 503)
            embedded_broker.up()
            async with asyncio.timeout(60):
                while True:
                    async with http.get("/ready") as ready:
                        if ready.status == 200:
                            break
                    await asyncio.sleep(0.1)
        sent = await asyncio.create_subprocess_exec(
            "sh", SEND, url, token[1], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        printed, said = await sent.communicate()
        assert sent.returncode == 0, said
        assert printed.count(b'"accepted":1') == 2
        assert {message.text for message in await topic.messages()} == {
            "Remdesivir is given as a 400 mg loading dose on day 1."
        }
        process.send_signal(signal.SIGTERM)
        _, rest = await process.communicate()
        assert process.returncode == 0
        assert b"intake_stopped" in rest
        assert b"400 mg" not in log + rest
        assert token[1].encode() not in log + rest
        with pytest.raises(ClientConnectionError):
            async with ClientSession(url) as http, http.get("/live"):
                pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_an_open_port_needs_senders() -> None:
    assert build_senders(Settings(_env_file=None)) is None
    with pytest.raises(ConfigurationError, match="GUARDLINE_INTAKE_TOKENS_FILE"):
        build_senders(Settings(_env_file=None, intake_host="0.0.0.0"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("senders: [", "not YAML"),
        ("senders:\n  - name: a\n    sha256: secret", "senders.0.sha256"),
        (f"senders:\n  - name: a\n    sha256: {digest('t')}\n    role: x", "senders.0.role"),
        ("[]", "file"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_without_its_content(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "senders.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        load_senders(path)
    assert "secret" not in str(caught.value)


def test_a_port_that_is_taken_is_said() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = subprocess.run(
            [sys.executable, "-m", "monitor", "intake", "--port", str(taken.getsockname()[1])],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 2
    assert "set GUARDLINE_INTAKE_PORT" in result.stderr


def run_refused(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", "intake", "--port", "0"],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.connected
def test_brokers_that_refuse_it_end_it_with_3(kafka_with_acls: SecuredKafka) -> None:
    result = run_refused(kafka_with_acls.settings("nobody", "planted-secret"))
    assert result.returncode == 3
    assert "GUARDLINE_KAFKA_PASSWORD" in result.stderr
    assert "planted-secret" not in result.stderr


@pytest.mark.connected
async def test_the_grants_that_acls_prints_are_enough_and_needed(kafka_with_acls: SecuredKafka) -> None:
    name = f"llm.outputs.{uuid.uuid4().hex[:8]}"
    kafka_with_acls.add_user("intake", "planted-secret")
    kafka_with_acls.topics([name])
    grants = components(Settings(_env_file=None, topic_outputs=name))["intake"].kafka
    kafka_with_acls.grant("intake", [(grant.resource, grant.name, grant.operation) for grant in grants])
    kafka_with_acls.add_user("outsider", "planted-secret")
    for user, status, reason in (("intake", 202, None), ("outsider", 503, "broker_refuses")):
        settings = Settings(
            _env_file=None, topic_outputs=name, kafka_bootstrap=kafka_with_acls.sasl_tls,
            kafka_security_protocol="SASL_SSL", kafka_username=user, kafka_password="planted-secret",
            kafka_ca_file=kafka_with_acls.authority.ca,
        )  # fmt: skip
        publisher = build_publisher(settings)
        async with intake(Topic(kafka_with_acls.plaintext, name), publisher=publisher) as served:
            async with served.http.post("/v1/outputs", json={"id": "a", "text": "Give 200 mg."}) as answer:
                assert (answer.status, (await answer.json()).get("reason")) == (status, reason)
            assert served.gateway.refused.is_set() is (status == 503)
        await publisher.close()
