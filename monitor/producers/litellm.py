"""Publish what LiteLLM answers: `litellm.callbacks = [GuardlineLogger()]`.

In LiteLLM's proxy, one line of its configuration: `litellm_settings: {callbacks: monitor.producers.litellm.callback}`.
Completions, text completions and responses, sync and async, whole or streamed. A stream is published at its end, put
together by LiteLLM; one that its reader left before, or that broke, LiteLLM does not report, so it is not seen. Answers
that LiteLLM's redaction hides (`turn_off_message_logging`, also asked for by a request's header) cannot be screened:
they are counted as unreadable and said in the log.

`tenant` and `conversation_id` are taken from the request's `metadata`; the tenant is else the team of the proxy's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from monitor.producers.answers import publish_object
from monitor.producers.producer import OutputProducer, shared_producer

#: LiteLLM's `constants.REDACTED_BY_LITELLM`, of the newer versions.
_REDACTED = "redacted-by-litellm"
_ASSEMBLED = ("async_complete_streaming_response", "complete_streaming_response")


class GuardlineLogger(CustomLogger):  # type: ignore[misc]  # litellm is not in the environment that checks types
    """A callback."""

    def __init__(self, producer: OutputProducer | None = None, *, tenant: str | None = None) -> None:
        """Publish with `producer` (default: the one of this process); `tenant` of requests that name none.

        Raises:
            ConfigurationError: the environment's settings are wrong (without `producer` only).
        """
        super().__init__()
        self._producer = producer or shared_producer()
        self._tenant = tenant

    def log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        """Publish an answer; LiteLLM calls it in a thread of its own."""
        self._publish(kwargs, response_obj)

    async def async_log_success_event(
        self,
        kwargs: dict[str, Any],
        response_obj: Any,
        start_time: Any,  # noqa: ARG002
        end_time: Any,  # noqa: ARG002
    ) -> None:
        """Publish an answer of an async call; it never blocks the loop."""
        self._publish(kwargs, response_obj)

    def _publish(self, request: Mapping[str, Any], response: Any) -> None:
        if request.get("stream"):
            response = next((request[name] for name in _ASSEMBLED if request.get(name) is not None), response)
        metadata = _metadata(request.get("litellm_params"))
        publish_object(
            self._producer,
            response,
            hidden=_REDACTED,
            tenant=metadata.get("tenant") or metadata.get("user_api_key_team_alias") or self._tenant,
            conversation_id=metadata.get("conversation_id"),
        )


def _metadata(parameters: object) -> Mapping[str, Any]:
    """Return what the request says about itself; LiteLLM keeps it in one of two places, by endpoint."""
    found: dict[str, Any] = {}
    for name in ("litellm_metadata", "metadata"):
        metadata = parameters.get(name) if isinstance(parameters, Mapping) else None
        found |= metadata if isinstance(metadata, Mapping) else {}
    return found


def __getattr__(name: str) -> Any:
    """Make `callback` for LiteLLM's proxy when it asks for it, and not for who only imports the class."""
    if name == "callback":
        globals()[name] = GuardlineLogger()
        return globals()[name]
    raise AttributeError(name)
