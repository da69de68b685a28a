"""The ONNX graphs of a package: what goes into them, and how torch writes them.

Pooling, norm, the head that scores and its calibration are all in the encoder's graph, segments and softmax in the
verifier's, so a server gives final probabilities.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from tokenizers import Tokenizer
from torch import Tensor, nn

from monitor.package import ENCODER, INPUTS, OUTPUTS, VERIFIER, VERIFIER_OUTPUTS
from trainer.errors import ParityError
from trainer.model.calibration import CalibrationModule
from trainer.model.encoder import SentenceEncoder, padded
from trainer.model.heads import HeadModule, JointHead
from trainer.verifier.crossencoder import PairEncoder
from trainer.verifier.pairs import RELATIONS, Relation

#: Every graph is tried on these, of one token to many: in a batch, and each alone.
MIXED_LENGTHS = (
    "Yes.",
    "Remdesivir is given as a 200 mg loading dose on day 1.",
    "Remdesivir is given as a 400 mg loading dose on day 1.",
    "ALT > 10x ULN: consider stopping; no dose adjustment at eGFR 12 mL/min.",
    "From 28 days of age and 3 kg up to 40 kg the loading dose is 5 mg/kg on day 1, and 2.5 mg/kg once daily follows. "
    * 4,
)
_RULE = "Adults and children of 40 kg or more receive 200 mg on day 1, then 100 mg once daily."
#: The verifier has no threshold of its own; where it says as much one thing as the other, its word turns.
_EVEN = 0.5


@dataclass(frozen=True)
class Graph:
    """A graph of the package: what is exported, what shapes its outputs have a row, and what it is tried on."""

    name: str
    module: nn.Module
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    tokenizer: Tokenizer
    max_length: int
    mixed: Sequence[Any]  # texts of mixed lengths, or pairs for a verifier: in a batch and each alone
    fixed: Sequence[Any]  # texts whose labels are compared
    judged: str  # output that is held against the thresholds
    thresholds: tuple[float, ...]

    def tensors(self, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return ids and mask, int64 [batch, tokens], of texts or pairs; longer ones lose their end."""
        rows = [encoding.ids[: self.max_length] for encoding in self.tokenizer.encode_batch(list(texts))]
        return padded(rows, torch.device("cpu"))


class ServedVerifier(nn.Module):
    """The verifier's graph: token ids in, P(contradicts) and P(neutral) out."""

    def __init__(self, encoder: PairEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return fp32 [batch] twice for int64 [batch, tokens] twice."""
        p = self.encoder(input_ids, attention_mask).softmax(dim=1)
        return p[:, RELATIONS.index(Relation.CONTRADICTS)], p[:, RELATIONS.index(Relation.NEUTRAL)]


class ServedEncoder(nn.Module):
    """The encoder's graph: token ids in, embedding and calibrated probability out."""

    def __init__(self, encoder: SentenceEncoder, joint: JointHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = HeadModule(joint)
        self.calibration = CalibrationModule(joint.calibration)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return fp32 [batch, dim] and fp32 [batch] for int64 [batch, tokens] twice."""
        embedding = self.encoder(input_ids, attention_mask)
        return embedding, self.calibration(self.head(embedding))


def encoder_graph(
    encoder: SentenceEncoder,
    joint: JointHead,
    tokenizer: Tokenizer,
    max_length: int,
    *,
    fixed: Sequence[str] = (),
    thresholds: tuple[float, ...] = (_EVEN,),
) -> Graph:
    """Return the encoder as it is exported; labels of `fixed` are compared at the thresholds."""
    return Graph(
        ENCODER,
        ServedEncoder(encoder, joint),
        OUTPUTS,
        ((encoder.dimension,), ()),
        tokenizer,
        max_length,
        MIXED_LENGTHS,
        fixed,
        OUTPUTS[1],
        thresholds,
    )


def verifier_graph(
    encoder: PairEncoder, tokenizer: Tokenizer, max_length: int, *, fixed: Sequence[tuple[str, str]] = ()
) -> Graph:
    """Return the verifier as it is exported; labels of the `fixed` (recommendation, statement) pairs are compared."""
    return Graph(
        VERIFIER,
        ServedVerifier(encoder),
        VERIFIER_OUTPUTS,
        ((), ()),
        tokenizer,
        max_length,
        [(_RULE, text) for text in MIXED_LENGTHS],
        fixed,
        VERIFIER_OUTPUTS[0],
        (_EVEN,),
    )


def to_onnx(graph: Graph, path: Path, *, fused: bool = True) -> None:
    """Write a graph with dynamic batch and length; attention and layer norms fused for ONNX Runtime if `fused`.

    Raises:
        ParityError: torch gave none.
    """
    ids, mask = graph.tensors(graph.mixed[1:3])
    batch, tokens = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("tokens", min=2, max=8192)
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # It warns of axes that share a name, which is what the contract wants, and of an absent torchvision.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(),
                (ids, mask),
                input_names=list(INPUTS),
                output_names=list(graph.outputs),
                dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(before)
    if program is None:
        raise ParityError("torch.onnx gave no graph")
    if fused:
        optimize_for_ort(program.model)
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))
