"""The Batch API: many requests in one file, answered within a day at a lower price.

Each batch has a record `completions/batches/<token>.json`, written before anything is uploaded and after every step.
A process that was killed picks its batch up from there: by the batch's id, or, where it died between asking for the
batch and hearing the id, by the id of the input file, which no other batch has. So a batch is never paid for twice.
(https://platform.openai.com/docs/guides/batch)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from trainer.artifacts import write_json
from trainer.errors import CompletionsError, CostLimitReached, ProviderError
from trainer.llm.calls import Caller, Failure, Unreadable, read_answer, reply_of
from trainer.llm.chat import body, messages
from trainer.llm.completions import CompletionCache
from trainer.llm.costs import Budget, Usage, call_bound, usage
from trainer.llm.port import Request

if TYPE_CHECKING:
    from openai.types import Batch

T = TypeVar("T")

_FILE_BYTES = 190_000_000  # the API takes 200 MB
_ENDED = {"completed", "expired", "cancelled", "failed"}
_DAY = 86_400


class BatchRecord(BaseModel):
    """One batch: what is in it, and how far it has come. `prompts` has the prompt's name by request key."""

    token: str
    base_url: str
    model: str
    prompts: dict[str, str]
    created: float
    input_file: str | None = None
    batch: str | None = None
    done: bool = False


