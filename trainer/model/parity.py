"""Gates that every graph passes before a monitor sees it: the file against the trained model that it was made from.

Compared are all outputs on texts of mixed lengths, in a batch and each alone (a graph that was traced at one shape is
found out at another), and the labels at the thresholds on a fixed set. Halves and eight bits move probabilities; how
far they may is the gate's. What eight bits do to the scores is then made up for: the combination of a package is fitted
on what the graphs give (`trainer.verifier.combining`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from monitor.onnx_scorer import rows_alone, run_each
from monitor.package import INPUTS
from trainer.errors import ParityError
from trainer.model.graphs import Graph
from trainer.settings import Precision

#: Rows of the fixed set that run together, in the order they come: mixed lengths once more.
_BATCH = 32
#: Digits of a probability that are judged, as in the monitor.
_DIGITS = 4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Gate:
    """What is tolerated: the largest difference of an output, the mean one of what is judged, labels that flip."""

    flips: float
    difference: float = math.inf
    mean: float = math.inf


#: fp32 differs by rounding only (1.4e-6 and 2.2e-6, encoder and verifier of the remdesivir package), halves by 1.5e-3.
#: Eight bits flipped up to 5.8% of the labels and moved probabilities by 0.01 to 0.05 on average; a graph that was
#: broken while it was quantised is as good as random, and flips a third and more. The largest difference does not tell
#: the two apart: on the steep part of a verifier that was trained further, one pair in a hundred moves by half.
GATES = {
    Precision.FP32: Gate(0.0, difference=1e-5),
    Precision.FP16: Gate(0.01, difference=2e-2),
    Precision.INT8: Gate(0.10, mean=0.15),
}


@dataclass(frozen=True)
class Parity:
    """How a graph compares with the model it was made from.

    `difference` is the largest of any output, `mean` that of the judged one; `flips` of `labels` came out on the other
    side of a threshold.
    """

    difference: float
    mean: float
    flips: int
    labels: int

    def __str__(self) -> str:
        return f"{self.difference:.1e}, {self.flips} of {self.labels} labels flip"


def _batches(graph: Graph) -> Iterator[Sequence[Any]]:
    yield graph.mixed
    yield from ([text] for text in graph.mixed)
    yield from (graph.fixed[start : start + _BATCH] for start in range(0, len(graph.fixed), _BATCH))


def _labels(p: Floats, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    return np.round(p.astype(np.float64), _DIGITS)[:, None] >= np.array(thresholds)[None]


def compare(graph: Graph, path: Path) -> Parity:
    """Return how the file at `path` compares with the trained model.

    Raises:
        ParityError: the file does not run, or gives NaN.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch takes its turns between
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs, alone = list(graph.outputs), rows_alone(session)

    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[NDArray[Any]]:
        if alone:
            return run_each(session, outputs, INPUTS, ids, mask)
        return list(session.run(outputs, dict(zip(INPUTS, (ids, mask), strict=True))))

    judged = graph.outputs.index(graph.judged)
    difference, flips, labels = 0.0, 0, 0
    moved: list[Floats] = []
    for texts in _batches(graph):
        ids, mask = graph.tensors(texts)
        with torch.inference_mode():
            expected = [output.numpy() for output in graph.module(ids, mask)]
        try:
            given = run(ids.numpy(), mask.numpy())
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise ParityError(f"the ONNX graph does not run on a batch of {tuple(ids.shape)}: {error}") from error
        for a, b in zip(expected, given, strict=True):
            if a.shape != b.shape:
                raise ParityError(f"the ONNX graph of the {graph.name} gives {b.shape}, the trained model {a.shape}")
            difference = float(np.maximum(difference, np.abs(a - b).max()))  # maximum hands NaN on, max() does not
        moved.append(np.abs(expected[judged] - given[judged]))
        flipped = _labels(expected[judged], graph.thresholds) != _labels(given[judged], graph.thresholds)
        flips, labels = flips + int(flipped.sum()), labels + flipped.size
    if np.isnan(difference):
        raise ParityError(f"the ONNX graph of the {graph.name} gives NaN")
    return Parity(difference, float(np.concatenate(moved).mean()), flips, labels)


def check(graph: Graph, path: Path, precision: Precision = Precision.FP32) -> Parity:
    """Return how the file compares, where it passes the gate of its precision.

    Raises:
        ParityError: it does not; the message says by how much.
    """
    own, gate = compare(graph, path), GATES[precision]
    what = f"the {precision.value} graph of the {graph.name}"
    if own.difference > gate.difference:
        raise ParityError(
            f"{what} differs from the trained model by {own.difference:.1e} (limit {gate.difference:.0e})"
        )
    if own.mean > gate.mean:
        raise ParityError(f"{what} differs from the trained model by {own.mean:.2f} on average (limit {gate.mean:.2f})")
    if own.flips > gate.flips * own.labels:
        raise ParityError(f"{what} flips {own.flips} of {own.labels} labels (limit {gate.flips:.0%})")
    return own
