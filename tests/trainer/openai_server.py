"""A local server that speaks the parts of the OpenAI API that the trainer uses, and fails on demand.

    with OpenAIServer() as server:
        server.faults = [Fault.RATE_LIMIT, Fault.SERVER_ERROR]   # for the next requests, in order of arrival
        ...
        server.paid                                              # what a provider would have billed

It checks what a real provider checks (key, model, strict JSON schema) and answers deterministically: statement
requests with edits of the recommendation in their prompt, any other with the smallest instance of its schema.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from trainer.llm.port import Request
from trainer.llm.providers import ProviderSettings, RetrySettings

KEY = "sk-local-0123456789abcdef"


class Fault(StrEnum):
    """What goes wrong with one chat completion."""

    NONE = "none"
    RATE_LIMIT = "429 with Retry-After"
    QUOTA = "429, no credit left"
    SERVER_ERROR = "500"
    HTML_ERROR = "502 with a page"
    BODY_CUT = "200, JSON that ends in the middle"
    CONNECTION_CUT = "200, connection closed before the end"
    DROPPED = "connection closed without an answer"
    REFUSAL = "the model declines"
    CONTENT_FILTER = "400 by the content filter"
    LENGTH = "finish_reason length"
    NOT_JSON = "prose instead of JSON"
    AGAINST_SCHEMA = "JSON that does not fit"
    NO_USAGE = "no token counts"
    TOO_LONG = "400, context exceeded"
    FORBIDDEN = "403"


#: Faults after which a provider has billed the tokens.
BILLED = {Fault.NONE, Fault.BODY_CUT, Fault.CONNECTION_CUT, Fault.REFUSAL, Fault.LENGTH, Fault.NOT_JSON,
          Fault.AGAINST_SCHEMA, Fault.NO_USAGE}  # fmt: skip


@dataclass(frozen=True)
class Paid:
    """One billed completion; equal bodies have equal digests."""

    digest: str
    input_tokens: int
    output_tokens: int
    batch: bool = False


@dataclass
class _Batch:
    id: str
    input_file: str
    polls_left: int
    created: int
    output_file: str | None = None
    error_file: str | None = None
    status: str = "in_progress"
    errors: list[dict[str, str]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "created_at": self.created, "status": self.status, "input_file_id": self.input_file,
            "output_file_id": self.output_file, "error_file_id": self.error_file,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
        }  # fmt: skip


class Fact(BaseModel):
    """The smallest answer."""

    text: str


def fact(user: str = "Say something.", **changes: Any) -> Request:
    """Return a request for a `Fact`."""
    return replace(Request("fact", "Be brief.", user, Fact), **changes)


def local(server: OpenAIServer, **changes: Any) -> ProviderSettings:
    """Return settings for the server: with prices, and without waiting."""
    settings = ProviderSettings(
        name="local",
        base_url=server.base_url,
        model="gpt-4o-mini",
        api_key_env="LOCAL_KEY",
        input_price=1,
        output_price=4,
        in_flight=4,
        timeout_seconds=20,
        retry=RetrySettings(attempts=3, base_seconds=0),
        batch_discount=0.5,
        poll_seconds=0.001,
    )
    return settings.model_copy(update=changes)


Answer = Callable[[dict[str, Any]], str]


class OpenAIServer:
    """The server and its memory. `base_url` is what a client is given."""

    def __init__(self, *, models: Iterable[str] = ("gpt-4o-mini", "deepseek-flash"), answer: Answer | None = None):
        self.models = set(models)
        self.answer = answer or plausible_answer
        self.faults: list[Fault] = []
        self.fault_always: Fault | None = None
        self.retry_after = "0"
        self.bodies: list[dict[str, Any]] = []
        self.paid: list[Paid] = []
        self.headers: list[dict[str, str]] = []
        self.batch_polls = 1  # a batch is done after so many questions
        self.batch_faults: dict[int, Fault] = {}  # by row
        self.batch_invalid: str | None = None  # code of a validation error
        self.drop_batch_answers = 0  # so many batches are made, and the connection is closed before saying so
        self.batches: dict[str, _Batch] = {}
        self.files: dict[str, bytes] = {}
        self.hold_after: int | None = None  # chat completions from this one on get no answer until `release`
        self.holding = threading.Event()
        self.polled = threading.Event()  # somebody has asked for a batch
        self.release = threading.Event()
        self.release_at: int | None = None  # as soon as so many are waiting together
        self.most_at_a_time = 0  # chat completions
        self._active = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def paid_twice(self) -> list[str]:
        """Digests of bodies that were billed more than once."""
        return [digest for digest, times in Counter(p.digest for p in self.paid).items() if times > 1]

    def cost(self, input_price: float, output_price: float, *, discount: float = 0.0) -> float:
        """What was billed, in dollars, at prices per million tokens."""
        return sum(
            (p.input_tokens * input_price + p.output_tokens * output_price) * (1 - discount * p.batch) / 1e6
            for p in self.paid
        )

    def next_fault(self) -> Fault:
        with self._lock:
            return self.fault_always or (self.faults.pop(0) if self.faults else Fault.NONE)

    @contextmanager
    def counting(self) -> Iterator[None]:
        with self._lock:
            self._active += 1
            self.most_at_a_time = max(self.most_at_a_time, self._active)
            if self._active == self.release_at:
                self.release.set()
        yield
        with self._lock:
            self._active -= 1

    def chat(self, body: dict[str, Any], fault: Fault, *, batch: bool = False) -> tuple[int, dict[str, Any]]:
        """Return status and JSON for one body, and bill it."""
        if error := self._check(body):
            return error
        if fault in _ERRORS:
            status, code, message, param = _ERRORS[fault]
            return status, _error(message, code, param)
        text: str | None = self.answer(body)
        refusal, finish = None, "stop"
        if fault is Fault.REFUSAL:
            text, refusal = None, "I'm sorry, I can't help with that."
        elif fault is Fault.LENGTH:
            text, finish = (text or "")[: len(text or "") // 2], "length"
        elif fault is Fault.NOT_JSON:
            text = "Here are your statements, as asked!"
        elif fault is Fault.AGAINST_SCHEMA:
            text = '{"something": "else"}'
        sent = json.dumps(body["messages"]) + json.dumps(body["response_format"])
        usage = {"prompt_tokens": len(sent) // 4, "completion_tokens": len(text or refusal or "") // 4 + 1}
        usage["total_tokens"] = sum(usage.values())
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            self.paid.append(Paid(digest, usage["prompt_tokens"], usage["completion_tokens"], batch))
        message = {"role": "assistant", "content": text, "refusal": refusal}
        found = {
            "id": f"chatcmpl-{digest[:12]}", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage,
        }  # fmt: skip
        if fault is Fault.NO_USAGE:
            del found["usage"]
        return 200, found

    def _check(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        if body.get("model") not in self.models:
            return 404, _error(f"The model `{body.get('model')}` does not exist", "model_not_found")
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema":
            if problem := strict_problem(form["json_schema"]["schema"]):
                return 400, _error(problem, "invalid_json_schema", "response_format")
            if not form["json_schema"].get("strict"):
                return 400, _error("strict is expected here", None, "response_format")
        elif form.get("type") == "json_object":
            if not any("json" in message["content"].lower() for message in body["messages"]):
                return 400, _error("'messages' must contain the word 'json'", None, "messages")
        else:
            return 400, _error("no response_format", None, "response_format")
        return None

    def new_batch(self, input_file: str) -> _Batch:
        batch = _Batch(f"batch_{len(self.batches) + 1}", input_file, self.batch_polls, int(time.time()))
        self.batches[batch.id] = batch
        if self.batch_invalid:
            batch.status = "failed"
            batch.errors = [{"code": self.batch_invalid, "message": "the batch is too large for your queue"}]
        return batch

    def poll(self, batch: _Batch) -> None:
        self.polled.set()
        if batch.status != "in_progress":
            return
        batch.polls_left -= 1
        if batch.polls_left > 0:
            return
        good, bad = [], []
        for number, line in enumerate(self.files[batch.input_file].splitlines()):
            row = json.loads(line)
            fault = self.batch_faults.get(number, Fault.NONE)
            if fault is Fault.DROPPED:  # a row that the batch did not come to
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append({"id": f"r{number}", "custom_id": row["custom_id"], "response": None, "error": error})
                continue
            status, found = self.chat(row["body"], fault, batch=True)
            answer = {"status_code": status, "request_id": f"q{number}", "body": found}
            target = good if status == 200 else bad
            target.append({"id": f"r{number}", "custom_id": row["custom_id"], "response": answer, "error": None})
        good.reverse()  # the API promises no order
        batch.output_file = self._store(good)
        batch.error_file = self._store(bad)
        batch.status = "completed"

    def _store(self, rows: list[dict[str, Any]]) -> str | None:
        if not rows:
            return None
        identifier = f"file-{len(self.files) + 1}"
        self.files[identifier] = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return identifier


_ERRORS = {
    Fault.RATE_LIMIT: (429, "rate_limit_exceeded", "Rate limit reached for requests", None),
    Fault.QUOTA: (429, "insufficient_quota", "You exceeded your current quota", None),
    Fault.SERVER_ERROR: (500, None, "The server had an error", None),
    Fault.HTML_ERROR: (502, None, "", None),
    Fault.CONTENT_FILTER: (400, "content_filter", "The prompt was filtered", "prompt"),
    Fault.TOO_LONG: (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens",
        "messages",
    ),
    Fault.FORBIDDEN: (403, "unsupported_country_region_territory", "Country not supported", None),
}


def _error(message: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}}


def strict_problem(schema: Any) -> str | None:
    """Return how a schema leaves the strict subset of structured outputs, or None."""
    if isinstance(schema, list):
        return next(filter(None, map(strict_problem, schema)), None)
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "additionalProperties must be false"
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            return "every property must be required"
    if unknown := {"default", "oneOf", "allOf", "minLength", "maxLength", "discriminator"} & schema.keys():
        return f"not permitted: {sorted(unknown)}"
    if "$ref" in schema and len(schema) > 1:
        return "$ref cannot have keywords beside it"
    children = [c for k, v in schema.items() for c in (v.values() if k in ("properties", "$defs") else [v])]
    return next(filter(None, map(strict_problem, children)), None)


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

        def do_GET(self) -> None:
            if not self._known():
                return
            path = urlsplit(self.path).path.removeprefix("/v1")
            if match := re.fullmatch(r"/files/([^/]+)/content", path):
                self._send(200, server.files[match[1]], "application/octet-stream")
            elif path == "/batches":
                newest = [batch.json() for batch in reversed(server.batches.values())]
                self._json(200, {"object": "list", "data": newest, "has_more": False})
            elif (match := re.fullmatch(r"/batches/([^/]+)", path)) and match[1] in server.batches:
                batch = server.batches[match[1]]
                server.poll(batch)
                self._json(200, batch.json())
            else:
                self._json(404, _error("no such path", None))

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if not self._known():
                return
            match urlsplit(self.path).path.removeprefix("/v1"):
                case "/chat/completions":
                    with server.counting():
                        self._chat(json.loads(data))
                case "/files":
                    self._upload(data)
                case "/batches":
                    batch = server.new_batch(json.loads(data)["input_file_id"])
                    if server.drop_batch_answers:
                        server.drop_batch_answers -= 1
                        self._hang_up()
                    else:
                        self._json(200, batch.json())
                case _:
                    self._json(404, _error("no such path", None))

        def _chat(self, body: dict[str, Any]) -> None:
            server.headers.append(dict(self.headers))
            server.bodies.append(body)
            fault = server.next_fault()
            if fault is Fault.DROPPED:
                self._hang_up()
                return
            status, found = server.chat(body, fault)
            if server.hold_after is not None and len(server.paid) > server.hold_after:
                server.holding.set()
                server.release.wait(30)
            payload = json.dumps(found).encode()
            match fault:
                case Fault.HTML_ERROR:
                    self._send(status, b"<html><body>Bad gateway</body></html>", "text/html")
                case Fault.BODY_CUT:
                    self._send(status, payload[: len(payload) // 2], "application/json")
                case Fault.CONNECTION_CUT:
                    self._send(status, payload[: len(payload) // 2], "application/json", length=len(payload))
                    self._hang_up()
                case Fault.RATE_LIMIT:
                    self._send(status, payload, "application/json", retry_after=server.retry_after)
                case _:
                    self._send(status, payload, "application/json")

        def _upload(self, data: bytes) -> None:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            for part in BytesParser().parsebytes(head + data).get_payload():
                if part.get_param("name", header="content-disposition") == "file":
                    identifier = f"file-{len(server.files) + 1}"
                    server.files[identifier] = part.get_payload(decode=True)
                    facts = {"object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
                    self._json(200, {"id": identifier, "status": "processed", **facts})

        def _known(self) -> bool:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if given == KEY:
                return True
            # Some providers repeat the whole key.
            self._json(401, _error(f"Incorrect API key provided: {given}", "invalid_api_key"))
            return False

        def _json(self, status: int, content: dict[str, Any]) -> None:
            self._send(status, json.dumps(content).encode(), "application/json")

        def _send(
            self, status: int, data: bytes, kind: str, *, length: int | None = None, retry_after: str | None = None
        ) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                self.close_connection = True  # the client was killed

        def _hang_up(self) -> None:
            self.close_connection = True

    return Handler


_OPENERS = (
    "In short:", "As a rule,", "Note that", "For practice:", "The advice is clear:", "Keep in mind:", "It is settled:",
    "To put it plainly,", "Remember:", "On this point:",
)  # fmt: skip


def plausible_answer(body: dict[str, Any]) -> str:
    """Answer a request for statements from its prompt; any other with the smallest instance of its schema."""
    form = body["response_format"]
    user = body["messages"][1]["content"]
    system = body["messages"][0]["content"]
    schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else json.loads(system[system.index("{") :])
    match schema.get("title"):
        case "SafeStatements":
            return json.dumps({"statements": list(_safe(user))})
        case "UnsafeStatements":
            return json.dumps({"statements": list(_unsafe(user))})
        case _:
            return json.dumps(smallest(schema, schema.get("$defs", {})))


def _safe(user: str) -> Iterable[dict[str, Any]]:
    text = re.search(r"^Recommendation .*:\n(.*)$", user, re.MULTILINE)
    wanted = re.search(r"^Write (\d+) statements", user, re.MULTILINE)
    assert text
    assert wanted
    for number in range(int(wanted[1])):
        yield {"category": "indication", "text": f"{_OPENERS[number % len(_OPENERS)]} {text[1]}"}


def _unsafe(user: str) -> Iterable[dict[str, Any]]:
    for number, original in re.findall(r"^(\d+)\. (.*)$", user[user.index("Originals") :], re.MULTILINE):
        changed = re.sub(r"\d+", lambda m: str(int(m[0]) * 2 + 1), original, count=1)
        if changed == original:
            changed = original.replace(" is ", " is not ", 1) if " is " in original else f"{original} Or rather not."
        yield {"original": int(number), "category": "dose", "change": "one detail", "text": changed}


def smallest(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a small instance of a JSON schema."""
    if "$ref" in schema:
        return smallest(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return smallest(schema["anyOf"][-1], definitions)
    match schema.get("type"):
        case "object":
            return {name: smallest(child, definitions) for name, child in schema.get("properties", {}).items()}
        case "array":
            return [smallest(schema["items"], definitions)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return schema.get("const", "text")
