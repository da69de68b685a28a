"""Kafka clients from settings: PLAINTEXT or TLS, SASL with SCRAM, PLAIN or OAUTHBEARER, or a client certificate.

`kafka_options` is what every aiokafka client is made with, `faust_credentials` the same for Faust. aiokafka reports a
refused credential as a broker that cannot be reached, so `refusal` asks again where that was reported, and `denied`
tells a missing grant from an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from monitor.connections.tls import kafka_certificates, refused_by_tls
from monitor.connections.tokens import ClientCredentialsToken, FileToken
from monitor.errors import AccessDenied, ConfigurationError
from monitor.settings import Settings

if TYPE_CHECKING:
    from faust.auth import Credentials  # importing Faust takes long, and most clients are not Faust's

#: Seconds to find out whether a broker refuses us.
_PROBE = 5.0
_SECOND_TRY = 1.0


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of every aiokafka client: where the brokers are and how to speak to them.

    Raises:
        ConfigurationError: what the protocol needs is not set, or a file cannot be read.
    """
    return {"bootstrap_servers": settings.kafka_bootstrap, **security_options(settings)}


def group_consumer(settings: Settings, component: str, **more: Any) -> AIOKafkaConsumer:
    """Return a consumer of a component's own group; the component commits, and `more` are aiokafka's arguments.

    Raises:
        ConfigurationError: see `kafka_options`.
    """
    return AIOKafkaConsumer(
        **kafka_options(settings),
        client_id=f"guardline-{component}",
        group_id=f"{settings.group}.{component}",
        group_instance_id=f"{settings.instance}.{component}" if settings.instance else None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=int(settings.session_timeout * 1000),
        heartbeat_interval_ms=int(settings.session_timeout * 1000 / 3),
        **more,
    )


def security_options(settings: Settings) -> dict[str, Any]:
    """Return the part of `kafka_options` that is about security; empty for PLAINTEXT.

    Raises:
        ConfigurationError: see `kafka_options`.
    """
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return {}
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = kafka_certificates(settings).context()
    if protocol.startswith("SASL"):
        options |= _sasl(settings)
    return options


