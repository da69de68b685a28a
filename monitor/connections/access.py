"""Whether the services of the settings refuse this process: asked once, where it starts.

Redis may be away (the monitor goes on without) and so may Triton (intake waits); but a wrong password or an untrusted
certificate does not pass, and going on would hide it. Kafka needs no such question: every client of it stops by itself
when it is refused (`monitor.connections.kafka.refusal`).
"""

from __future__ import annotations

from monitor.settings import Settings


async def ensure_access(settings: Settings, *, scoring: bool) -> None:
    """Return unless Redis or, for a process that is `scoring`, Triton refuses it; only what the settings use is asked.

    Raises:
        AccessDenied: one refuses; the message says which setting is wrong.
        ConfigurationError: a certificate cannot be read, or Redis' URL is none.
    """
    if settings.store == "redis":
        from monitor.connections.redis import ensure_redis

        await ensure_redis(settings)
    if scoring and settings.scorer == "triton":
        from monitor.connections.triton import refusal, triton_tls

        if (reason := await refusal(settings.triton_url, triton_tls(settings))) is not None:
            raise reason
