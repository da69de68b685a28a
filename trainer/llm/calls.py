"""Calls to one provider through the `openai` client: sent, retried, counted, and their failures told apart.

| what comes back | what happens |
|---|---|
| 408, 409, 429, 5xx, a broken connection, a time-out, a body that is not JSON | again after a wait, up to a limit |
| 401, 402, 403, 404, an exhausted quota, a refused `response_format` | `ProviderError`: no request can succeed |
| 400 by the content filter | a refusal |
| any other 4xx | this request has failed |

The client's own retries are off: each attempt is reserved and settled in the budget, since each may be billed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from trainer.errors import ProviderError
from trainer.llm.chat import Reply
from trainer.llm.costs import Budget, Usage, usage
from trainer.llm.providers import ProviderSettings

T = TypeVar("T")

_RETRIED = {408, 409, 429}
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
# Where the connection was never made, nothing can have been billed. The client wraps its transport's errors, whose
# module has changed its name before; their class names have not.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered, before judgement."""

    content: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int = 0
    output_tokens: int = 0
    snapshot: str | None = None  # the exact model, by its own account


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that this provider does not answer, and why; `refused`: its content filter said no."""

    reason: str
    refused: bool = False


class Stopped(Exception):
    """Nothing more is sent, since another call has found that no request can succeed."""


class Unreadable(Exception):
    """An answer with status 200 that is no chat completion."""


class Caller:
    """The connection of one run. Made, used and closed in one event loop."""

    def __init__(self, settings: ProviderSettings, key: str | None, budget: Budget) -> None:
        self.settings = settings
        self._key = key
        self._budget = budget
        self._not_before = 0.0  # loop time; the provider has asked to be left alone until then
        self._room = asyncio.Event()
        self._stopped = asyncio.Event()
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=settings.base_url,
            max_retries=0,
            timeout=settings.timeout_seconds,
        )
        if urlsplit(settings.base_url).hostname != "api.openai.com":
            # The client reads these from the environment; they are nobody else's business.
            self.client.organization = None
            self.client.project = None

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    def stop(self) -> None:
        """Send nothing more; calls that are under way end as they would."""
        self._stopped.set()
        self._wake()

    def hide(self, text: str) -> str:
        """Return a text of the provider without the key, which some repeat in their messages."""
        return text.replace(self._key, "[key]") if self._key else text

    async def chat(self, content: dict[str, Any], bound: Usage, **facts: str) -> Answer | Failure:
        """Send one chat completion, again where that may help; `facts` go into the ledger.

        Raises:
            ProviderError: no request can succeed.
            CostLimitReached: it could cost more than what is left.
            Stopped: `stop` was called while this one waited.
        """

        async def once() -> Answer:
            return await self._chat_once(content, bound, facts)

        return await self.retrying(once)

    async def retrying(self, once: Callable[[], Awaitable[T]], *, not_found_is_final: bool = True) -> T | Failure:
        """Await `once()`, again where that may help; what is raised is as for `chat`.

        `not_found_is_final`: a 404 says that address or model are wrong, not only this one thing.
        """
        retry = self.settings.retry
        waited = 0.0
        for attempt in range(1, retry.attempts + 1):
            await self.sleep(self._not_before - asyncio.get_running_loop().time())
            try:
                return await once()
            except openai.APIStatusError as error:
                reason = self._reason(error)
                if not_found_is_final or error.status_code != 404:
                    self._raise_if_hopeless(error, reason)
                if error.status_code < 500 and error.status_code not in _RETRIED:
                    return Failure(reason, refused=error.code == "content_filter")
                asked = _retry_after(error.response.headers)
            except openai.APIConnectionError as error:
                reason, asked = self.hide(str(error)), 0.0
            except Unreadable as error:
                reason, asked = str(error), 0.0
            if attempt == retry.attempts:
                return Failure(f"{reason}; given up after {attempt} attempts")
            pause = asked + random.uniform(0, min(retry.cap_seconds, retry.base_seconds * 2 ** (attempt - 1)))
            waited += pause
            if waited > retry.max_wait_seconds:
                return Failure(f"{reason}; given up, since it would have to wait longer than allowed")
            if asked:
                self._not_before = asyncio.get_running_loop().time() + asked
            await self.sleep(pause)
        raise AssertionError("attempts is at least one")

    async def _chat_once(self, content: dict[str, Any], bound: Usage, facts: dict[str, str]) -> Answer:
        call = uuid.uuid4().hex
        await self._reserve(call, bound, facts)
        own: Usage | None = None
        billed = True  # unless we know better
        try:
            rest = {key: value for key, value in content.items() if key not in ("model", "messages")}
            raw = await self.client.chat.completions.with_raw_response.create(
                model=content["model"], messages=content["messages"], extra_body=rest
            )
            answer, own = read_answer(raw.http_response.text, self.settings, self.hide)
        except openai.APIStatusError:
            billed = False
            raise
        except openai.APIConnectionError as error:
            billed = type(error.__cause__).__name__ not in _NOT_SENT
            raise
        finally:
            if own:
                self._budget.settle(call, own)
            else:
                self._budget.release(call, billed=billed)
            self._wake()
        return answer

    async def _reserve(self, call: str, bound: Usage, facts: dict[str, str]) -> None:
        # Calls under way are counted at their bound and mostly cost less: there may be room when they have ended.
        while self._budget.under_way and not self._budget.fits(bound) and not self._stopped.is_set():
            await self._room.wait()
        if self._stopped.is_set():
            raise Stopped
        self._budget.reserve(call, bound, **facts)

    def _wake(self) -> None:
        self._room.set()
        self._room = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait, unless and until `stop` is called.

        Raises:
            Stopped: it was.
        """
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)
        if self._stopped.is_set():
            raise Stopped

    def _reason(self, error: openai.APIStatusError) -> str:
        return self.hide(f"HTTP {error.status_code}: {error.message}")[:500]

    def _raise_if_hopeless(self, error: openai.APIStatusError, reason: str) -> None:
        own = self.settings
        advice = None
        if error.status_code == 401:
            advice = f"check the key in {own.api_key_env}" if self._key else "it needs a key: name it in api_key_env"
        elif error.code in _NO_QUOTA or error.status_code == 402:
            advice = "the account has no credit left: add some and run again; what was answered is kept"
        elif error.status_code == 403:
            advice = "this key may not use this model here: check the account's rights and region"
        elif error.status_code in (404, 405):
            advice = f"there is no model {own.model} at {own.base_url}: check base_url and model"
        elif error.status_code == 400 and str(error.param or "").startswith("response_format"):
            advice = "this endpoint takes no JSON schema: set supports_json_schema: false in a provider file"
        if advice:
            raise ProviderError(f"{own.name}: {advice} ({reason})") from None


