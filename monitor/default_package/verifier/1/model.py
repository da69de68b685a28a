"""Triton's python backend for the encoder: runs the package's ONNX file with ONNX Runtime on CPU.

Copied beside `model.onnx` at export and executed by Triton, in an environment with numpy<2 and onnxruntime; nothing of
Guardline is imported. It takes and gives what the ONNX graph does, so clients cannot tell it from the onnxruntime
backend on a GPU.

Rows of graphs that say `guardline.rows: alone` in their metadata (eight bits, whose scales would depend on the batch)
run one by one and without padding, on as many threads as there are cores: as `monitor/onnx_scorer.py` does it.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library loads

import onnxruntime


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph of the version that Triton loads."""
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")  # noqa: PTH118
        self._session = self._open(threads=0)
        self._threads = None
        if self._session.get_modelmeta().custom_metadata_map.get("guardline.rows") == "alone":
            self._session = self._open(threads=1)
            self._threads = ThreadPoolExecutor(os.cpu_count())

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list) -> list:
        """Answer each request with its own outputs or its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):  # noqa: ANN001, ANN202 (Triton's types exist only inside the server)
        try:
            feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            results = self._run(feed) if self._threads is None else self._run_each(feed)
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(array))
            for name, array in zip(self._outputs, results, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _run(self, feed: dict) -> list:
        return self._session.run(self._outputs, feed)

    def _run_each(self, feed: dict) -> list:
        lengths = np.maximum(feed["attention_mask"].sum(axis=1), 1)  # Triton warms up with empty rows
        rows = [{name: array[i : i + 1, :n] for name, array in feed.items()} for i, n in enumerate(lengths)]
        return [np.concatenate(parts) for parts in zip(*self._threads.map(self._run, rows), strict=True)]
