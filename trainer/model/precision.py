"""Smaller numbers for a graph: eight bits for CPUs, halves for GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from monitor.onnx_scorer import ALONE, ROWS


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nothing but errors through: quantising asks for the folding that was just done."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def quantise(whole: Path, path: Path) -> None:
    """Write the graph at `whole`, which has no fusions, to `path` with products and word embeddings of eight bits.

    Dynamically (Jacob et al., CVPR 2018, arXiv:1712.05877): a quarter of the size, and faster on CPUs with the
    instructions for it. A fused attention would keep its weights whole. Constants are folded first, so that every
    weight is one that quantising sees. Activations get one scale for all that is in a batch, so the graph says in its
    metadata that its rows are to run one by one (`monitor.onnx_scorer`).
    """
    folded = path.with_suffix(".folded.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(whole), options, providers=["CPUExecutionProvider"])
    try:
        with _quiet():
            quantize_dynamic(
                folded,
                path,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            )
    finally:
        folded.unlink()
    graph = onnx.load(str(path))
    graph.metadata_props.add(key=ROWS, value=ALONE)
    onnx.save(graph, str(path))
    onnx.checker.check_model(str(path))


def halve(path: Path) -> None:
    """Rewrite the graph at `path` to compute in fp16; inputs and outputs stay int64 and fp32.

    With attention, norms and activations fused before, few casts are left, and a GPU's tensor cores have the products.
    ONNX Runtime on a CPU computes most of it in fp32 again: for checking, not for serving.
    """
    onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(path))
    onnx.checker.check_model(str(path))