def read_answer(
    text: str, settings: ProviderSettings, hide: Callable[[str], str], *, batch: bool = False
) -> tuple[Answer, Usage | None]:
    """Return the answer in the JSON of a chat completion, and what was billed, where the provider says so.

    Raises:
        Unreadable: the text is no chat completion.
    """
    try:
        found = json.loads(text)
        choice = found["choices"][0]
        message = choice["message"]
        content, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        counted, snapshot = found.get("usage"), found.get("model")
        own = usage(settings, counted["prompt_tokens"], counted["completion_tokens"], batch=batch) if counted else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Unreadable("the answer was no chat completion, or was cut off on the way") from None
    texts = [hide(part) if isinstance(part, str) else None for part in (content, refusal, finish, snapshot)]
    tokens = (own.input_tokens, own.output_tokens) if own else (0, 0)
    return Answer(texts[0], texts[1], texts[2], tokens[0], tokens[1], texts[3]), own


def reply_of(key: str, prompt: str, settings: ProviderSettings, answer: Answer, repaired: Reply | None = None) -> Reply:
    """Return an answer as it is recorded; `repaired`: the earlier one that it replaces."""
    return Reply(
        key=key,
        prompt=prompt,
        provider=settings.name,
        model=settings.model,
        content=answer.content,
        refusal=answer.refusal,
        finish_reason=answer.finish_reason,
        input_tokens=answer.input_tokens + (repaired.input_tokens if repaired else 0),
        output_tokens=answer.output_tokens + (repaired.output_tokens if repaired else 0),
        repaired=repaired is not None,
        snapshot=answer.snapshot,
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait (RFC 9110, 10.2.3: seconds or a date), 0 where it does not."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value)) if math.isfinite(float(value)) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
