"""An audit log in a folder: files of lines, `audit-<seq of the first entry>.jsonl`, in the order of their names.

Every `append` is one write and one fsync, and the folder is synced when a file is made: what has returned survives a
loss of power, as far as the disk keeps its word. A batch that a crash left half-written can only be the last thing in
the last file; whole lines of it are kept (they were read from Kafka and are known again by their ids), the unfinished
one is cut off.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from monitor.audit.log import Line, LogUnavailable, Torn
from monitor.errors import ConfigurationError, GuardlineError

_NAME = re.compile(r"audit-(\d{12})\.jsonl")
_LOCK = "writer.lock"
#: Bytes after which a new file is begun: some 80,000 entries.
SEGMENT_BYTES = 64_000_000
_BATCH = 1000
_PAUSE = 0.1  # seconds


class FileLog:
    """An `AuditLog` in a folder that nobody else writes to."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, patience: float = 1.0) -> None:
        """Use `folder`, and begin a new file after `segment_bytes`.

        A last line without an end may be in the middle of being written: a reader gives it `patience` seconds.
        """
        self._folder = folder
        self._patience = patience
        self._segment_bytes = segment_bytes
        self._lock: int | None = None
        self._segment: Path | None = None
        self._file: int | None = None
        self._size = 0

    def _segments(self) -> list[Path]:
        try:
            return sorted(file for file in self._folder.iterdir() if _NAME.fullmatch(file.name))
        except OSError as error:
            raise ConfigurationError(f"no audit log in {self._folder}: {error.strerror}") from error

    def _batches(self) -> Iterator[list[Line]]:
        segments = self._segments()
        if not segments:
            raise ConfigurationError(
                f"no audit log in {self._folder}: it has no audit-*.jsonl: name the folder, or set GUARDLINE_AUDIT_PATH"
            )
        for segment in segments:
            with segment.open("rb") as file:
                numbered = enumerate(self._lines(file), 1)
                while lines := list(islice(numbered, _BATCH)):
                    yield [
                        Line(f"{segment.name}:{number}", line.removesuffix(b"\n"), line.endswith(b"\n"))
                        for number, line in lines
                    ]

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        while line := file.readline():
            until = monotonic() + self._patience
            while not line.endswith(b"\n") and monotonic() < until:
                sleep(_PAUSE)
                line += file.readline()
            yield line

    async def read(self) -> AsyncIterator[Sequence[Line]]:
        """See `AuditLog.read`."""
        batches = self._batches()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch

    async def open(self) -> Torn | None:
        """See `AuditLog.open`. The first process to come is the writer; a second one is refused."""
        return await asyncio.to_thread(self._open)

    def _open(self) -> Torn | None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._locked()
            segments = self._segments()
            if not segments:
                return None
            self._use(segments[-1])
            return self._cut(segments[-1])
        except OSError as error:
            raise ConfigurationError(
                f"the audit log cannot be written in {self._folder}: {error.strerror}: set GUARDLINE_AUDIT_PATH"
            ) from error

    def _locked(self) -> int:
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise GuardlineError(f"another process writes the audit log in {self._folder}: it has one writer") from None
        return lock

    def _use(self, segment: Path, *, new: bool = False) -> None:
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT | os.O_EXCL if new else 0)
        file = os.open(segment, flags, 0o600)
        if self._file is not None:
            os.close(self._file)
        self._segment, self._file, self._size = segment, file, os.fstat(file).st_size

    @property
    def _descriptor(self) -> int:
        if self._file is None:
            raise RuntimeError("the log has no file yet: a first segment was not begun")
        return self._file

    def _cut(self, segment: Path) -> Torn | None:
        """Cut off an unfinished last line."""
        content = segment.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole == len(content):
            return None
        torn, line = content[whole:], content.count(b"\n") + 1
        os.ftruncate(self._descriptor, whole)
        os.fsync(self._descriptor)
        self._size = whole
        return Torn(f"{segment.name}:{line}", len(torn), hashlib.sha256(torn).hexdigest())

    @property
    def due(self) -> bool:
        """See `AuditLog.due`."""
        return self._size == 0 or self._size >= self._segment_bytes

    async def append(self, lines: Sequence[bytes], *, segment: int | None = None) -> None:
        """See `AuditLog.append`."""
        await asyncio.to_thread(self._append, b"".join(line + b"\n" for line in lines), segment)

    def _append(self, content: bytes, segment: int | None) -> None:
        try:
            if segment is not None:
                self._begin(self._folder / f"audit-{segment:012d}.jsonl")
            file = self._descriptor
            if os.fstat(file).st_size != self._size:  # an attempt before left something
                os.ftruncate(file, self._size)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except OSError as error:
            raise LogUnavailable(f"the audit log cannot be written in {self._folder}: {error.strerror}") from error
        self._size += len(content)

    def _begin(self, segment: Path) -> None:
        if segment == self._segment:  # made before a crash, or by an attempt that failed
            return
        self._use(segment, new=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def close(self) -> None:
        """See `AuditLog.close`."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None
