"""A gRPC server that speaks as much of the KServe protocol as the monitor asks for, and misbehaves on request.

The messages are those of tritonclient; the answers are the null model's.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from monitor.models.triton_repository import DIGEST
from monitor.package import ModelPackage
from tests.monitor.fakes import FakeBackend


class Answers(StrEnum):
    """What the server answers."""

    RIGHT = "right"
    NAN = "nan"
    SHAPES = "wrong shapes"


class TritonDouble(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves the null model on loopback; `delay` in seconds and `answers` may be changed while it runs."""

    def __init__(self, package: ModelPackage) -> None:
        self.answers = Answers.RIGHT
        self.delay = 0.0
        self.requests = 0
        self._spec = package.manifest.encoder
        self._digest = package.sha256(self._spec)
        self._model = FakeBackend(Tokenizer.from_file(str(package.tokenizer)))
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Address, host:port; the same after every start."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Open the port."""
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def stop(self) -> None:
        """Cut all connections and close the port."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Name the weights, by which the monitor knows its package."""
        answer = service_pb2.ModelConfigResponse()
        answer.config.parameters[DIGEST].string_value = self._digest
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answer one batch, rightly or not."""
        self.requests += 1
        await asyncio.sleep(self.delay)
        ids, mask = (
            np.frombuffer(raw, dtype=np.int64).reshape(tensor.shape)
            for raw, tensor in zip(request.raw_input_contents, request.inputs, strict=True)
        )
        arrays = [self._spoiled(array) for array in await self._model.infer(ids, mask)]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=request.model_version)
        for name, array in zip(self._spec.outputs, arrays, strict=True):
            answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
            answer.raw_output_contents.append(array.astype(np.float32).tobytes())
        return answer

    def _spoiled(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.answers is Answers.NAN:
            return np.full_like(array, np.nan)
        return array[:-1] if self.answers is Answers.SHAPES else array
