"""The chat-completions wire format: the body of a request, the reply as it is kept, and what the reply amounts to.

All pure. A `Reply` is what came back, before judgement; it is kept as it came, and judged whenever it is read. So a
better parser never pays twice, and a batch can be collected by a process that knows nothing of its requests.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.llm.port import Completion, Request, Status, request_key, response_schema
from trainer.llm.providers import ProviderSettings

Message = dict[str, str]

# Tokens that the provider adds around messages and schema (roles, separators): 3 a message and 3 for the answer with
# OpenAI's models (its cookbook, "How to count tokens with tiktoken"); the rest is margin for other providers.
_FRAMING_TOKENS = 64
# Bytes of English a token holds on average, by OpenAI's rule of thumb. Only ever used where no bound is needed.
_BYTES_PER_TOKEN = 4
_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Reply(BaseModel):
    """A provider's answer to one request, as recorded; tokens are those billed, first answer and repair together."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    prompt: str
    provider: str
    model: str
    content: str | None
    refusal: str | None = None
    finish_reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    repaired: bool = False  # the model has had its second chance
    snapshot: str | None = None  # the exact model, by the provider's account


def key_of(request: Request, settings: ProviderSettings) -> str:
    """Return the key of a request to this provider."""
    return request_key(request, settings.model, settings.base_url, settings.extra_body)


def messages(request: Request, settings: ProviderSettings) -> list[Message]:
    """Return the messages of a request; the schema is among them where the provider cannot be given one."""
    system = request.system
    if not settings.supports_json_schema:
        schema = json.dumps(response_schema(request.response), ensure_ascii=False)
        system = f"{system}\n\nAnswer with one JSON object and nothing else. It must fit this JSON schema:\n{schema}"
    return [{"role": "system", "content": system}, {"role": "user", "content": request.user}]


def repair_messages(request: Request, settings: ProviderSettings, reply: Reply, problem: str) -> list[Message]:
    """Return the messages that ask once more, after an answer that could not be used."""
    first = messages(request, settings)
    if reply.finish_reason == "length" or not reply.content:
        # What was cut off is of no use to the model, and would be paid for again.
        shorter = f"{request.user}\n\nKeep the answer short: the last one {problem}."
        return [*first[:-1], {"role": "user", "content": shorter}]
    ask = f"Your answer cannot be used: {problem}. Send the whole JSON object again, corrected, and nothing else."
    return [*first, {"role": "assistant", "content": reply.content}, {"role": "user", "content": ask}]


def max_tokens(request: Request, settings: ProviderSettings) -> int:
    """Return how many tokens the answer may have."""
    return min(request.max_tokens, settings.max_output_tokens)


def body(request: Request, settings: ProviderSettings, chat: list[Message], *, repair: bool = False) -> dict[str, Any]:
    """Return the JSON body of `POST /chat/completions`, as the Batch API takes it too."""
    if settings.supports_json_schema:
        schema = {"name": request.response.__name__[:64], "strict": True, "schema": response_schema(request.response)}
        form: dict[str, Any] = {"type": "json_schema", "json_schema": schema}
    else:
        form = {"type": "json_object"}
    content: dict[str, Any] = {
        "model": settings.model,
        "messages": chat,
        "response_format": form,
        "temperature": request.temperature,
        settings.token_limit_field: max_tokens(request, settings),
    }
    if settings.supports_seed:
        content["seed"] = request.seed + repair  # the same seed might give the same fault
    return content | settings.extra_body


def input_bound(content: dict[str, Any]) -> int:
    """Return an upper bound of the input tokens of a request body.

    Byte-level BPE tokenizers, as those of OpenAI's and DeepSeek's models are, start from single bytes and merge, so a
    text never has more tokens than UTF-8 bytes. English has about a fourth. The schema is billed as input too.
    """
    texts = [message["content"] for message in content["messages"]]
    texts.append(json.dumps(content["response_format"], ensure_ascii=False))
    return sum(len(text.encode()) for text in texts) + _FRAMING_TOKENS


def too_long(content: dict[str, Any], settings: ProviderSettings) -> bool:
    """Tell whether a prompt would not fit the model's context even as ordinary English."""
    likely = input_bound(content) / _BYTES_PER_TOKEN
    return bool(likely + content[settings.token_limit_field] > settings.context_tokens)


def interpret(request: Request, reply: Reply) -> Completion:
    """Judge a reply: parsed and valid, refused, or malformed and why."""
    status, value, reason = _judge(request, reply)
    return Completion(
        status=status,
        value=value,
        raw=reply.content or "",
        model=reply.model,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        reason=reason,
        key=reply.key,
        provider=reply.provider,
    )


def _judge(request: Request, reply: Reply) -> tuple[Status, BaseModel | None, str | None]:
    if reply.refusal:
        return Status.REFUSED, None, reply.refusal
    if reply.finish_reason == "content_filter":
        return Status.REFUSED, None, "stopped by the provider's content filter"
    if reply.finish_reason == "length":
        return Status.MALFORMED, None, f"was cut off after {request.max_tokens} tokens"
    if not reply.content or not reply.content.strip():
        return Status.MALFORMED, None, "was empty"
    fenced = _FENCED.match(reply.content)
    try:
        return Status.OK, request.response.model_validate_json(fenced[1] if fenced else reply.content), None
    except ValidationError as error:
        return Status.MALFORMED, None, _problems(error)


def _problems(error: ValidationError) -> str:
    found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()]
    return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
