"""librdkafka's configuration from the settings: the connection as every component has it, and how answers are sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from monitor.connections.tls import kafka_certificates
from monitor.errors import ConfigurationError
from monitor.settings import Settings

#: Seconds after which a token from a file is read again; whoever renews it does so well before it expires.
_TOKEN_LIFE = 60.0


def connection(settings: Settings) -> dict[str, Any]:
    """Return where the brokers are and how to speak to them.

    Raises:
        ConfigurationError: what the protocol needs is not set, or a file cannot be read.
    """
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"bootstrap.servers": settings.kafka_bootstrap, "security.protocol": protocol}
    if protocol.endswith("SSL"):
        files = kafka_certificates(settings)
        files.context()  # says what is wrong with the files; librdkafka only would when it connects
        named = {
            "ssl.ca.location": files.ca,
            "ssl.certificate.location": files.certificate,
            "ssl.key.location": files.key,
        }
        options |= {name: str(path) for name, path in named.items() if path is not None}
    if protocol.startswith("SASL"):
        options |= {"sasl.mechanism": settings.kafka_sasl_mechanism, **_credentials(settings)}
    return options


def _credentials(settings: Settings) -> dict[str, Any]:
    if settings.kafka_sasl_mechanism == "OAUTHBEARER" and settings.kafka_token_file is not None:
        return {"oauth_cb": _from_file(settings.kafka_token_file)}
    user, password = settings.kafka_username, settings.kafka_password
    if not user or password is None:
        raise ConfigurationError(
            f"{settings.kafka_security_protocol} needs GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD"
        )
    if settings.kafka_sasl_mechanism != "OAUTHBEARER":
        return {"sasl.username": user, "sasl.password": password.get_secret_value()}
    if settings.kafka_token_url is None:
        raise ConfigurationError("OAUTHBEARER needs GUARDLINE_KAFKA_TOKEN_URL or GUARDLINE_KAFKA_TOKEN_FILE")
    options = {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": settings.kafka_token_url,
        "sasl.oauthbearer.client.id": user,
        "sasl.oauthbearer.client.secret": password.get_secret_value(),
    }
    if settings.kafka_token_scope is not None:
        options["sasl.oauthbearer.scope"] = settings.kafka_token_scope
    if settings.kafka_ca_file is not None:
        options["https.ca.location"] = str(settings.kafka_ca_file)
    return options


def _from_file(path: Path) -> Any:
    def token(_: str) -> tuple[str, float]:
        return path.read_text().strip(), time.time() + _TOKEN_LIFE

    return token


def sending(*, max_records: int, max_bytes: int, max_record_bytes: int) -> dict[str, Any]:
    """Return how answers are queued and sent.

    Compression is gzip: of Kafka's four it is the one that every client can read without an optional package. The
    partitioner is Java's, so that a conversation has one partition whichever client writes to it.
    """
    return {
        "client.id": "guardline-producer",
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 50,
        "compression.type": "gzip",
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": max_records,
        "queue.buffering.max.kbytes": max(1, max_bytes // 1024),
        "message.max.bytes": max_record_bytes,
        # librdkafka's default, five minutes: an outage as long as that is bridged, as far as the queue goes.
        "delivery.timeout.ms": 300_000,
        "log_level": 2,  # it would write to standard error; its errors come by `error_cb`
    }
