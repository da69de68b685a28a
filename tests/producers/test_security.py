"""The producer on a real Kafka that asks who is there: right and wrong credentials, the one grant it needs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.errors import ConfigurationError
from monitor.producers import Outcome, OutputProducer
from monitor.settings import Settings
from tests.fixtures_kafka import consume_all
from tests.fixtures_secured import SecuredKafka

pytestmark = pytest.mark.connected
USER, PASSWORD = "platform", "planted-secret"


def scram(kafka: SecuredKafka, wrong: bool, _: Path) -> dict[str, object]:
    return {
        "kafka_bootstrap": kafka.sasl_tls, "kafka_security_protocol": "SASL_SSL", "kafka_username": USER,
        "kafka_password": "wrong-secret" if wrong else PASSWORD, "kafka_ca_file": kafka.authority.ca,
    }  # fmt: skip


def plain(kafka: SecuredKafka, wrong: bool, _: Path) -> dict[str, object]:
    ((user, password),) = kafka.plain_users.items()
    return {
        "kafka_bootstrap": kafka.sasl, "kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN",
        "kafka_username": user, "kafka_password": "wrong-secret" if wrong else password,
    }  # fmt: skip


def token(kafka: SecuredKafka, wrong: bool, folder: Path) -> dict[str, object]:
    path = folder / "token"
    path.write_text(kafka.issuer.token(USER, audience="somebody" if wrong else "kafka"))
    return {
        "kafka_bootstrap": kafka.sasl, "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_file": path,
    }  # fmt: skip


def certificate(kafka: SecuredKafka, wrong: bool, _: Path) -> dict[str, object]:
    own = kafka.authority
    proof, key = (own.stranger_certificate, own.stranger_key) if wrong else (own.client_certificate, own.client_key)
    return {
        "kafka_bootstrap": kafka.tls, "kafka_security_protocol": "SSL", "kafka_ca_file": own.ca,
        "kafka_certificate_file": proof, "kafka_key_file": key,
    }  # fmt: skip


def untrusted(kafka: SecuredKafka, wrong: bool, folder: Path) -> dict[str, object]:
    return scram(kafka, False, folder) | ({"kafka_ca_file": kafka.authority.stranger} if wrong else {})


@pytest.mark.parametrize("proof", [scram, plain, token, certificate, untrusted])
async def test_right_and_wrong_credentials(
    kafka_with_acls: SecuredKafka,
    proof: Callable[[SecuredKafka, bool, Path], dict[str, object]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = f"llm.outputs.{uuid.uuid4().hex[:8]}"
    kafka_with_acls.add_user(USER, PASSWORD)
    kafka_with_acls.topics([topic])
    for user in (USER, *kafka_with_acls.plain_users, kafka_with_acls.authority.client_name):
        kafka_with_acls.grant(user, [("topic", topic, "Write")])

    def outcome(wrong: bool, seconds: float) -> dict[Outcome, int]:
        settings = Settings(_env_file=None, topic_outputs=topic, **proof(kafka_with_acls, wrong, tmp_path))
        producer = OutputProducer(settings, flush_timeout=seconds)
        producer.publish(text="t", id="a")
        producer.close()
        return dict(producer.counts)

    assert outcome(wrong=False, seconds=30) == {Outcome.DELIVERED: 1}
    assert [record.key for record in await consume_all(kafka_with_acls.plaintext, topic)] == [b"a"]
    assert "Kafka:" not in caplog.text
    assert outcome(wrong=True, seconds=2) == {Outcome.UNSENT: 1}
    assert "Kafka:" in caplog.text
    assert "secret" not in caplog.text


def test_without_the_grant_answers_are_refused_and_counted(kafka_with_acls: SecuredKafka, tmp_path: Path) -> None:
    topic = f"llm.outputs.{uuid.uuid4().hex[:8]}"
    kafka_with_acls.add_user("nobody", PASSWORD)
    kafka_with_acls.topics([topic])
    settings = scram(kafka_with_acls, False, tmp_path) | {"kafka_username": "nobody", "topic_outputs": topic}
    producer = OutputProducer(Settings(_env_file=None, **settings), flush_timeout=30)
    producer.publish(text="t", id="a")
    producer.close()
    assert producer.counts == {Outcome.REFUSED: 1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "GUARDLINE_KAFKA_USERNAME"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": Path("gone.pem")}, "GUARDLINE_KAFKA_CA_FILE"),
        (
            {
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_mechanism": "OAUTHBEARER",
                "kafka_username": "u",
                "kafka_password": "p",
            },
            "GUARDLINE_KAFKA_TOKEN_URL",
        ),
    ],
)
def test_what_is_missing_is_said_when_the_platform_starts(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        OutputProducer(Settings(_env_file=None, **settings))


def test_a_token_endpoint_is_librdkafkas_to_ask(kafka_with_acls: SecuredKafka) -> None:
    settings = Settings(
        _env_file=None,
        kafka_bootstrap=kafka_with_acls.sasl_tls,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_username="client",
        kafka_password="planted-secret",
        kafka_token_url="https://127.0.0.1:1/token",
        kafka_token_scope="kafka",
        kafka_ca_file=kafka_with_acls.authority.ca,
    )
    producer = OutputProducer(settings, flush_timeout=0)
    producer.start()  # it would say that it does not know an option
    producer.close()


def test_a_token_file_that_is_not_there_stops_nobody(kafka_with_acls: SecuredKafka, tmp_path: Path) -> None:
    settings = token(kafka_with_acls, False, tmp_path) | {"kafka_token_file": tmp_path / "gone"}
    producer = OutputProducer(Settings(_env_file=None, **settings), flush_timeout=1)
    assert producer.publish(text="t")
    producer.close()
    assert producer.counts == {Outcome.UNSENT: 1}
