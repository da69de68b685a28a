"""Triton's configurations of a graph, through Triton's own protobuf message."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from monitor.models.triton_repository import DIGEST
from monitor.package import INPUTS
from trainer.errors import ParityError
from trainer.model.graphs import Graph
from trainer.settings import Precision

MAX_BATCH = 128
#: Triton's number of the graph in a package; `monitor.models.triton_repository` gives others where several are served.
VERSION = 1
#: The client sends batches of one length; Triton may still join those that arrive together.
_QUEUE_MICROSECONDS = 500
#: Rows and tokens that run before a version is ready: one short statement, and the client's usual batch of full length.
#: The first batch of a shape is where memory is claimed and kernels are chosen.
_WARM_UP = {"one statement": (1, 32), "a full batch": (8, 128)}
#: Tokens of a row for which TensorRT builds its engine; longer ones make it build again.
_SHORTEST, _USUAL = 2, 64


def _accelerate(config: model_config_pb2.ModelConfig, graph: Graph, precision: Precision) -> None:
    """Let TensorRT run what it can of the graph, with one engine for all shapes that the client sends.

    Keys are those of Triton's ONNX Runtime backend. The engine is built at the first start (minutes) and kept.
    """

    def shapes(rows: int, tokens: int) -> str:
        return ",".join(f"{name}:{rows}x{tokens}" for name in INPUTS)

    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters.update(
        {
            "precision_mode": "FP16" if precision is Precision.FP16 else "FP32",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": f"/tmp/guardline-tensorrt/{graph.name}",  # noqa: S108 - in the container
            "trt_profile_min_shapes": shapes(1, _SHORTEST),
            "trt_profile_opt_shapes": shapes(MAX_BATCH, _USUAL),
            "trt_profile_max_shapes": shapes(MAX_BATCH, graph.max_length),
        }
    )


def _warm_up(config: model_config_pb2.ModelConfig) -> None:
    """Have Triton run padding through the model before it calls it ready: its tokens exist in every vocabulary."""
    for name, (rows, tokens) in _WARM_UP.items():
        sample = config.model_warmup.add(name=name, batch_size=rows, count=1)
        for tensor in INPUTS:
            sample.inputs[tensor].data_type = model_config_pb2.TYPE_INT64
            sample.inputs[tensor].dims.append(tokens)
            sample.inputs[tensor].zero_data = True


def triton_config(
    graph: Graph, digest: str, *, gpu: bool, precision: Precision = Precision.FP32, tensorrt: bool = False
) -> str:
    """Return a config.pbtxt, built and parsed back as Triton's own message.

    Args:
        graph: what is served.
        digest: SHA-256 of the ONNX file, by which a client tells whose weights a server has loaded.
        gpu: for the onnxruntime backend of NVIDIA's container; else for the python backend on a CPU.
        precision: of the graph.
        tensorrt: on a GPU, through ONNX Runtime's TensorRT.

    Raises:
        ParityError: it does not parse back to what was meant.
    """
    config = model_config_pb2.ModelConfig(name=graph.name, max_batch_size=MAX_BATCH)
    config.backend = "onnxruntime" if gpu else "python"
    config.parameters[DIGEST].string_value = digest
    config.version_policy.specific.versions.append(VERSION)
    for name in INPUTS:
        config.input.add(name=name, data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    for name, shape in zip(graph.outputs, graph.shapes, strict=True):
        output = config.output.add(name=name, data_type=model_config_pb2.TYPE_FP32, dims=list(shape) or [1])
        if not shape:
            # A scalar per row: Triton wants a dimension, and the reshape to none makes it [batch] again.
            output.reshape.SetInParent()
    kind = model_config_pb2.ModelInstanceGroup.KIND_GPU if gpu else model_config_pb2.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    _warm_up(config)
    if gpu:
        config.dynamic_batching.max_queue_delay_microseconds = _QUEUE_MICROSECONDS
        if tensorrt:
            _accelerate(config, graph, precision)
    text = str(text_format.MessageToString(config))
    if text_format.Parse(text, model_config_pb2.ModelConfig()) != config:
        raise ParityError("config.pbtxt does not parse back to what was written")
    return text
