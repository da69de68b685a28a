"""Tell open pages what has changed: server-sent events (WHATWG HTML, 9.2), at most one a second to each page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from time import monotonic

import orjson

#: Seconds between two events, until a comment keeps the connection open, and until a page has to ask again, which
#: lets an expired session end.
_PACE, _KEEP_ALIVE, _LONGEST = 1.0, 15.0, 600.0
_MOST = 200


class _Page:
    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.news = asyncio.Event()


class Channel:
    """Carries the ids of changed flags to every page that is open."""

    def __init__(self) -> None:
        self._pages: set[_Page] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._pages)

    def tell(self, flags: Iterable[str]) -> None:
        """Tell all pages that these flags have changed."""
        changed = set(flags)
        for page in self._pages:
            page.changed |= changed
            page.news.set()

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._closed = True
        self.tell(())

    async def events(self, summary: Callable[[], dict[str, object]]) -> AsyncIterator[bytes]:
        """Yield events for one page: what `summary` says then, and which flags have changed, until it should reconnect.

        Of more than 200 changed flags none is named: `changed` is null, which means any.
        """
        page = _Page()
        self._pages.add(page)
        end = monotonic() + _LONGEST
        try:
            yield _event(summary() | {"changed": []})
            while not self._closed and monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_KEEP_ALIVE):
                        await page.news.wait()
                if self._closed:
                    return
                if not page.news.is_set():
                    yield b": still here\n\n"
                    continue
                changed, page.changed = page.changed, set()
                page.news.clear()
                named = sorted(changed) if len(changed) <= _MOST else None
                yield _event(summary() | {"changed": named})
                await asyncio.sleep(_PACE)
        finally:
            self._pages.discard(page)


def _event(data: dict[str, object]) -> bytes:
    return b"event: queue\ndata: " + orjson.dumps(data) + b"\n\n"
