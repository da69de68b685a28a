"""OAuth tokens for Kafka's OAUTHBEARER: from a token endpoint, or from a file that somebody else renews.

The endpoint is asked with the client-credentials grant (RFC 6749, section 4.4), the client authenticating by HTTP Basic
(section 2.3.1). A token is kept until shortly before it expires. aiokafka asks for one with each connection that it
opens; it does not authenticate anew on a connection that lasts (KIP-368): a broker with `connections.max.reauth.ms`
closes such connections, and the client comes back with a fresh token.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import orjson
from aiokafka.abc import AbstractTokenProvider

from monitor.connections.tls import refused_by_tls
from monitor.errors import AccessDenied

_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: A token is renewed after this share of its life, so that none expires on its way.
_USED = 0.8
#: Seconds that a token is kept whose life the endpoint does not tell (RFC 6749, section 5.1, only recommends it).
_UNSTATED_LIFE = 60.0
#: Of the endpoint's `error_description`, which is a stranger's text.
_MOST_DETAIL = 200


class TokenRefused(AccessDenied, ConnectionError):
    """No token to be had. An `OSError` too, so that aiokafka takes it for a failed connection and goes on trying."""


class FileToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The content of a file, read for every connection: a projected Kubernetes token is replaced while we run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return the token.

        Raises:
            TokenRefused: there is none.
        """
        try:
            token = (await asyncio.to_thread(self._path.read_text)).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenRefused(
                f"GUARDLINE_KAFKA_TOKEN_FILE cannot be read ({type(error).__name__}): {self._path}"
            ) from error
        if not token:
            raise TokenRefused(f"GUARDLINE_KAFKA_TOKEN_FILE is empty: {self._path}")
        return token


class ClientCredentialsToken(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Tokens of one client from one endpoint."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        secret: str,
        scope: str | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Ask `url` when a token is needed; `tls` for an endpoint with https, `clock` in seconds."""
        self._url = url
        # RFC 6749, section 2.3.1: both are form-encoded before they become user and password of HTTP Basic.
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        self._headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}", "Accept": "application/json"}
        self._form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        self._tls = tls
        self._clock = clock
        self._token = ""
        self._renew_at = -1.0

    async def token(self) -> str:
        """Return a token that is valid for a while yet.

        Raises:
            TokenRefused: the endpoint refuses this client, or its certificate is not trusted.
            ConnectionError: it does not answer, or with something that is no token; it may later.
        """
        if self._clock() < self._renew_at:
            return self._token
        asked = self._clock()
        answer = await self._ask()
        try:
            token, life = str(answer["access_token"]), float(answer.get("expires_in", _UNSTATED_LIFE))
        except (KeyError, TypeError, ValueError) as error:
            raise ConnectionError(f"token endpoint {self._url}: its answer holds no access_token") from error
        self._token, self._renew_at = token, asked + _USED * life
        return token

    async def _ask(self) -> dict[str, Any]:
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(
                    self._url, data=self._form, headers=self._headers, ssl=self._tls or True, allow_redirects=False
                ) as response,
            ):
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            if (refused := refused_by_tls(error, f"token endpoint {self._url}", "KAFKA")) is not None:
                raise TokenRefused(str(refused)) from error
            raise ConnectionError(f"token endpoint {self._url} does not answer: {type(error).__name__}") from error
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            answer = {}
        if status in (400, 401, 403):
            reason = " ".join(str(answer.get(key, "")) for key in ("error", "error_description")).strip()[:_MOST_DETAIL]
            raise TokenRefused(
                f"token endpoint {self._url} refuses this client ({status} {reason or 'without a reason'}): check "
                "GUARDLINE_KAFKA_USERNAME (the client id), GUARDLINE_KAFKA_PASSWORD (its secret) and "
                "GUARDLINE_KAFKA_TOKEN_SCOPE"
            )
        if status != 200:
            raise ConnectionError(f"token endpoint {self._url} answers {status}")
        return answer
