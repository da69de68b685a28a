"""Kafka clients from settings: PLAINTEXT or TLS, SASL with SCRAM, PLAIN or OAUTHBEARER, or a client certificate.

`kafka_options` is what every aiokafka client is made with, `faust_credentials` the same for Faust. aiokafka reports a
refused credential as a broker that cannot be reached, so `refusal` asks again where that was reported, and `denied`
tells a missing grant from an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from monitor.connections.tls import kafka_certificates, refused_by_tls
from monitor.connections.tokens import ClientCredentialsToken, FileToken
from monitor.errors import AccessDenied, ConfigurationError
from monitor.settings import Settings

if TYPE_CHECKING:
    from faust.auth import Credentials  # importing Faust takes long, and most clients are not Faust's

#: Seconds to find out whether a broker refuses us.
_PROBE = 5.0


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of every aiokafka client: where the brokers are and how to speak to them.

    Raises:
        ConfigurationError: what the protocol needs is not set, or a file cannot be read.
    """
    return {"bootstrap_servers": settings.kafka_bootstrap, **security_options(settings)}


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
    connect. Costs nothing without credentials: a broker that wants some then ends the connection without a word.
    """
    if "security_protocol" not in options:
        return None
    reason = None
    security = {key: value for key, value in options.items() if key != "bootstrap_servers"}
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            async with asyncio.timeout(_PROBE):
                connection = await create_conn(host, port, client_id="guardline", **security)
            connection.close()
        except AccessDenied as error:  # of the token endpoint
            return error
        except (KafkaError, OSError, ValueError) as error:
            reason = reason or _refused(error, f"Kafka at {host}:{port}", options)
        else:
            return None
    return reason


def _refused(error: Exception, where: str, options: Mapping[str, Any]) -> AccessDenied | None:
    mechanism = options.get("sasl_mechanism")
    if isinstance(error, UnsupportedSaslMechanismError):
        return AccessDenied(f"{where} does not accept {mechanism}: set GUARDLINE_KAFKA_SASL_MECHANISM to one it does")
    # aiokafka checks the server's half of SCRAM by a ValueError.
    if isinstance(error, SaslAuthenticationFailed | ValueError):
        what = (
            "the token: check who issues it, its audience and its expiry"
            if mechanism == "OAUTHBEARER"
            else f"user {options.get('sasl_plain_username')} or the password: check GUARDLINE_KAFKA_USERNAME and "
            "GUARDLINE_KAFKA_PASSWORD"
        )
        return AccessDenied(f"{where} refuses {what}")
    return refused_by_tls(error, where, "KAFKA")


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
