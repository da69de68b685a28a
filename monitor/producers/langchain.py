"""Publish what LangChain's models answer: `model.invoke(..., config={"callbacks": [GuardlineHandler()]})`.

Works for chat models and text models, invoked, streamed or batched, sync or async, alone or inside a chain or graph. A
stream is published at its end, or, marked as partial, where it broke. `tenant` and `conversation_id` (else LangGraph's
`thread_id`, else `session_id`) are taken from the run's `metadata`. The id is the provider's id of the message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult

from monitor.producers.producer import OutputProducer, shared_producer

#: Runs whose metadata is remembered between start and end; those that never end make room.
_MOST_RUNS = 10_000
_CONVERSATION = ("conversation_id", "thread_id", "session_id")


class GuardlineHandler(BaseCallbackHandler):
    """A callback handler; the same one may be given to any number of models, threads and loops."""

    run_inline = True  # it never blocks, and so needs no thread of an async caller's pool

    def __init__(self, producer: OutputProducer | None = None, *, tenant: str | None = None) -> None:
        """Publish with `producer` (default: the one of this process); `tenant` of runs that name none.

        Raises:
            ConfigurationError: the environment's settings are wrong (without `producer` only).
        """
        self._producer = producer or shared_producer()
        self._tenant = tenant
        self._runs: OrderedDict[UUID, Mapping[str, Any]] = OrderedDict()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        messages: list[list[Any]],  # noqa: ARG002
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember whom the run is for."""
        self._remember(run_id, metadata)

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        prompts: list[str],  # noqa: ARG002
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember whom the run is for."""
        self._remember(run_id, metadata)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Publish the answers of a run."""
        self._publish(response, run_id, partial=False)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **context: Any) -> None:  # noqa: ARG002
        """Publish what came before a run broke off."""
        response = context.get("response")
        if isinstance(response, LLMResult):
            self._publish(response, run_id, partial=True)
        else:
            self._runs.pop(run_id, None)

    def _remember(self, run_id: UUID, metadata: Mapping[str, Any] | None) -> None:
        self._runs[run_id] = metadata or {}
        while len(self._runs) > _MOST_RUNS:
            self._runs.popitem(last=False)

    def _publish(self, response: LLMResult, run_id: UUID, *, partial: bool) -> None:
        metadata = self._runs.pop(run_id, {})
        conversation = next((str(metadata[name]) for name in _CONVERSATION if metadata.get(name)), None)
        tenant = metadata.get("tenant")
        found = [generation for candidates in response.generations for generation in candidates]
        for number, generation in enumerate(found):
            try:
                text, id_, model = _read(generation)
            except Exception as error:  # of a provider's package that is only nearly compatible
                self._producer.unreadable(type(generation).__name__, error)
                continue
            # Several answers to one prompt may share their message's id, and flags are told apart by it.
            id_ = id_ or str(run_id)
            self._producer.publish(
                text=text,
                id=id_ if number == 0 else f"{id_}-{number}",
                model=model or (response.llm_output or {}).get("model_name") or metadata.get("ls_model_name"),
                tenant=str(tenant) if tenant else self._tenant,
                conversation_id=conversation,
                partial=partial,
            )


def _read(generation: Generation | ChatGeneration | Any) -> tuple[str, str | None, str | None]:
    """Return text, id and model. Content blocks other than text (reasoning, tool calls) are not for the reader."""
    if not isinstance(generation, ChatGeneration | ChatGenerationChunk):
        return generation.text, None, None
    message = generation.message
    return str(message.text), message.id, message.response_metadata.get("model_name")
