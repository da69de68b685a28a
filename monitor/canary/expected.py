"""Which canaries the model in use should decide how: those of the champion, or those that somebody wrote down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from monitor.canary.ledger import Canary
from monitor.canary.messages import from_file, from_package
from monitor.errors import GuardlineError
from monitor.models.pointer import Alias, ModelPointer
from monitor.package import ModelPackage
from monitor.settings import Settings

_log = structlog.get_logger(__name__)


class Expected:
    """Follows the champion. A package that cannot be read leaves the canaries as they are (fails open)."""

    def __init__(self, settings: Settings, pointer: ModelPointer | None) -> None:
        """Read the canaries of the settings.

        Raises:
            ConfigurationError: there are none that can be used. Also `ModelMismatch`, of the package.
        """
        self._settings = settings
        self._pointer = None if settings.canary_messages else pointer
        self._path = settings.model
        self.canaries: Sequence[Canary] = (
            from_file(settings.canary_messages)
            if settings.canary_messages
            else from_package(ModelPackage.load(settings.model), settings)
        )

    async def changed(self) -> bool:
        """Look which package is champion; return whether there are other canaries than before."""
        try:
            choices = await self._pointer.history(Alias.CHAMPION) if self._pointer else []
            if not choices or choices[0].path == self._path:
                return False
            package = await asyncio.to_thread(ModelPackage.load, choices[0].path)
            canaries = from_package(package, self._settings)
        except GuardlineError as error:
            _log.warning("champion_unusable", error=str(error), action="going on with the canaries before")
            return False
        self._path, self.canaries = choices[0].path, canaries
        return True
