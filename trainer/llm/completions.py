"""Recorded completions: every answer that was paid for, kept by request key, and the completer that reads them.

`completions/answers.jsonl` only ever grows: one line an answer, written in one piece and flushed to the disk before
the answer is used. A process that is killed loses the requests that were in flight and nothing else; half a line at
the end is cut off. The last line of a key counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from trainer.errors import CompletionsError
from trainer.llm.chat import Reply, interpret, key_of
from trainer.llm.port import Completion, Request, Status, ignore
from trainer.llm.providers import ProviderSettings

ANSWERS = "answers.jsonl"


def whole_lines(path: Path, *, mend: bool = False) -> list[bytes]:
    """Return the lines of an append-only file; half a line at its end is left out, and with `mend` cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if mend and len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


class CompletionCache:
    """The answers of one folder, in memory and on disk. One process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._replies: dict[str, Reply] = {}
        self._read()

    def _read(self, *, mend: bool = False) -> None:
        path = self.folder / ANSWERS
        for number, line in enumerate(whole_lines(path, mend=mend), 1):
            try:
                reply = Reply.model_validate_json(line)
            except ValidationError as error:
                raise CompletionsError(
                    f"{path}:{number}: not a recorded answer ({error.error_count()} faults): remove the line, "
                    "or the file where nothing in it is worth keeping"
                ) from None
            self._replies[reply.key] = reply

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the recorded reply to a request, or None."""
        return self._replies.get(key)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Take the folder for writing; answers that another process has added since are read.

        Raises:
            CompletionsError: another process writes to it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ANSWERS).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CompletionsError(
                    f"{self.folder}: another process is asking a language model for this run: wait for it, or end it, "
                    "since two of them would pay for the same answers"
                ) from None
            self._read(mend=True)
            self._file = file
            try:
                yield
            finally:
                self._file = None

    def put(self, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns. Only within `writing`."""
        if self._file is None:
            raise RuntimeError("put() outside writing()")
        self._file.write(reply.model_dump_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._replies[reply.key] = reply


class RecordedCompleter:
    """Answers from recorded completions only: the off-line side of the port. What is not recorded has FAILED."""

    def __init__(self, settings: ProviderSettings, cache: CompletionCache) -> None:
        self.model = settings.model
        self._settings = settings
        self._cache = cache

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Return what is recorded for each request; see `trainer.llm.port.Completer`."""
        completions = [self._recorded(request) for request in requests]
        advance(len(completions))
        return completions

    def _recorded(self, request: Request) -> Completion:
        key = key_of(request, self._settings)
        if reply := self._cache.get(key):
            return interpret(request, reply)
        reason = f"no answer of {self.model} to this request is recorded in {self._cache.folder}: give a --provider"
        return failed(request, self._settings, reason)


def failed(request: Request, settings: ProviderSettings, reason: str) -> Completion:
    """Return the completion of a request that has no answer."""
    key = key_of(request, settings)
    return Completion(Status.FAILED, None, "", settings.model, 0, 0, reason, key, settings.name)
