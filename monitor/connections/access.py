"""Whether the services of the settings refuse this process: asked once, where it starts.

Brokers may be away (every client waits for them), so may Redis (the monitor goes on without it) and Triton (intake
waits); but a wrong password or an untrusted certificate does not pass, and waiting would hide it.
"""

from __future__ import annotations

from monitor.connections.kafka import ensure_kafka
from monitor.settings import Settings


async def ensure_access(settings: Settings, *, scoring: bool) -> None:
    """Return unless Kafka, Redis or, for a process that is `scoring`, Triton refuses it; only what is used is asked.

    Raises:
        AccessDenied: one refuses; the message says which setting is wrong.
        ConfigurationError: a credential is not set, a certificate cannot be read, or Redis' URL is none.
    """
    await ensure_kafka(settings)
    if settings.store == "redis":
        from monitor.connections.redis import ensure_redis

        await ensure_redis(settings)
    if scoring and settings.scorer == "triton":
        from monitor.connections.triton import refusal, triton_tls

        if (reason := await refusal(settings.triton_url, triton_tls(settings))) is not None:
            raise reason
