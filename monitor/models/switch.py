"""Holds the model in use, and moves to another one while the stream runs.

The other model is built beside the one in use and checked: the package must be whole and for the same guideline, the
server must have its weights, its canaries must get their verdicts. Only then do new chunks go to it. Chunks in work
finish on the model that they began with, which is closed after the last of them; so each verdict names the model that
gave it. A model that fails a check is refused and said so, and the one in use serves on (fails open, with a metric that
raises an alert): an old model is better than none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from monitor import metrics
from monitor.errors import ConfigurationError, GuardlineError, ModelMismatch, ScorerUnavailable, StoreUnavailable
from monitor.events import EventFactory
from monitor.models.canaries import require
from monitor.models.pointer import Alias, Choice, ModelPointer
from monitor.package import Manifest, ModelPackage
from monitor.records import ModelReference
from monitor.screening import Screening

_log = structlog.get_logger(__name__)


@dataclass
class Serving:
    """A model at work: what screens with it, what makes events in its name, and how many chunks use it."""

    package: ModelPackage
    screening: Screening
    events: EventFactory
    users: int = field(default=0, init=False)
    retired: bool = field(default=False, init=False)

    @property
    def model(self) -> ModelReference:
        """Name and version."""
        return self.package.reference


Build = Callable[[ModelPackage], Serving]


def incompatible(old: Manifest, new: Manifest) -> str | None:
    """Return why a model cannot take over from another, or none."""
    if new.guideline.id != old.guideline.id:
        return f"it is for guideline {new.guideline.id}, the one in use for {old.guideline.id}"
    if new.scope.language != old.scope.language:
        return f"it reads `{new.scope.language}`, the one in use `{old.scope.language}`"
    return None


async def check(serving: Serving, current: Manifest | None) -> None:
    """Check a model before it serves.

    Raises:
        ModelMismatch: it cannot take over, or decides its canaries otherwise; the message says which.
        ScorerUnavailable: it cannot be asked now.
        ScorerFailed: it answers with nonsense.
    """
    manifest = serving.package.manifest
    if current is not None and (reason := incompatible(current, manifest)) is not None:
        raise ModelMismatch(f"{serving.package.path}: {reason}")
    await require(serving.screening, serving.package)


class ModelSwitch:
    """The model in use. Not thread-safe: for one event loop."""

    def __init__(self, build: Build, first: Serving) -> None:
        """Begin with `first`; `build` makes another one ready to screen."""
        self._build = build
        self._current = first
        self._refused: Choice | None = None
        metrics.MODEL_INFO.labels(first.model.name, first.model.version).set(1)

    @property
    def current(self) -> Serving:
        """The model that new chunks go to."""
        return self._current

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Serving]:
        """Hold the model in use for one chunk: it stays open until the chunk is done, whatever happens meanwhile."""
        serving = self._current
        serving.users += 1
        try:
            yield serving
        finally:
            serving.users -= 1
            await self._close_if_unused(serving)

    async def _close_if_unused(self, serving: Serving) -> None:
        if serving.retired and not serving.users:
            serving.retired = False  # closed once
            await serving.screening.close()

    async def move(self, path: Path) -> None:
        """Let new chunks go to the package at `path`, once it has passed its checks.

        Raises:
            ConfigurationError: there is no package there.
            ModelMismatch: it is not whole, cannot take over, or fails its canaries.
            ScorerUnavailable: it cannot be asked now; try again.
        """
        package = await asyncio.to_thread(ModelPackage.load, path)
        if package.reference == self._current.model:
            return
        serving = await asyncio.to_thread(self._build, package)
        try:
            await check(serving, self._current.package.manifest)
        except BaseException:
            await serving.screening.close()
            raise
        old, self._current = self._current, serving
        metrics.MODEL_INFO.labels(old.model.name, old.model.version).set(0)
        metrics.MODEL_INFO.labels(serving.model.name, serving.model.version).set(1)
        _log.info(
            "model_switched",
            model=f"{serving.model.name}@{serving.model.version}",
            before=f"{old.model.name}@{old.model.version}",
        )
        old.retired = True
        await self._close_if_unused(old)

    async def follow(self, pointer: ModelPointer, every: float) -> None:
        """Move wherever the champion's pointer points, for ever, looking every `every` seconds."""
        while True:
            await self.look(pointer)
            await asyncio.sleep(every)

    async def look(self, pointer: ModelPointer) -> None:
        """Look once, and move if the pointer has; a refusal is said once for each move of the pointer."""
        try:
            choices = await pointer.history(Alias.CHAMPION)
        except (StoreUnavailable, ConfigurationError) as error:
            metrics.STORE_FAILURES.inc()
            _log.warning("model_pointer_unreadable", error=str(error), action="keeping the model in use")
            return
        if not choices or choices[0] == self._refused:
            return
        wanted = choices[0]
        if (wanted.name, wanted.version) == (self._current.model.name, self._current.model.version):
            return
        try:
            await self.move(wanted.path)
        except ScorerUnavailable as error:
            _log.warning("model_not_ready", model=wanted.model, error=str(error), action="trying again")
        except GuardlineError as error:
            self._refused = wanted
            metrics.MODEL_REFUSED.inc()
            _log.error("model_refused", model=wanted.model, error=str(error), action="keeping the model in use")

    async def close(self) -> None:
        """Close the model in use."""
        await self._current.screening.close()
