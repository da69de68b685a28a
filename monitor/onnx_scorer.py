"""The in-process backend: ONNX Runtime on CPU. The laptop's default, and Triton's stand-in when it is away."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from monitor.errors import ModelMismatch
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec


class OnnxBackend:
    """Runs one graph of a package in a thread of its own, so that the event loop stays free."""

    def __init__(self, package: ModelPackage, spec: EncoderSpec | VerifierSpec, *, threads: int = 0) -> None:
        """Open the graph of `spec` with `threads` threads inside an operator (0: one per core).

        Raises:
            ModelMismatch: the graph cannot be loaded or has other tensors than the contract.
        """
        path = package.onnx(spec)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Spinning threads burn a core between batches, beside a worker that has other things to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise ModelMismatch(f"{path}: {error}") from error
        have = {i.name for i in self._session.get_inputs()} | {o.name for o in self._session.get_outputs()}
        if missing := {*spec.inputs, *spec.outputs} - have:
            raise ModelMismatch(f"{path}: tensors missing from the graph: {', '.join(sorted(missing))}")
        self._spec = spec
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnx")

    def _run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        feed = dict(zip(self._spec.inputs, (input_ids, attention_mask), strict=True))
        return list(self._session.run(list(self._spec.outputs), feed))

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the outputs of one batch; see `microbatching.Backend`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, input_ids, attention_mask)

    async def close(self) -> None:
        """Stop the thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)
