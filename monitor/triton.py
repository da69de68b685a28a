"""The Triton backend: the encoder behind NVIDIA Triton Inference Server, over grpc.aio.

Fails closed: any transport failure or overload becomes `ScorerUnavailable`, which pauses intake; a model that is not
there or has other tensors becomes `ModelMismatch`. The version is pinned in every request, because without one Triton
answers with the newest. Inference is a pure function, so a repeat is always safe.
"""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from monitor.errors import ModelMismatch, ScorerUnavailable
from monitor.package import ModelPackage
from monitor.types import ModelScores

_MISMATCH = {"StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED"}


class TritonBackend:
    """Sends batches to one Triton server."""

    def __init__(self, package: ModelPackage, *, url: str, timeout: float = 30.0) -> None:
        """Connect lazily to `url` (host:port, no scheme); `timeout` in seconds bounds every call."""
        self._spec = package.manifest.encoder
        self._url = url
        self._timeout = timeout
        self._client = triton.InferenceServerClient(url)

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, InferenceServerException) and str(error.status()) in _MISMATCH:
            # Triton reports a model that is still loading as unavailable with the status of a bad request.
            if "is not ready" in error.message() or "unavailable" in error.message():
                return ScorerUnavailable(f"Triton at {self._url}: {error.message()}")
            return ModelMismatch(f"Triton at {self._url}: {error.message()}: is it serving this package?")
        return ScorerUnavailable(f"Triton at {self._url} does not answer: {error}")

    async def ready(self) -> bool:
        """Tell whether the server answers and has this model version loaded."""
        try:
            async with asyncio.timeout(self._timeout):
                ready = await self._client.is_model_ready(self._spec.model, str(self._spec.model_version))
        except (InferenceServerException, grpc.RpcError, TimeoutError):
            return False
        return bool(ready)

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> ModelScores:
        """Return the scores of one batch; see `encoding.Backend`."""
        inputs = []
        for name, array in zip(self._spec.inputs, (input_ids, attention_mask), strict=True):
            tensor = triton.InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [triton.InferRequestedOutput(name) for name in self._spec.outputs]
        try:
            # client_timeout is gRPC's deadline; the outer one also bounds a channel that never connects.
            async with asyncio.timeout(self._timeout + 1):
                result = await self._client.infer(
                    self._spec.model,
                    inputs,
                    model_version=str(self._spec.model_version),
                    outputs=outputs,
                    client_timeout=self._timeout,
                )
        except (InferenceServerException, grpc.RpcError, TimeoutError) as error:
            raise self._translate(error) from error
        embeddings, p_unsafe = (result.as_numpy(name) for name in self._spec.outputs)
        if embeddings is None or p_unsafe is None:
            raise ModelMismatch(f"Triton at {self._url} left out {' or '.join(self._spec.outputs)}")
        # A model that batches has at least one dimension a row in Triton, so [batch] comes over the wire as [batch, 1].
        return ModelScores(embeddings, p_unsafe.reshape(-1))

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()
