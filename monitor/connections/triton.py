"""Triton's gRPC clients from settings: plain, or TLS with the server's authority and, where it asks, a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import tritonclient.grpc.aio as triton

from monitor.connections.tls import Certificates, refused_by_tls, triton_certificates
from monitor.errors import AccessDenied
from monitor.settings import Settings

#: Seconds to find out whether the server refuses us.
_PROBE = 5.0
_SECOND_TRY = 1.0
#: The preface of HTTP/2 and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5), which a server answers. TLS 1.3
#: tells a client only after the handshake that its certificate is refused.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def triton_tls(settings: Settings) -> Certificates | None:
    """Return the files of the connection; none where the settings ask for no TLS.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    if not settings.triton_tls:
        return None
    files = triton_certificates(settings)
    files.context()  # says what is wrong with the files; gRPC would only not connect
    return files


def triton_client(
    url: str, tls: Certificates | None, channel: Sequence[tuple[str, Any]] | None = None
) -> triton.InferenceServerClient:
    """Return a client for `url` (host:port, no scheme); it connects lazily. `channel`: gRPC's channel arguments."""
    if tls is None:
        return triton.InferenceServerClient(url, channel_args=channel)
    return triton.InferenceServerClient(
        url,
        ssl=True,
        root_certificates=tls.ca,
        certificate_chain=tls.certificate,
        private_key=tls.key,
        channel_args=channel,
    )


async def refusal(url: str, tls: Certificates | None) -> AccessDenied | None:
    """Return why the server and this client do not trust each other; none when that is not the problem.

    gRPC says of a failed handshake that the server is unavailable, so Python's own TLS tries it again. A server that
    ends the connection after it is asked once more, because one that is just going down does that, too.
    """
    if tls is None:
        return None
    where = f"Triton at {url}"
    try:
        if await _greets(url, tls) or await _greets(url, tls, after=_SECOND_TRY):
            return None
    except OSError as error:
        return refused_by_tls(error, where, "TRITON")
    finally:
        await asyncio.sleep(0)  # asyncio closes sockets in its next turn
    return AccessDenied(
        f"{where} ends the connection after the TLS handshake: set GUARDLINE_TRITON_CERTIFICATE_FILE and _KEY_FILE to "
        "a pair that it accepts"
    )


async def _greets(url: str, tls: Certificates, *, after: float = 0.0) -> bool:
    """Tell whether a server that completes the handshake says anything after it."""
    await asyncio.sleep(after)
    host, _, port = url.rpartition(":")
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(_PROBE):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            writer.write(_GREETING)
            return bool(await reader.read(1))
        except ConnectionError:  # it had ended the connection before the greeting came
            return False
        finally:
            writer.transport.abort()  # a polite end would wait for the server's half of it
