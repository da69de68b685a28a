"""The in-process backend: ONNX Runtime on CPU. The laptop's default, and Triton's stand-in when it is away.

Graphs of eight bits scale activations by the largest in the batch, so a statement's score would depend on what else is
in its batch, by enough to change verdicts (70 of 2,610 statements). Such graphs say so in their metadata, and their
rows run one by one: a redelivered message gets the same score to the last digit. Instead of the cores sharing each
product, each core takes rows of its own, without padding; that costs a tenth more CPU than batches.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from monitor.errors import ModelMismatch
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec

#: In the metadata of a graph whose rows must run one by one.
ROWS, ALONE = "guardline.rows", "alone"


def rows_alone(session: onnxruntime.InferenceSession) -> bool:
    """Return whether a graph's rows must run one by one."""
    return bool(session.get_modelmeta().custom_metadata_map.get(ROWS) == ALONE)


def run_each(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    inputs: Sequence[str],
    ids: NDArray[np.int64],
    mask: NDArray[np.int64],
) -> list[NDArray[Any]]:
    """Run the rows one by one, each without its padding; return the outputs as of the batch.

    Args:
        session: the graph.
        outputs: names of the tensors wanted.
        inputs: names of ids and mask.
        ids: token ids, int64 [rows, tokens], padded on the right.
        mask: 1 where there is a token, int64 [rows, tokens].
    """
    lengths = np.maximum(mask.sum(axis=1), 1)
    rows = [
        session.run(list(outputs), dict(zip(inputs, (ids[i : i + 1, :n], mask[i : i + 1, :n]), strict=True)))
        for i, n in enumerate(lengths)
    ]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


class OnnxBackend:
    """Runs one graph of a package in threads of its own, so that the event loop stays free."""

    def __init__(self, package: ModelPackage, spec: EncoderSpec | VerifierSpec, *, threads: int = 0) -> None:
        """Open the graph of `spec` for `threads` threads (0: one per core).

        Raises:
            ModelMismatch: the graph cannot be loaded or has other tensors than the contract.
        """
        path = package.onnx(spec)
        self._session = _open(path, threads)
        self._alone = rows_alone(self._session)
        workers = 1
        if self._alone:
            self._session = _open(path, 1)
            workers = threads or os.cpu_count() or 1
        have = {i.name for i in self._session.get_inputs()} | {o.name for o in self._session.get_outputs()}
        if missing := {*spec.inputs, *spec.outputs} - have:
            raise ModelMismatch(f"{path}: tensors missing from the graph: {', '.join(sorted(missing))}")
        self._spec = spec
        self._workers = workers
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="onnx")

    def _run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        inputs, outputs = self._spec.inputs, list(self._spec.outputs)
        if self._alone:
            return run_each(self._session, outputs, inputs, input_ids, attention_mask)
        return list(self._session.run(outputs, dict(zip(inputs, (input_ids, attention_mask), strict=True))))

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the outputs of one batch; see `microbatching.Backend`."""
        loop = asyncio.get_running_loop()
        shares = min(self._workers, len(input_ids))
        # Rows come sorted by length, so every n-th makes shares of like work.
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, self._run, input_ids[n::shares], attention_mask[n::shares])
                for n in range(shares)
            )
        )
        if shares == 1:
            return parts[0]
        return [_interleaved(own) for own in zip(*parts, strict=True)]

    async def close(self) -> None:
        """Stop the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph with so many threads inside an operator (0: one per core).

    Raises:
        ModelMismatch: it cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads burn a core between batches, beside a worker that has other things to do.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no public base class for its errors
        raise ModelMismatch(f"{path}: {error}") from error


def _interleaved(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return rows in their order from shares of every n-th row."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype)
    for n, part in enumerate(parts):
        whole[n :: len(parts)] = part
    return whole
