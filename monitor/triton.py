"""The Triton backend: a graph of the package behind NVIDIA Triton Inference Server, over grpc.aio.

Fails closed: any transport failure or overload becomes `ScorerUnavailable`, which pauses intake; a model that is not
there, has other tensors or other weights than the package becomes `ModelMismatch`. The version is pinned in every
request, because without one Triton answers with the newest. Inference is a pure function, so a repeat is always safe.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from monitor.connections.tls import Certificates
from monitor.connections.triton import triton_client
from monitor.errors import ModelMismatch, ScorerFailed, ScorerUnavailable
from monitor.models.triton_repository import served_version
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec

_MISMATCH = {"StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED"}
#: The model itself raised, and would again on the same texts.
_FAILED = {"StatusCode.INTERNAL", "StatusCode.UNKNOWN"}
#: Without this gRPC tries to reconnect ever more rarely, up to two minutes apart. The lengths are the client's own.
_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.max_reconnect_backoff_ms", 5000),
]


class TritonBackend:
    """Sends batches for one graph to one Triton server."""

    def __init__(
        self,
        package: ModelPackage,
        spec: EncoderSpec | VerifierSpec,
        *,
        url: str,
        tls: Certificates | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Connect lazily to `url` (host:port, no scheme), by `tls` where given; `timeout` in seconds bounds a call."""
        self._spec = spec
        self._url = url
        self._tls = tls
        self._timeout = timeout
        self._channel: triton.InferenceServerClient | None = None
        self._digest = package.sha256(spec)
        self._version: int | None = None  # the server's number for these weights; none until it was asked

    @property
    def _client(self) -> triton.InferenceServerClient:
        """The connection, made where it is used: backends are built in threads, which have no event loop."""
        if self._channel is None:
            self._channel = triton_client(self._url, self._tls, _CHANNEL)
        return self._channel

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, InferenceServerException) and str(error.status()) in _MISMATCH:
            # Triton reports a model that is still loading as unavailable with the status of a bad request.
            if "is not ready" in error.message() or "unavailable" in error.message():
                return ScorerUnavailable(f"Triton at {self._url}: {error.message()}")
            return ModelMismatch(f"Triton at {self._url}: {error.message()}: is it serving this package?")
        self._version = None  # whatever comes back may be another server, or another package
        if isinstance(error, InferenceServerException) and str(error.status()) in _FAILED:
            return ScorerFailed(f"Triton at {self._url}: {error.message()}")
        return ScorerUnavailable(f"Triton at {self._url} does not answer: {error}")

    async def _find(self) -> int:
        """Return the version that has the weights to which the package's heads and thresholds belong.

        The number says little: every package has its graphs as version 1, and a repository that serves several has
        numbers of its own.
        """
        answer = await self._client.get_model_config(self._spec.model, client_timeout=self._timeout)
        version = served_version(answer.config, self._digest, self._spec.model_version)
        if version is None:
            served = ", ".join(sorted(p.string_value[:12] for p in answer.config.parameters.values())) or "unknown"
            raise ModelMismatch(
                f"Triton at {self._url} serves another {self._spec.model} (sha256 {served}) than the package "
                f"({self._digest[:12]}): load this package's `{self._spec.model}` there (`guardline promote`), or give "
                "--model the other one"
            )
        return version

    async def ready(self) -> bool:
        """Tell whether the server answers and has a model of this name loaded."""
        try:
            async with asyncio.timeout(self._timeout):
                version = "" if self._version is None else str(self._version)
                ready = await self._client.is_model_ready(self._spec.model, version)
        except (InferenceServerException, grpc.RpcError, TimeoutError):
            return False
        return bool(ready)

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return the outputs of one batch; see `microbatching.Backend`."""
        inputs = []
        for name, array in zip(self._spec.inputs, (input_ids, attention_mask), strict=True):
            tensor = triton.InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [triton.InferRequestedOutput(name) for name in self._spec.outputs]
        try:
            # client_timeout is gRPC's deadline; the outer one also bounds a channel that never connects.
            async with asyncio.timeout(self._timeout + 1):
                version = self._version = self._version or await self._find()
                result = await self._client.infer(
                    self._spec.model,
                    inputs,
                    model_version=str(version),
                    outputs=outputs,
                    client_timeout=self._timeout,
                )
        except (InferenceServerException, grpc.RpcError, TimeoutError) as error:
            raise self._translate(error) from error
        arrays = [result.as_numpy(name) for name in self._spec.outputs]
        if any(array is None for array in arrays):
            raise ModelMismatch(f"Triton at {self._url} left out {' or '.join(self._spec.outputs)}")
        # A model that batches has at least one dimension a row in Triton, so [batch] comes over the wire as [batch, 1].
        return [array.reshape(-1) if array.shape[1:] == (1,) else array for array in arrays]

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
