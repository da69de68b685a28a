"""The port to a language model: what is asked, what comes back.

A stage builds `Request`s and hands them to a `Completer`; it never learns whether the answers come from a provider
(`trainer.llm.providers`), from its Batch API, or from recorded completions. Two rules hold for every implementation:
one completion for each request, in the order of the requests; and an answer that cannot be used is returned as such,
with its reason, never raised and never left out. Only what would spoil every further request (a wrong key, an unknown
model, the cost limit) is an error, see `trainer.errors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Request:
    """One request for structured output.

    `prompt` names the prompt file that `system` and `user` were rendered from (`trainer.llm.prompts.render`), for
    records only. The JSON schema of `response` is sent along, and the answer is validated by it.
    """

    prompt: str
    system: str
    user: str
    response: type[BaseModel]
    max_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # the model, or the provider's content filter, declined
    MALFORMED = "malformed"  # cut off, not JSON, or against the schema, also after one repair
    FAILED = "failed"  # no answer: the provider could not be reached, or nothing is recorded


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one request.

    `value` is an instance of the request's `response` where the status is OK, else None and `reason` says why. Tokens
    are those that the provider billed for this request, repairs included, whether it was asked now or earlier.
    """

    status: Status
    value: BaseModel | None
    raw: str
    model: str
    input_tokens: int
    output_tokens: int
    reason: str | None = None
    key: str = ""
    provider: str = ""


def ignore(_: int) -> None:
    """Take no notice of progress."""


class Completer(Protocol):
    """Answers requests."""

    model: str

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Return one completion for each request, in their order.

        `advance` is called with the number of requests that have just been answered. Never raises for one bad answer.

        Raises:
            ProviderError: no request can succeed (key, model, quota); the message says what to do.
            CostLimitReached: going on would cost more than allowed.
        """
        ...


#: Words of JSON schema that pydantic writes and structured outputs do not take; validation still enforces them.
_UNSUPPORTED = {"default", "discriminator", "minLength", "maxLength", "uniqueItems"}


def response_schema(response: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of an answer in the strict subset that OpenAI's structured outputs accept.

    Every object gets `additionalProperties: false` and requires all of its properties; words outside the subset are
    left out. (https://platform.openai.com/docs/guides/structured-outputs, "Supported schemas")
    """
    schema: dict[str, Any] = _strict(response.model_json_schema())
    return schema


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": node["$ref"]}  # the subset allows nothing beside a reference
    # The keys below `properties` and `$defs` are names of the model's own, not words of JSON schema.
    strict = {
        "anyOf" if key == "oneOf" else key: {name: _strict(child) for name, child in value.items()}
        if key in ("properties", "$defs")
        else _strict(value)
        for key, value in node.items()
        if key not in _UNSUPPORTED
    }
    if strict.get("type") == "object" and "properties" in strict:
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


def request_key(request: Request, model: str, base_url: str, extra_body: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 (hex) under which the answer to a request is kept.

    It covers all that shapes the answer: both rendered messages, schema, token limit, temperature, seed, model,
    endpoint and the provider's own parameters; not the name of the prompt file.
    """
    parts = {
        "system": request.system,
        "user": request.user,
        "schema": response_schema(request.response),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "model": model,
        "base_url": base_url.rstrip("/"),
        "extra_body": dict(extra_body or {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