class Batches:
    """Submits and collects the batches of one folder of completions."""

    def __init__(self, caller: Caller, cache: CompletionCache, budget: Budget) -> None:
        self._caller = caller
        self._settings = caller.settings
        self._cache = cache
        self._budget = budget
        self._folder = cache.folder / "batches"

    async def collect(self, wanted: set[str]) -> set[str]:
        """Wait for the batches of earlier runs that answer a wanted key; return the keys that have an answer now."""
        answered: set[str] = set()
        for record in self._unfinished():
            if wanted & record.prompts.keys():
                answered |= await self._finish(record)
        return answered

    async def run(self, requests: Mapping[str, Request]) -> set[str]:
        """Send requests, by key, as batches and wait for them; return the keys that have an answer now.

        Rows that failed or expired are not among them.

        Raises:
            ProviderError: the provider takes no batch, or not this one.
            CostLimitReached: the batches could cost more than what is left; nothing was sent.
        """
        chunks = list(self._chunks(requests))
        total = sum(bound.price or 0 for _, _, bound in chunks)
        if not self._budget.fits(Usage(0, 0, total)):
            raise CostLimitReached(
                f"${self._budget.spent:.4f} are spent and the batch could cost ${total:.4f}: run again with a higher "
                "--max-cost, or without --batch to spend what is left"
            )
        records = [await self._submit(keys, lines, bound) for keys, lines, bound in chunks]
        return set().union(*[await self._finish(record) for record in records])

    def _chunks(self, requests: Mapping[str, Request]) -> Iterator[tuple[dict[str, str], bytes, Usage]]:
        """Yield (prompt names by key, input file, bound of its cost) for one batch after the other."""
        prompts: dict[str, str] = {}
        lines = b""
        bounds: list[Usage] = []
        for key, request in requests.items():
            content = body(request, self._settings, messages(request, self._settings))
            row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": content}
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if prompts and (len(prompts) == self._settings.batch_requests or len(lines) + len(line) > _FILE_BYTES):
                yield prompts, lines, _sum(bounds)
                prompts, lines, bounds = {}, b"", []
            prompts[key] = request.prompt
            lines += line
            bounds.append(call_bound(content, self._settings, batch=True))
        if prompts:
            yield prompts, lines, _sum(bounds)

    async def _submit(self, prompts: dict[str, str], lines: bytes, bound: Usage) -> BatchRecord:
        record = BatchRecord(
            token=uuid.uuid4().hex,
            base_url=self._settings.base_url,
            model=self._settings.model,
            prompts=prompts,
            created=time.time(),
        )
        self._keep(record)
        self._budget.reserve(record.token, bound, batch="true")
        client = self._caller.client
        try:
            name = f"guardline-{record.token}.jsonl"
            uploaded = await self._call("upload", lambda: client.files.create(file=(name, lines), purpose="batch"))
            record = self._keep(record.model_copy(update={"input_file": uploaded.id}))
            created = await self._call("create the batch", lambda: self._find_or_create(record))
        except ProviderError:
            # Refused, or given up; in the second case it may run all the same, and is looked for the next time.
            if record.input_file is None:
                self._forget(record)
            raise
        return self._keep(record.model_copy(update={"batch": created.id}))

    async def _find_or_create(self, record: BatchRecord) -> Batch:
        if record.input_file is None:
            raise CompletionsError(f"{self._path(record)}: no input file: remove the record")
        # An attempt before this one may have made the batch and lost the answer.
        return await self._find(record) or await self._caller.client.batches.create(
            input_file_id=record.input_file, endpoint="/v1/chat/completions", completion_window="24h"
        )

    async def _find(self, record: BatchRecord) -> Batch | None:
        async for batch in self._caller.client.batches.list(limit=100):
            if batch.input_file_id == record.input_file:
                return batch
            if batch.created_at < record.created - _DAY:  # newest come first
                return None
        return None

    async def _finish(self, record: BatchRecord) -> set[str]:
        """Wait for a batch, keep its answers, return their keys."""
        if record.batch is None:
            found = None
            if record.input_file:
                found = await self._call("find the batch", lambda: self._find_as_list(record))
            if not found:
                self._forget(record)
                return set()
            record = self._keep(record.model_copy(update={"batch": found[0].id}))
        batch = await self._ended(record)
        if batch.status == "failed":
            self._forget(record)
            errors = (batch.errors.data if batch.errors else None) or []
            said = self._caller.hide("; ".join(f"{e.code}: {e.message}" for e in errors[:5])) or "no reason given"
            raise ProviderError(
                f"{self._settings.name}: the batch was not taken ({said}): mend that, lower batch_requests, or run "
                "without --batch; nothing was billed"
            )
        rows = await self._download(batch.output_file_id)
        answered = self._take(record, rows)
        self._keep(record.model_copy(update={"done": True}))
        return answered

    async def _find_as_list(self, record: BatchRecord) -> list[Batch]:
        found = await self._find(record)
        return [found] if found else []

    async def _ended(self, record: BatchRecord) -> Batch:
        identifier = record.batch or ""
        while True:
            batch = await self._call("ask for the batch", lambda: self._caller.client.batches.retrieve(identifier))
            if batch.status in _ENDED:
                return batch
            await self._caller.sleep(self._settings.poll_seconds)

    async def _download(self, file: str | None) -> list[bytes]:
        if file is None:
            return []
        content = await self._call("download the answers", lambda: self._caller.client.files.content(file))
        return content.content.splitlines()

    def _take(self, record: BatchRecord, rows: list[bytes]) -> set[str]:
        """Keep the answers in the rows of an output file; settle what the batch cost."""
        answered: set[str] = set()
        used: list[Usage | None] = []
        for row in rows:
            try:
                found = orjson.loads(row)
                key, response = found["custom_id"], found["response"]
                if found.get("error") or response["status_code"] != 200 or key not in record.prompts or key in answered:
                    continue
                text = orjson.dumps(response["body"]).decode()
                answer, own = read_answer(text, self._settings, self._caller.hide, batch=True)
            except (orjson.JSONDecodeError, KeyError, TypeError, Unreadable):
                continue  # asked again, one by one
            used.append(own)
            answered.add(key)
            reply = reply_of(key, record.prompts[key], self._settings, answer)
            if self._cache.get(key) != reply:
                self._cache.put(reply)
        counted = [own for own in used if own]
        if len(counted) < len(used):
            self._budget.release(record.token, billed=True)
        else:
            tokens_in, tokens_out = sum(u.input_tokens for u in counted), sum(u.output_tokens for u in counted)
            self._budget.settle(record.token, usage(self._settings, tokens_in, tokens_out, batch=True))
        return answered

    async def _call(self, what: str, once: Callable[[], Awaitable[T]]) -> T:
        result = await self._caller.retrying(once, not_found_is_final=False)
        if isinstance(result, Failure):
            raise ProviderError(
                f"{self._settings.name}: could not {what} ({result.reason}): run again to go on where it stopped, or "
                f"give the batch up by removing its record in {self._folder}"
            )
        return result

    def _unfinished(self) -> list[BatchRecord]:
        own = self._settings
        records = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = BatchRecord.model_validate_json(path.read_bytes())
            except ValidationError:
                raise CompletionsError(f"{path}: not the record of a batch: mend or remove it") from None
            if not record.done and (record.base_url, record.model) == (own.base_url, own.model):
                records.append(record)
        return records

    def _path(self, record: BatchRecord) -> Path:
        return self._folder / f"{record.token}.json"

    def _keep(self, record: BatchRecord) -> BatchRecord:
        content: dict[str, Any] = record.model_dump()
        write_json(self._path(record), content)
        return record

    def _forget(self, record: BatchRecord) -> None:
        """Remove the record of a batch that was never taken; nothing was billed for it."""
        self._budget.release(record.token, billed=False)
        self._path(record).unlink(missing_ok=True)


def _sum(bounds: list[Usage]) -> Usage:
    prices = [bound.price for bound in bounds if bound.price is not None]
    return Usage(
        sum(bound.input_tokens for bound in bounds),
        sum(bound.output_tokens for bound in bounds),
        sum(prices) if len(prices) == len(bounds) else None,
    )
