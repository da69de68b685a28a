"""Triton's python backend for the encoder: runs the package's ONNX file with ONNX Runtime on CPU.

Copied beside `model.onnx` at export and executed by Triton, in an environment with numpy<2 and onnxruntime; nothing of
Guardline is imported. It takes and gives what the ONNX graph does, so clients cannot tell it from the onnxruntime
backend on a GPU.
"""

import json
import os

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
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")  # noqa: PTH118
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list) -> list:
        """Answer each request with its own outputs or its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):  # noqa: ANN001, ANN202 (Triton's types exist only inside the server)
        try:
            feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            results = self._session.run(self._outputs, feed)
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(array))
            for name, array in zip(self._outputs, results, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
