"""From texts to scores through any backend that multiplies matrices.

`TextEncoder` tokenizes off the event loop, cuts over-long texts into windows, plans batches with little padding, hands
each to a backend (`onnx_scorer` in-process, `triton` over gRPC) and puts the answers back in order. A text of several
windows takes the scores of its most unsafe one: nothing is cut off silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from monitor.batching import BatchLimits, plan
from monitor.errors import ModelMismatch, ScorerFailed
from monitor.package import ModelPackage
from monitor.types import ModelScores

#: The tokenizer encodes all of a text before any limit applies (10 MB took 14.7 s), so longer texts are refused: the
#: monitor's come as statements of at most `segmentation.MAX_STATEMENT_CHARS`.
_MAX_CHARS = 100_000


class Backend(Protocol):
    """Runs the encoder on one batch."""

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> ModelScores:
        """Return the scores of a batch, [batch, tokens] in.

        Raises:
            ScorerUnavailable: no answer now; the caller may try again.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...


def windows(ids: Sequence[int], max_length: int) -> list[list[int]]:
    """Split a token sequence `[CLS] ... [SEP]` into sequences of at most `max_length`, half overlapping."""
    if len(ids) <= max_length:
        return [list(ids)]
    room = max_length - 2
    body = ids[1:-1]
    starts = range(0, max(len(body) - room // 2, 1), max(room // 2, 1))
    return [[ids[0], *body[start : start + room], ids[-1]] for start in starts]


class TextEncoder:
    """A `Scorer`: texts in, scores out. Fails closed: when the backend does not answer, it raises."""

    def __init__(self, package: ModelPackage, backend: Backend, *, limits: BatchLimits, in_flight: int = 2) -> None:
        self._tokenizer = Tokenizer.from_file(str(package.tokenizer))
        # Model files often carry padding and truncation settings of their own; both would undo the planner.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._spec = package.manifest.encoder
        self._backend = backend
        self._limits = limits
        self._slots = asyncio.Semaphore(in_flight)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return token sequences and, for each, the index of its text."""
        sequences, owners = [], []
        if any(len(text) > _MAX_CHARS for text in texts):
            raise ValueError(f"a text of more than {_MAX_CHARS} characters: segment it first")
        for owner, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            for window in windows(encoding.ids, self._spec.max_length):
                sequences.append(window)
                owners.append(owner)
        return sequences, owners

    async def _run(self, rows: Sequence[Sequence[int]]) -> ModelScores:
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        async with self._slots:
            scores = await self._backend.infer(ids, mask)
        expected = (len(rows), self._spec.dimension)
        if scores.embeddings.shape != expected or scores.p_unsafe.shape != expected[:1]:
            raise ModelMismatch(
                f"the model gave {scores.embeddings.shape} and {scores.p_unsafe.shape} for a batch of {len(rows)}, not "
                f"{expected} and {expected[:1]}: export it again"
            )
        if not (np.isfinite(scores.embeddings).all() and np.isfinite(scores.p_unsafe).all()):
            raise ScorerFailed("the model gave NaN or infinity; no verdict is made of that")
        return scores

    async def score(self, texts: Sequence[str]) -> ModelScores:
        """Return the scores of `texts`, in order.

        Raises:
            ScorerUnavailable: the backend does not answer now.
            ScorerFailed: it answered with an error or nonsense.
            ModelMismatch: the backend serves another model than the package.
        """
        loop = asyncio.get_running_loop()
        sequences, owners = await loop.run_in_executor(self._threads, self._tokenize, texts)
        embeddings = np.zeros((len(texts), self._spec.dimension), dtype=np.float32)
        p_unsafe = np.full(len(texts), -1, dtype=np.float32)
        batches = list(plan([len(s) for s in sequences], self._limits))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run([sequences[i] for i in batch])) for batch in batches]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures  # the first says enough; the others follow from it
        for batch, task in zip(batches, tasks, strict=True):
            scores = task.result()
            for row, index in enumerate(batch):
                owner = owners[index]
                if scores.p_unsafe[row] > p_unsafe[owner]:
                    p_unsafe[owner] = scores.p_unsafe[row]
                    embeddings[owner] = scores.embeddings[row]
        return ModelScores(embeddings, p_unsafe)

    async def close(self) -> None:
        """Release the tokenizer's thread and the backend."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._backend.close()
