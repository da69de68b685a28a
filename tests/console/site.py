"""The console's pages over ASGI: everything real but Kafka, whose records and acknowledgements a test decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from httpx import ASGITransport, AsyncClient, Response

from monitor.console.app import build_app
from monitor.console.deciding import Deciding
from monitor.console.desk import Desk
from monitor.console.gate import Gate, Proxy, Sessions
from monitor.console.memory import MemoryConsoleStore
from monitor.console.messages import Messages
from monitor.console.pages import Pages, Policy, Recommendation
from monitor.console.store import Item
from monitor.console.users import User, Users, digest
from tests.audit.trails import MemoryTrail
from tests.console.stage import NOW, TEXT, TOKENS, USERS, MemoryReader, item
from tests.monitor.fakes import RecordingPublisher

SECRET = "s" * 32
RECOMMENDATIONS = [
    Recommendation("rem-1.2", "1.2", "Give 200 mg on day 1."),
    Recommendation("rem-1.3", "1.3", "Give 100 mg from day 2."),
]


class Site:
    """One console."""

    def __init__(
        self,
        *,
        reveal: Any = "click",
        proxy: str | None = None,
        users: Users | None = None,
        links: dict[str, User] | None = None,
        loopback: bool = True,
        timeout: float = 5.0,
    ) -> None:
        self.now = NOW + timedelta(hours=1)
        self.store = MemoryConsoleStore()
        self.desk = Desk(self.store, retention=timedelta(days=90), clock=self._clock)
        self.reader = MemoryReader()
        self.publisher = RecordingPublisher()
        self.trail = MemoryTrail()
        self.gate = Gate(
            Sessions(SECRET, seconds=3600),
            users or Users(None, USERS),
            Proxy(proxy, "127.0.0.1"),
            loopback=loopback,
        )
        messages = Messages(self.reader, ["llm.outputs"])
        deciding = Deciding(self.desk, messages, self.publisher, "safety.feedback", timeout=timeout, clock=self._clock)
        self.pages = Pages(
            desk=self.desk,
            gate=self.gate,
            messages=messages,
            deciding=deciding,
            trail=self.trail,
            recommendations=RECOMMENDATIONS,
            policy=Policy(reveal),
            links={digest(token): user for token, user in (links or {}).items()},
            clock=self._clock,
        )
        self.app = build_app(self.pages, hosts=["127.0.0.1"])

    def _clock(self) -> datetime:
        return self.now

    def client(self, **headers: str) -> AsyncClient:
        """Return a visitor."""
        transport = ASGITransport(self.app, raise_app_exceptions=False)
        return AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)

    async def visitor(self, name: str) -> Visitor:
        """Return somebody who has logged in."""
        visitor = Visitor(self.client())
        await visitor.login(name)
        return visitor

    async def put(self, *items: Item) -> None:
        await self.desk.put(items)

    async def put_message(
        self, number: int = 0, *, text: str = TEXT, span: tuple[int, int] = (30, 51), **changes: Any
    ) -> Item:
        """Keep a flag, and its message and itself where they would lie in Kafka."""
        import hashlib

        import orjson

        quoted = text[slice(*span)]
        hashed = hashlib.sha256(quoted.encode()).hexdigest()
        found = item(number, start=span[0], end=span[1], statement_sha256=hashed, **changes)
        assert found.origin is not None
        assert found.place is not None
        self.reader.keep(found.origin, orjson.dumps({"id": found.flag.message_id, "text": text}))
        published = found.flag.model_copy(update={"statement": quoted, "reason": "400 mg stated"})
        self.reader.keep(found.place, published.model_dump_json().encode())
        await self.put(found)
        return found


class Visitor:
    """A browser without JavaScript: it keeps cookies, and sends forms with what was in them."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **options: Any) -> Response:
        return await self.client.get(path, **options)

    async def csrf(self) -> str:
        page = await self.client.get("/login", follow_redirects=True)
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
        assert found is not None, page.text
        return found[1]

    async def post(self, path: str, **fields: str) -> Response:
        return await self.client.post(path, data={"csrf": await self.csrf(), **fields})

    async def login(self, name: str) -> None:
        answer = await self.post("/login", token=TOKENS[name])
        assert answer.status_code == 303, answer.text


def ids(page: Response) -> Sequence[str]:
    """Return the flags that a queue lists, in order."""
    return re.findall(r'data-flag="([0-9a-f]+)"', page.text)
