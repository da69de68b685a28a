"""From texts to scores through any backend that multiplies matrices.

Tokenizing happens off the event loop, over-long texts are cut into windows, and `microbatching` runs them through a
backend (`onnx_scorer` in-process, `triton` over gRPC) together with those of other callers.
`TextEncoder` embeds and scores single texts: of a text of several windows the most unsafe one counts, so nothing is cut
off silently. `PairVerifier` reads a recommendation and a statement together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from monitor.batching import BatchLimits
from monitor.errors import ModelMismatch
from monitor.microbatching import Backend, MicroBatcher
from monitor.package import ModelPackage
from monitor.types import ModelScores

#: The tokenizer encodes all of a text before any limit applies (10 MB took 14.7 s), so longer texts are refused: the
#: monitor's come as statements of at most `segmentation.MAX_STATEMENT_CHARS`.
_MAX_CHARS = 100_000

Floats = NDArray[np.float32]


def windows(ids: Sequence[int], max_length: int) -> list[list[int]]:
    """Split a token sequence `[CLS] ... [SEP]` into sequences of at most `max_length`, half overlapping."""
    if len(ids) <= max_length:
        return [list(ids)]
    room = max_length - 2
    body = ids[1:-1]
    starts = range(0, max(len(body) - room // 2, 1), max(room // 2, 1))
    return [[ids[0], *body[start : start + room], ids[-1]] for start in starts]


def _tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers has no base class for its errors
        raise ModelMismatch(f"{path}: {error}: export the package again") from error
    # Model files often carry padding and truncation settings of their own; both would undo the planner.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class TextEncoder:
    """A `Scorer`: texts in, scores out. Fails closed: when the backend does not answer, it raises."""

    def __init__(self, package: ModelPackage, backend: Backend, *, limits: BatchLimits) -> None:
        self._tokenizer = _tokenizer(package.tokenizer)
        self._spec = package.manifest.encoder
        self._batches = MicroBatcher(self._spec, [(self._spec.dimension,), ()], backend, limits)
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
        vectors, p = await self._batches.run(sequences)
        for row, owner in enumerate(owners):
            if p[row] > p_unsafe[owner]:
                p_unsafe[owner] = p[row]
                embeddings[owner] = vectors[row]
        return ModelScores(embeddings, p_unsafe)

    async def close(self) -> None:
        """Release the tokenizer's thread and the backend."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._batches.close()


class PairVerifier:
    """A `Verifier`: (recommendation, statement) pairs in, probabilities out. Fails closed, as `TextEncoder` does."""

    def __init__(self, package: ModelPackage, backend: Backend, *, limits: BatchLimits) -> None:
        spec = package.manifest.verifier
        if spec is None:
            raise ModelMismatch(f"{package.path}: this package has no verifier")
        self._tokenizer = _tokenizer(package.verifier_tokenizer)
        # Of a pair that is too long the longer text loses its end; a statement has at most some 150 tokens.
        self._tokenizer.enable_truncation(spec.max_length, strategy="longest_first")
        self._batches = MicroBatcher(spec, [(), ()], backend, limits)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize-pairs")

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(pairs))]

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """Return the probabilities that the statement contradicts, and that it is about something else, fp32 [n, 2].

        Raises:
            ScorerUnavailable: the backend does not answer now.
            ScorerFailed: it answered with an error or nonsense.
            ModelMismatch: the backend serves another model than the package.
        """
        loop = asyncio.get_running_loop()
        sequences = await loop.run_in_executor(self._threads, self._tokenize, pairs)
        return np.stack(await self._batches.run(sequences), axis=1)

    async def close(self) -> None:
        """Release the tokenizer's thread and the backend."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._batches.close()
