"""Receivers on loopback: one that answers HTTP as it is told, and one that takes mail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = tuple[int, dict[str, str]]
OK: Answer = (200, {})


@dataclass
class Receiver:
    """Answers the n-th request with the n-th answer, then with 200; None never answers."""

    answers: Sequence[Answer | None] = ()
    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def taken(self) -> list[Any]:
        """The bodies that were answered with 200, each once: a receiver that knows repeats by their key."""
        answered = [*self.answers, *[OK] * len(self.bodies)]
        keys = [headers["Idempotency-Key"] for headers in self.headers]
        taken = {k: body for k, body, a in zip(keys, self.bodies, answered, strict=False) if a is not None and a == OK}
        return list(taken.values())

    async def handle(self, request: web.Request) -> web.Response:
        number = len(self.bodies)
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        answer = self.answers[number] if number < len(self.answers) else OK
        if answer is None:
            await self.closing.wait()
            return web.Response(status=500)
        return web.Response(status=answer[0], headers=answer[1])


@asynccontextmanager
async def receiving(*answers: Answer | None) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hush-hush"
        yield receiver
    finally:
        receiver.closing.set()
        await runner.cleanup()


@dataclass
class MailServer:
    """Takes mail; `answers` may say otherwise, by SMTP verb."""

    answers: dict[str, str]
    port: int = 0
    mails: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test ESMTP\r\n")
        while line := (await reader.readline()).decode():
            verb = line.split(maxsplit=1)[0].upper().strip()
            answer = self.answers.get(verb, "221 bye" if verb == "QUIT" else "250 ok")
            if verb == "DATA" and verb not in self.answers:
                writer.write(b"354 go on\r\n")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
            writer.write(f"{answer}\r\n".encode())
            if verb == "QUIT":
                break
        writer.close()


@asynccontextmanager
async def taking_mail(**answers: str) -> AsyncIterator[MailServer]:
    mail = MailServer(answers)
    server = await asyncio.start_server(mail.handle, "127.0.0.1", 0, limit=2**22)
    mail.port = server.sockets[0].getsockname()[1]
    async with server:
        yield mail
