"""One POST, and what its answer means.

2xx is delivered. 408, 429 and 5xx, no connection and no answer may be tried again, with `Retry-After` (RFC 9110,
section 10.2.3: seconds or a date) where there is one. All else is a refusal; redirects are not followed, because the
payload would go to where nobody asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import orjson
from pydantic import SecretStr

from monitor.alerts.sinks import SinkRefused, SinkUnavailable

_AGAIN = frozenset({408, 425, 429})
_AGENT = "guardline-alerts"


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for; None where there is none that can be read."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max((then - now).total_seconds(), 0.0)


def bearer(token: SecretStr | None) -> dict[str, SecretStr]:
    """Return the header that carries a token (RFC 6750, section 2.1), where there is one."""
    return {} if token is None else {"Authorization": SecretStr(f"Bearer {token.get_secret_value()}")}


class JsonPoster:
    """Posts JSON to one address. The connection is opened with the first post and kept."""

    def __init__(self, url: SecretStr, headers: Mapping[str, SecretStr] | None = None) -> None:
        self._url = url
        self._headers = headers or {}
        self._session: aiohttp.ClientSession | None = None

    async def post(self, payload: Mapping[str, object] | Sequence[object], *, key: str) -> None:
        """Post an object or a list; `key` goes out as `Idempotency-Key`. Raises as `Sink.send` does."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": _AGENT, "Content-Type": "application/json"},
                trust_env=True,  # HTTPS_PROXY and NO_PROXY, which hospitals have
            )
        headers = {name: value.get_secret_value() for name, value in self._headers.items()} | {"Idempotency-Key": key}
        try:
            async with self._session.post(
                self._url.get_secret_value(), data=orjson.dumps(payload), headers=headers, allow_redirects=False
            ) as answer:
                status, again = answer.status, answer.headers.get("Retry-After")
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise SinkRefused(f"{type(error).__name__}: the URL in the secret is not one") from None
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError; messages hold the address
            raise SinkUnavailable(type(error).__name__) from None
        if 200 <= status < 300:
            return
        if status in _AGAIN or status >= 500:
            raise SinkUnavailable(f"HTTP {status}", retry_after(again, datetime.now(UTC)))
        raise SinkRefused(f"HTTP {status}")

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
