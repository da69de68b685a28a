"""Every way to prove oneself to Kafka, against a real one: with the right credential, and with wrong ones."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from monitor.connections.kafka import ensure_kafka, faust_credentials, kafka_options
from monitor.doctor import findings
from monitor.errors import AccessDenied, ConfigurationError
from monitor.factory import build_publisher
from monitor.publisher import Event
from monitor.replay.places import resolve
from monitor.replay.reading import batches, opened, topics_of
from monitor.settings import DEFAULT_MODEL, Settings, load_settings
from tests.fixtures_secured import HOST, Authority, SecuredKafka
from tests.fixtures_services import free_ports
from tests.security.guardline import Guardline

connected = pytest.mark.connected
PASSWORD = "right-password"


class Access:
    """One user of a secured broker, who may use one topic, and the settings with which he proves himself."""

    def __init__(self, kafka: SecuredKafka, folder: Path) -> None:
        self.kafka, self.folder = kafka, folder
        self.user, self.topic = f"user-{uuid.uuid4().hex[:8]}", f"topic-{uuid.uuid4().hex[:8]}"
        kafka.topics([self.topic], partitions=1)

    def permit(self, user: str) -> None:
        self.kafka.grant(user, [("topic", self.topic, o) for o in ("Read", "Write")] + [("group", self.topic, "Read")])

    def scram(self, mechanism: str, password: str = PASSWORD) -> dict[str, Any]:
        self.kafka.add_user(self.user, PASSWORD)
        self.permit(self.user)
        return self._by_password(mechanism, self.user, password)

    def plain(self, password: str = "plain-secret") -> dict[str, Any]:
        self.permit("plain-user")
        return self._by_password("PLAIN", "plain-user", password)

    def _by_password(self, mechanism: str, user: str, password: str) -> dict[str, Any]:
        return self._tls(self.kafka.sasl_tls, "SASL_SSL") | {
            "kafka_sasl_mechanism": mechanism, "kafka_username": user, "kafka_password": password,
        }  # fmt: skip

    def token(self, **claims: Any) -> dict[str, Any]:
        self.permit(self.user)
        file = self.folder / f"token-{uuid.uuid4().hex}"
        file.write_text(self.kafka.issuer.token(self.user, **claims) + "\n")
        return self._tls(self.kafka.sasl_tls, "SASL_SSL") | {
            "kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_file": str(file),
        }  # fmt: skip

    def certificate(self, **changes: Any) -> dict[str, Any]:
        own = self.kafka.authority
        self.permit(own.client_name)
        return self._tls(self.kafka.tls, "SSL") | {
            "kafka_certificate_file": str(own.client_certificate), "kafka_key_file": str(own.client_key), **changes,
        }  # fmt: skip

    def _tls(self, bootstrap: str, protocol: str) -> dict[str, Any]:
        return {
            "kafka_bootstrap": bootstrap,
            "kafka_security_protocol": protocol,
            "kafka_ca_file": str(self.kafka.authority.ca),
        }


def environment(settings: dict[str, Any]) -> dict[str, str]:
    return {f"GUARDLINE_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.fixture
def access(kafka_with_acls: SecuredKafka, tmp_path: Path) -> Access:
    return Access(kafka_with_acls, tmp_path)


Way = Callable[[Access], dict[str, Any]]
RIGHT: dict[str, Way] = {
    "SCRAM-SHA-256": lambda own: own.scram("SCRAM-SHA-256"),
    "SCRAM-SHA-512": lambda own: own.scram("SCRAM-SHA-512"),
    "PLAIN": lambda own: own.plain(),
    "SASL without TLS": lambda own: (
        own.scram("SCRAM-SHA-512") | {"kafka_bootstrap": own.kafka.sasl, "kafka_security_protocol": "SASL_PLAINTEXT"}
    ),
    "OAUTHBEARER": lambda own: own.token(),
    "certificate": lambda own: own.certificate(),
}
#: With what has to be said.
WRONG: dict[str, tuple[Way, str]] = {
    "SCRAM-SHA-256": (
        lambda own: own.scram("SCRAM-SHA-256", "wrong-password"),
        r"refuses user user-\w+ or the password: check GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD",
    ),
    "SCRAM-SHA-512": (lambda own: own.scram("SCRAM-SHA-512", "wrong-password"), "or the password"),
    "PLAIN": (lambda own: own.plain("wrong-password"), "refuses user plain-user or the password"),
    "unknown user": (lambda own: own.scram("PLAIN", "x") | {"kafka_username": "nobody"}, "refuses user nobody"),
    "token for others": (lambda own: own.token(audience="others"), "refuses the token: check its issuer, audience"),
    "token that has ended": (lambda own: own.token(seconds=-600), "refuses the token"),
    "no certificate": (
        lambda own: own.certificate(kafka_certificate_file=None, kafka_key_file=None),
        "set GUARDLINE_KAFKA_CERTIFICATE_FILE and _KEY_FILE to a pair that it accepts",
    ),
    "a stranger's certificate": (
        lambda own: own.certificate(
            kafka_certificate_file=own.kafka.authority.stranger_certificate,
            kafka_key_file=own.kafka.authority.stranger_key,
        ),
        "ends the TLS handshake",
    ),
    "another authority": (
        lambda own: own.certificate(kafka_ca_file=own.kafka.authority.stranger),
        "not trusted .*: set GUARDLINE_KAFKA_CA_FILE",
    ),
    "another host name": (
        lambda own: own.certificate(kafka_bootstrap=own.kafka.tls.replace(HOST, "localhost")),
        "not trusted .*Hostname mismatch",
    ),
    "no protocol set": (
        lambda own: {"kafka_bootstrap": own.kafka.sasl},
        "set GUARDLINE_KAFKA_SECURITY_PROTOCOL to what it speaks",
    ),
}


@connected
@pytest.mark.parametrize("way", RIGHT.values(), ids=RIGHT.keys())
async def test_with_the_right_credential_events_are_published_and_read(access: Access, way: Way) -> None:
    settings = load_settings(**way(access))
    await ensure_kafka(settings)
    publisher = build_publisher(settings)
    try:
        assert await publisher.publish([Event(access.topic, None, b"value")]) == []
    finally:
        await publisher.close()
    partitions = (await topics_of(settings))[access.topic]
    async with opened(settings, group=access.topic) as consumer:
        spans = await resolve(consumer, partitions, "earliest", "latest")
        read = [r.value async for found in batches(consumer, spans, most=9, stop=asyncio.Event()) for r in found]
    assert read == [b"value"]


@connected
@pytest.mark.parametrize(("way", "says"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_credential_is_said_in_one_line_with_what_to_do(access: Access, way: Way, says: str) -> None:
    settings = load_settings(**way(access))
    publisher = build_publisher(settings)
    with pytest.raises(AccessDenied, match=says) as refused:
        await (ensure_kafka(settings) if "OAUTHBEARER" in settings.kafka_sasl_mechanism else publisher.start())
    assert "\n" not in str(refused.value)
    assert "wrong-password" not in str(refused.value)
    with pytest.raises(AccessDenied, match=says):
        await topics_of(settings)


async def test_a_broker_that_is_away_refuses_nobody(authority: Authority) -> None:
    settings = load_settings(
        kafka_bootstrap=f"{HOST}:{free_ports(1)[0]}",
        kafka_security_protocol="SSL",
        kafka_ca_file=authority.ca,
    )
    await ensure_kafka(settings)


@connected
@pytest.mark.model
async def test_the_monitor_starts_in_every_way(access: Access, tmp_path: Path) -> None:
    """Faust has credentials of its own kinds, and its consumer a thread and a loop of its own."""
    common = {
        "GUARDLINE_MODEL": str(DEFAULT_MODEL),
        "GUARDLINE_VERIFY": "false",
        "GUARDLINE_GROUP": access.topic,
        "GUARDLINE_SESSION_TIMEOUT": "2",
        **{f"GUARDLINE_TOPIC_{role}": access.topic for role in ("OUTPUTS", "FLAGS", "REVIEW", "DEADLETTER")},
    }

    async def starts(name: str) -> None:
        log = tmp_path / f"{name}.log"
        settings = common | environment(RIGHT[name](access))
        async with Guardline("monitor", log=log, environment=settings) as monitor:
            await monitor.says("worker_started")
            assert await monitor.stop() == 0, monitor.said[-3000:]
        assert "not authorized" not in monitor.said

    await asyncio.gather(*map(starts, ("SCRAM-SHA-256", "OAUTHBEARER", "certificate")))


@connected
async def test_every_command_ends_with_3_and_doctor_with_1_when_the_password_is_wrong(
    access: Access, tmp_path: Path
) -> None:
    config = tmp_path / "alerts.yaml"
    config.write_text("sinks: {t: {type: terminal}}\nroutes: [{name: all, sinks: [t]}]\n")
    settings = environment(access.scram("SCRAM-SHA-512", "wrong-password"))
    commands = {
        "monitor": ["monitor"],
        "alerts": ["alerts", "--config", str(config)],
        "replay": ["replay", "--dead-letters"],
        "doctor": ["doctor"],
    }

    async def ends(name: str) -> None:
        log = tmp_path / f"{name}.log"
        async with Guardline(*commands[name], log=log, environment=settings) as process:
            code = await process.ended()
        assert code == (1 if name == "doctor" else 3), process.said
        if name == "doctor":
            assert "or the password: check" in " ".join(process.said.split())
            return
        last = process.said.splitlines()[-1]
        assert last.startswith(f"guardline: Kafka at {access.kafka.sasl_tls} refuses "), process.said
        assert "Traceback" not in process.said

    await asyncio.gather(*map(ends, commands))


@connected
async def test_a_password_that_is_changed_ends_a_publisher_that_waits(access: Access) -> None:
    settings = load_settings(**access.scram("SCRAM-SHA-512"), publish_timeout=1)
    publisher = build_publisher(settings)
    await publisher.start()
    access.kafka.add_user(access.user, "another-password")
    # What is open stays open; a connection that is made anew is refused.
    for connection in publisher._producer.client._conns.values():  # type: ignore[union-attr]
        connection.close()
    with pytest.raises(AccessDenied, match="or the password"):
        async with asyncio.timeout(60):
            await publisher.publish([Event(access.topic, None, b"value")])
    await publisher.close()


# Settings


def _settings(**values: Any) -> Settings:
    return load_settings(kafka_security_protocol="SASL_SSL", **values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "SASL_SSL with SCRAM-SHA-512 needs GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD"),
        ({"kafka_sasl_mechanism": "OAUTHBEARER"}, "needs GUARDLINE_KAFKA_TOKEN_URL or GUARDLINE_KAFKA_TOKEN_FILE"),
        (
            {"kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_url": "https://issuer/token"},
            "GUARDLINE_KAFKA_TOKEN_URL needs GUARDLINE_KAFKA_USERNAME",
        ),
        ({"kafka_ca_file": "missing.pem"}, "GUARDLINE_KAFKA_CA_FILE: missing.pem: No such file"),
        ({"kafka_ca_file": __file__}, "not PEM"),
        ({"kafka_certificate_file": __file__}, "or neither"),
        ({"kafka_certificate_file": __file__, "kafka_key_file": __file__}, "not PEM"),
    ],
)
def test_what_is_missing_is_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        kafka_options(_settings(**values))
    with pytest.raises(ConfigurationError, match=says):
        faust_credentials(_settings(**values))


def test_an_encrypted_key_is_not_asked_for_on_the_terminal(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(authority.client_key.read_bytes(), None)
    encrypted = tmp_path / "key.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    settings = load_settings(
        kafka_security_protocol="SSL", kafka_certificate_file=authority.client_certificate, kafka_key_file=encrypted
    )
    with pytest.raises(ConfigurationError, match="unencrypted key"):
        kafka_options(settings)


def test_doctor_says_which_setting_is_missing() -> None:
    (kafka,) = [finding for finding in findings(_settings()) if finding.what == "kafka"]
    assert not kafka.ok
    assert kafka.detail.startswith("SASL_SSL with SCRAM-SHA-512 needs GUARDLINE_KAFKA_USERNAME")


# Tokens from an endpoint


@asynccontextmanager
async def token_endpoint(answer: Callable[[web.Request], Any], **options: Any) -> AsyncIterator[str]:
    """Serve `answer` at /token; yield its address."""
    app = web.Application()
    app.router.add_post("/token", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_ports(1)[0]
    await web.TCPSite(runner, HOST, port, **options).start()
    try:
        yield f"{'https' if options else 'http'}://{HOST}:{port}/token"
    finally:
        await runner.cleanup()


@connected
async def test_tokens_come_from_an_endpoint_and_one_serves_several_connections(access: Access) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.headers["Authorization"], dict(await request.post())))
        return web.json_response({"access_token": access.kafka.issuer.token(access.user), "expires_in": 300})

    async with token_endpoint(answer) as url:
        settings = load_settings(
            **access.token() | {"kafka_token_file": None},
            kafka_token_url=url, kafka_token_scope="kafka", kafka_username="guard:line", kafka_password="s3cret/+",
        )  # fmt: skip
        publisher = build_publisher(settings)
        assert await publisher.publish([Event(access.topic, None, b"value")]) == []  # several connections
        await publisher.close()
    # "guard:line" and "s3cret/+" as RFC 6749, section 2.3.1 wants them: form-encoded first.
    assert asked == [
        (
            "Basic Z3VhcmQlM0FsaW5lOnMzY3JldCUyRiUyQg==",
            {"grant_type": "client_credentials", "scope": "kafka"},
        )
    ]
