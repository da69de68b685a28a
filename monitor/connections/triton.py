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
#: What a gRPC server says first (RFC 9113, section 3.4): a refused client certificate shows in its place.
_FIRST_FRAME = 9


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

    gRPC says of a failed handshake that the server is unavailable, so Python's own TLS tries it again.
    """
    if tls is None:
        return None
    host, _, port = url.rpartition(":")
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_PROBE):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                await reader.readexactly(_FIRST_FRAME)
            finally:
                writer.close()
    except (OSError, EOFError) as error:
        return refused_by_tls(error, f"Triton at {url}", "TRITON")
    return None
