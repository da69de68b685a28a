"""The port's real side: asks a provider, many requests at a time or as a batch, and keeps every answer.

In order, for each request: what is recorded is not asked again; a batch of an earlier run that has it is waited for;
with `batch`, the rest goes out as batches; what is then still open (without `batch`: everything) is asked one by one.
An answer that is malformed gets one more chance. Every paid answer is on the disk before the next step.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import ProviderError
from trainer.llm.batches import Batches
from trainer.llm.calls import Answer, Caller, Failure, Stopped, reply_of
from trainer.llm.chat import Reply, body, interpret, key_of, messages, repair_messages, too_long
from trainer.llm.completions import CompletionCache, failed
from trainer.llm.costs import Budget, Ledger, call_bound
from trainer.llm.port import Completion, Request, Status, ignore
from trainer.llm.providers import ProviderSettings, api_key


class OpenAICompleter:
    """Answers requests with a model behind an OpenAI-compatible API.

    Args:
        settings: the provider.
        cache: where answers are kept; ledger and batch records lie beside them.
        batch: send through the Batch API, at its discount and within a day.
        max_cost: US dollars that all runs on this folder may cost together.

    Raises:
        ProviderError: no key, no Batch API, or a limit without known prices.
    """

    def __init__(
        self, settings: ProviderSettings, cache: CompletionCache, *, batch: bool = False, max_cost: float | None = None
    ) -> None:
        if batch and settings.batch_discount is None:
            raise ProviderError(f"{settings.name} has no Batch API (batch_discount is not set): leave --batch out")
        if max_cost is not None and not settings.priced:
            raise ProviderError(
                f"--max-cost needs the prices of {settings.name}: give input_price and output_price "
                "(US dollars per million tokens) in a provider file, or leave --max-cost out"
            )
        self.model = settings.model
        self._settings = settings
        self._cache = cache
        self._batch = batch
        self._max_cost = max_cost
        self._key = api_key(settings)

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Return one completion for each request; see `trainer.llm.port.Completer`. Not to be called in an event loop.

        Raises:
            ProviderError: no request can succeed.
            CostLimitReached: going on could cost more than `max_cost`. Calls under way were waited for and kept.
            CompletionsError: another process uses the folder.
        """
        keys = [key_of(request, self._settings) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        times = Counter(keys)
        with self._cache.writing():
            pending = {key: request for key, request in by_key.items() if not self._is_settled(key, request)}
            advance(len(keys) - sum(times[key] for key in pending))
            failures = asyncio.run(self._ask(pending, lambda key: advance(times[key]))) if pending else {}
        return [failures.get(key) or self._recorded(key, request) for key, request in zip(keys, requests, strict=True)]

    def _recorded(self, key: str, request: Request) -> Completion:
        reply = self._cache.get(key)
        return interpret(request, reply) if reply else failed(request, self._settings, "it was not asked")

    def _is_settled(self, key: str, request: Request) -> bool:
        if not (reply := self._cache.get(key)):
            return False
        match interpret(request, reply).status:
            case Status.OK:
                return True
            case Status.MALFORMED if not reply.repaired:
                return False
            case _:
                return not self._settings.retry_refused

    async def _ask(self, pending: Mapping[str, Request], done: Callable[[str], None]) -> dict[str, Completion]:
        """Get answers into the cache; return those that failed, by key."""
        budget = Budget(self._settings, Ledger(self._cache.folder), self._max_cost)
        caller = Caller(self._settings, self._key, budget)
        try:
            batches = Batches(caller, self._cache, budget)
            fresh = await batches.collect(set(pending))
            unasked = {
                key: request
                for key, request in pending.items()
                if key not in fresh and (self._settings.retry_refused or not self._cache.get(key))
            }
            if self._batch and unasked:
                collected = await batches.run(unasked)
                unasked = {key: request for key, request in unasked.items() if key not in collected}
            online = _Online(caller, self._cache, set(unasked), done)
            return await online.run(pending)
        finally:
            await caller.close()


class _Online:
    """One request after the other, `in_flight` at a time.

    `unasked` are the keys whose recorded reply, if any, does not count.
    """

    def __init__(self, caller: Caller, cache: CompletionCache, unasked: set[str], done: Callable[[str], None]) -> None:
        self._caller = caller
        self._settings = caller.settings
        self._cache = cache
        self._unasked = unasked
        self._done = done
        self._failures: dict[str, Completion] = {}
        self._error: Exception | None = None

    async def run(self, pending: Mapping[str, Request]) -> dict[str, Completion]:
        """Answer every request; return those that failed. Raises what stopped a worker, when all have ended."""
        queue = iter(pending.items())
        await asyncio.gather(*(self._work(queue) for _ in range(min(self._settings.in_flight, len(pending)))))
        if self._error:
            raise self._error
        return self._failures

    async def _work(self, queue: Iterator[tuple[str, Request]]) -> None:
        for key, request in queue:
            try:
                await self._answer(key, request)
            except Stopped:
                return
            except Exception as error:
                # The others have calls under way that are paid for: let them end and be kept.
                self._error = self._error or error
                self._caller.stop()
                return
            self._done(key)

    async def _answer(self, key: str, request: Request) -> None:
        reply = None if key in self._unasked else self._cache.get(key)
        if reply is None:
            content = body(request, self._settings, messages(request, self._settings))
            if too_long(content, self._settings):
                reason = f"the prompt does not fit the {self._settings.context_tokens} tokens of {self._settings.model}"
                self._failures[key] = failed(request, self._settings, reason)
                return
            answer = await self._call(key, request, content)
            if isinstance(answer, Failure):
                self._failures[key] = failed(request, self._settings, answer.reason)
                return
            reply = self._keep(key, request, answer)
        problem = interpret(request, reply)
        if problem.status is Status.MALFORMED and not reply.repaired:
            await self._repair(key, request, reply, problem.reason or "")

    async def _repair(self, key: str, request: Request, reply: Reply, problem: str) -> None:
        chat = repair_messages(request, self._settings, reply, problem)
        answer = await self._call(key, request, body(request, self._settings, chat, repair=True))
        # Where the repair itself fails the malformed answer stands, and the next run tries the repair again.
        if isinstance(answer, Answer):
            self._keep(key, request, answer, repaired=reply)

    async def _call(self, key: str, request: Request, content: dict[str, Any]) -> Answer | Failure:
        bound = call_bound(content, self._settings)
        answer = await self._caller.chat(content, bound, key=key, prompt=request.prompt)
        if isinstance(answer, Failure) and answer.refused:
            return Answer(content=None, refusal=answer.reason, finish_reason="content_filter")
        return answer

    def _keep(self, key: str, request: Request, answer: Answer, *, repaired: Reply | None = None) -> Reply:
        reply = reply_of(key, request.prompt, self._settings, answer, repaired)
        self._cache.put(reply)
        return reply
