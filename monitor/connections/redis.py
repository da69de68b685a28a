"""Redis clients from settings: redis:// or rediss://, an ACL user in the URL, certificates from files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from monitor.connections.tls import redis_certificates, refused_by_tls
from monitor.errors import AccessDenied, ConfigurationError
from monitor.settings import Settings

#: Seconds that a server may take to refuse a certificate.
_HANDSHAKE = 2.0


def _options(settings: Settings, timeout: float) -> dict[str, Any]:
    """Return what both kinds of client are made with.

    Raises:
        ConfigurationError: certificates were turned off in the URL, or one cannot be read.
    """
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    parts = urlsplit(settings.redis_url.get_secret_value())
    if parts.scheme == "rediss":
        if "ssl_" in parts.query:
            raise ConfigurationError(
                "GUARDLINE_REDIS_URL: certificates are always checked; take ssl_... out of the URL and set "
                "GUARDLINE_REDIS_CA_FILE"
            )
        files = redis_certificates(settings)
        files.context()  # says what is wrong with the files; Redis' client only would when it connects
        options |= {
            "ssl_ca_certs": str(files.ca) if files.ca else None,
            "ssl_certfile": str(files.certificate) if files.certificate else None,
            "ssl_keyfile": str(files.key) if files.key else None,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
        }
    return options


@contextmanager
def _checked_url() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # its text may repeat the URL, and with it the password
        raise ConfigurationError(
            "GUARDLINE_REDIS_URL is not a URL of Redis: give redis://[user:password@]host:port/0, or rediss:// for TLS"
        ) from error.with_traceback(None)


def redis_client(settings: Settings, *, timeout: float = 1.0) -> Redis:
    """Return a client that connects lazily; `timeout` in seconds to connect, and to wait for an answer.

    Raises:
        ConfigurationError: the URL is none of Redis', or a certificate cannot be read.
    """
    with _checked_url():
        return Redis.from_url(settings.redis_url.get_secret_value(), **_options(settings, timeout))


def blocking_redis_client(settings: Settings, *, timeout: float = 5.0) -> BlockingRedis:
    """Return the same for code that runs in threads; answers are texts.

    Raises:
        ConfigurationError: as above.
    """
    url, options = settings.redis_url.get_secret_value(), _options(settings, timeout)
    with _checked_url():
        return BlockingRedis.from_url(url, decode_responses=True, **options)


def redis_address(settings: Settings) -> str:
    """Return host and port for messages, without the credentials."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    return f"{parts.hostname or 'local socket'}:{parts.port or 6379}"


def denied(error: BaseException | None, where: str = "Redis") -> AccessDenied | None:
    """Return what to do when Redis refuses this client or a command of it; none when it says something else."""
    if isinstance(error, AuthenticationError):
        return AccessDenied(f"{where} refuses the user or the password: check those in GUARDLINE_REDIS_URL")
    if isinstance(error, NoPermissionError):
        return AccessDenied(f"{where} does not allow this user that command or key: `guardline acls` prints the grants")
    return refused_by_tls(error, where, "REDIS")


async def ensure_redis(settings: Settings) -> None:
    """Return unless Redis refuses this client. One that is away is no refusal: what uses it says what that means.

    Raises:
        AccessDenied: user, password or certificate is wrong, or the user may not even ping.
    """
    async with redis_client(settings) as client:
        try:
            await client.ping()
        except (RedisError, OSError) as error:
            where = f"Redis at {redis_address(settings)}"
            refused = denied(error, where) or denied(await _handshake_error(settings), where)
            if refused is not None:
                raise refused from error


async def _handshake_error(settings: Settings) -> BaseException | None:
    """Return what a bare TLS handshake fails with.

    A server that refuses a client's certificate says so after the client takes the handshake for done (TLS 1.3), and a
    client that has sent its first command by then may see a reset connection instead (the reset
    discards what was not read). Who sends nothing hears the alert.
    """
    parts = urlsplit(settings.redis_url.get_secret_value())
    if parts.scheme != "rediss":
        return None
    try:
        async with asyncio.timeout(_HANDSHAKE):
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port or 6379, ssl=redis_certificates(settings).context()
            )
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        return error
    return None