def _sasl(settings: Settings) -> dict[str, Any]:
    mechanism = settings.kafka_sasl_mechanism
    if mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": _tokens(settings)}
    user, password = _user(settings, f"{settings.kafka_security_protocol} with {mechanism}")
    return {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": password}


def _user(settings: Settings, what: str) -> tuple[str, str]:
    user, password = settings.kafka_username, settings.kafka_password
    if not user or password is None:
        raise ConfigurationError(f"{what} needs GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD")
    return user, password.get_secret_value()


def _tokens(settings: Settings) -> FileToken | ClientCredentialsToken:
    if settings.kafka_token_file is not None:
        return FileToken(settings.kafka_token_file)
    if settings.kafka_token_url is None:
        raise ConfigurationError("OAUTHBEARER needs GUARDLINE_KAFKA_TOKEN_URL or GUARDLINE_KAFKA_TOKEN_FILE")
    user, secret = _user(settings, "OAUTHBEARER with GUARDLINE_KAFKA_TOKEN_URL")
    return ClientCredentialsToken(
        settings.kafka_token_url,
        client_id=user,
        secret=secret,
        scope=settings.kafka_token_scope,
        tls=kafka_certificates(settings).context() if settings.kafka_token_url.startswith("https:") else None,
    )


def faust_credentials(settings: Settings) -> Credentials | None:
    """Return Faust's `broker_credentials`; none for PLAINTEXT.

    Raises:
        ConfigurationError: see `kafka_options`.
    """
    import faust

    options = security_options(settings)
    if not options:
        return None
    context = options.get("ssl_context")
    if "sasl_mechanism" not in options:
        return faust.SSLCredentials(context)
    if (tokens := options.get("sasl_oauth_token_provider")) is not None:
        return faust.OAuthCredentials(oauth_cb=tokens, ssl_context=context)
    return faust.SASLCredentials(
        mechanism=options["sasl_mechanism"],
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        ssl_context=context,
    )


async def refusal(options: Mapping[str, Any]) -> AccessDenied | None:
    """Return why the brokers refuse clients with these options; none when none of them says so.

    Opens one connection to each broker of the bootstrap list until one accepts; to be called after a client could not
    connect. A broker that ends the connection at the first question is asked once more, because a broker that is just
    going down does that, too.
    """
    reason = None
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        where = f"Kafka at {host}:{port}"
        try:
            answered = await _answers(host, port, options) or await _answers(host, port, options, after=_SECOND_TRY)
        except AccessDenied as error:  # of the token endpoint
            return error
        except (KafkaError, OSError, ValueError) as error:
            reason = reason or _refused(error, where, options)
        else:
            if answered:
                return None
            reason = reason or _unanswered(where, options)
    return reason


async def ensure_kafka(settings: Settings) -> None:
    """Return unless the brokers refuse this client; ones that are away do not. Asks nothing for PLAINTEXT.

    To be called before the first client starts: aiokafka takes the refusal of a token for consent (it comes as a
    challenge, RFC 7628, section 3.2.3) and starts without brokers.

    Raises:
        AccessDenied: they do; the message says which setting is wrong.
        ConfigurationError: see `kafka_options`.
    """
    options = kafka_options(settings)
    if "security_protocol" in options and (reason := await refusal(options)) is not None:
        raise reason


async def _answers(host: str, port: int, options: Mapping[str, Any], *, after: float = 0.0) -> bool:
    """Tell whether a broker that lets us connect also answers a question."""
    await asyncio.sleep(after)
    security = {key: value for key, value in options.items() if key != "bootstrap_servers"}
    async with asyncio.timeout(_PROBE):
        connection = await create_conn(host, port, client_id="guardline", **security)
        try:
            answer = await connection.send(MetadataRequest([]))
            # The rest of a token's refusal, read as an answer, names no brokers; one that is fenced may do so, too.
            return bool(answer.brokers) or options.get("sasl_mechanism") != "OAUTHBEARER"
        except KafkaConnectionError:
            return False
        finally:
            connection.close()


def _unanswered(where: str, options: Mapping[str, Any]) -> AccessDenied:
    if options.get("sasl_mechanism") == "OAUTHBEARER":
        return _token_refused(where)
    return AccessDenied(
        f"{where} answers nobody whom it does not know: set GUARDLINE_KAFKA_SECURITY_PROTOCOL to what it speaks, and "
        "GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD"
    )


def _token_refused(where: str) -> AccessDenied:
    return AccessDenied(
        f"{where} refuses the token: check its issuer, audience and expiry, and the broker's clock against ours"
    )


def _refused(error: Exception, where: str, options: Mapping[str, Any]) -> AccessDenied | None:
    if (untrusted := refused_by_tls(error, where, "KAFKA")) is not None:
        return untrusted
    mechanism = options.get("sasl_mechanism")
    if isinstance(error, UnsupportedSaslMechanismError):
        return AccessDenied(f"{where} does not accept {mechanism}: set GUARDLINE_KAFKA_SASL_MECHANISM to one it does")
    if isinstance(error, SaslAuthenticationFailed) and mechanism == "OAUTHBEARER":
        return _token_refused(where)
    if isinstance(error, SaslAuthenticationFailed | ValueError):  # aiokafka checks the server's half of SCRAM so
        return AccessDenied(
            f"{where} refuses user {options.get('sasl_plain_username')} or the password: check "
            "GUARDLINE_KAFKA_USERNAME and GUARDLINE_KAFKA_PASSWORD"
        )
    return None


def ensure_readable(consumer: AIOKafkaConsumer) -> None:
    """Return unless the consumer may not even know of a topic that it subscribed to.

    aiokafka only logs what metadata says of those and takes them for topics without partitions: it would wait on.

    Raises:
        TopicAuthorizationFailedError: with the topics.
    """
    if unauthorized := consumer._client.cluster.unauthorized_topics & consumer.subscription():
        raise TopicAuthorizationFailedError(set(unauthorized))


def denied(error: BaseException) -> AccessDenied | None:
    """Return what to do when `error` says that a grant is missing; none when it says something else."""
    if isinstance(error, TopicAuthorizationFailedError):
        what = "this topic"
    elif isinstance(error, GroupAuthorizationFailedError):
        what = "this consumer group"
    elif isinstance(error, ClusterAuthorizationFailedError):
        what = "this on the cluster"
    else:
        return None
    names = ", ".join(
        sorted(str(name) for arg in error.args for name in (arg if isinstance(arg, set | frozenset) else [arg]))
    )
    return AccessDenied(
        f"Kafka does not allow this user {what}{f' ({names})' if names else ''}: `guardline acls` prints the grants"
    )
