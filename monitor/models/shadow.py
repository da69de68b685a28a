"""A challenger in the shadow: it scores a share of the stream beside the champion, and nobody is alerted by it.

Which messages is decided by their ids, so that every worker and every delivery chooses the same ones. What both models
decided goes to a topic of its own, one record a message and no text, for `guardline models --shadow` to count. The
shadow never holds up the stream: it works behind a short queue, and what finds the queue full is passed over and
counted (fails open).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

import structlog

from monitor import metrics
from monitor.errors import GuardlineError
from monitor.models.pointer import Alias, ModelPointer
from monitor.models.switch import Serving
from monitor.package import ModelPackage
from monitor.publisher import Event, Publisher
from monitor.records import ModelReference, Opinion, ShadowRecord, event_id
from monitor.types import MessageVerdict

_log = structlog.get_logger(__name__)
#: Batches of messages that wait for the challenger.
_QUEUE = 16


def chosen(message_id: str, share: float) -> bool:
    """Tell whether a message is in the share; the same for everyone, uniform over ids."""
    digest = hashlib.sha256(message_id.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Shadow:
    """Lets the challenger of a pointer score what the champion has scored."""

    def __init__(
        self,
        build: Callable[[ModelPackage], Serving],
        pointer: ModelPointer,
        publisher: Publisher,
        *,
        topic: str,
        share: float,
        every: float,
    ) -> None:
        """Take the challenger from `pointer`, looking every `every` seconds; `build` makes it ready to screen."""
        self._build = build
        self._pointer = pointer
        self._publisher = publisher
        self._topic = topic
        self._share = share
        self._every = every
        self._queue: asyncio.Queue[tuple[ModelReference, list[MessageVerdict]]] = asyncio.Queue(_QUEUE)
        self._challenger: Serving | None = None
        self._refused: str | None = None
        self._looked = -every

    def offer(self, model: ModelReference, verdicts: Sequence[MessageVerdict]) -> None:
        """Hand over what the champion decided; returns at once."""
        mine = [v for v in verdicts if chosen(v.message.id, self._share)]
        if not mine:
            return
        try:
            self._queue.put_nowait((model, mine))
        except asyncio.QueueFull:
            metrics.SHADOW_SKIPPED.inc(len(mine))

    async def run(self) -> None:
        """Work for ever."""
        while True:
            model, verdicts = await self._queue.get()
            try:
                await self._look()
                if self._challenger is not None and self._challenger.model != model:
                    await self._compare(self._challenger, model, verdicts)
            except GuardlineError as error:
                metrics.SHADOW_SKIPPED.inc(len(verdicts))
                _log.warning("shadow_failed", error=str(error), action="the stream is not concerned")
            except Exception:
                metrics.SHADOW_SKIPPED.inc(len(verdicts))
                _log.exception("shadow_failed", action="the stream is not concerned")
            finally:
                self._queue.task_done()

    async def _look(self) -> None:
        """Take the challenger that the pointer names, if it has changed; one that cannot be used is said once."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < self._every:
            return
        self._looked = now
        choices = await self._pointer.history(Alias.CHALLENGER)
        wanted = choices[0] if choices else None
        have = self._challenger.model if self._challenger else None
        if wanted and have and (have.name, have.version) == (wanted.name, wanted.version):
            return
        await self._drop()
        if wanted is None or wanted.model == self._refused:
            return
        try:
            package = await asyncio.to_thread(ModelPackage.load, wanted.path)
            self._challenger = await asyncio.to_thread(self._build, package)
        except GuardlineError as error:
            self._refused = wanted.model
            _log.error("challenger_refused", model=wanted.model, error=str(error))

    async def _compare(self, challenger: Serving, model: ModelReference, verdicts: Sequence[MessageVerdict]) -> None:
        others = await challenger.screening.screen([v.message for v in verdicts])
        events = []
        for own, other in zip(verdicts, others, strict=True):
            metrics.SHADOW.labels(own.verdict.value, other.verdict.value).inc()
            record = ShadowRecord(
                id=event_id(
                    "shadow", own.message.tenant or "", own.message.id, model.version, challenger.model.version
                ),
                message_id=own.message.id,
                tenant=own.message.tenant,
                champion=Opinion.of(model, own),
                challenger=Opinion.of(challenger.model, other),
            )
            events.append(
                Event(self._topic, own.message.id.encode("utf-8", "replace"), record.model_dump_json().encode())
            )
        await self._publisher.publish(events)

    async def drain(self) -> None:
        """Return when everything that was handed over is done with."""
        await self._queue.join()

    async def _drop(self) -> None:
        if self._challenger is not None:
            await self._challenger.screening.close()
            self._challenger = None

    async def close(self) -> None:
        """Close the challenger."""
        await self._drop()
