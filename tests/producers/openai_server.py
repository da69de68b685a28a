"""A local server that speaks OpenAI's chat completions and responses, whole or as server-sent events.

Every answer is `TEXT`, streamed in pieces of four characters.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = "Remdesivir is given as a 400 mg loading dose on day 1."
_PIECES = [TEXT[at : at + 4] for at in range(0, len(TEXT), 4)]


def _completion(**more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_770_000_000, "model": "gpt-4o-mini", **more}


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    return _completion(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])


def response(*, text: str | None = TEXT, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": [part]}
    return {
        "id": "resp_1", "object": "response", "created_at": 1_770_000_000.0, "model": "gpt-4o-mini", "status": status,
        "output": [] if text is None else [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "metadata": {},
    }  # fmt: skip


def _chunks() -> Iterator[dict[str, Any]]:
    def chunk(**choice: Any) -> dict[str, Any]:
        return _completion(choices=[{"index": 0, **choice}]) | {"object": "chat.completion.chunk"}

    yield chunk(delta={"role": "assistant", "content": ""})
    for piece in _PIECES:
        yield chunk(delta={"content": piece})
    yield chunk(delta={}, finish_reason="stop")
    yield _completion(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}) | {
        "object": "chat.completion.chunk"
    }


def _events() -> Iterator[dict[str, Any]]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "response": response(text=None, status="in_progress")}
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**response()["output"][0], "content": []}}
    part = {"type": "output_text", "text": "", "annotations": []}
    yield {"type": "response.content_part.added", **where, "part": part}
    for piece in _PIECES:
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": TEXT, "logprobs": []}
    yield {"type": "response.completed", "response": response()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.endswith("/chat/completions")
        if not request.get("stream"):
            self._send(json.dumps(completion() if chat else response()).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for number, event in enumerate(_chunks() if chat else _events()):
                name = b"" if chat else f"event: {event['type']}\n".encode()
                data = event if chat else {"sequence_number": number, **event}
                self.wfile.write(name + b"data: " + json.dumps(data).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")
        except BrokenPipeError:
            pass  # the client left, as one of the tests does

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def openai_server() -> Iterator[str]:
    """Yield the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
