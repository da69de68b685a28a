"""The champion's weights, for training to go on from: from its package alone, else from the run that made it.

A package holds ONNX graphs. The exporter keeps the names of vectors and of tables but folds a matrix and its
transposition into a nameless constant, so a layer's matrix is found from its bias, which has its name: it is in the
product that the bias is added to. Eight-bit weights are spread to fp32, as those of the general verifier are
(`trainer.verifier.shipped`). What was recovered is run beside the graph that it came from, and refused where the two
differ by more than products of eight bits do.

Fused graphs (fp32 and fp16 packages) have no such products left: there the run folder that the package lies in has to
have the weights, and passes the same comparison.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from monitor.errors import ConfigurationError
from monitor.factory import build_scorer, build_verifier
from monitor.package import TOKENIZER, ModelPackage
from monitor.settings import Settings
from trainer.artifacts import RunFolder
from trainer.errors import ParityError
from trainer.model import encoder
from trainer.model.heads import JointHead
from trainer.pipeline import SHIPPED
from trainer.settings import Precision
from trainer.verifier import crossencoder, shipped
from trainer.verifier.pairs import RELATIONS, Relation

Array = NDArray[np.generic]
#: Operators that multiply by a matrix.
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "Gemm"})
#: Largest mean difference between graph and recovered weights: of embeddings (1 - cosine), of probabilities.
TOLERANCE = 0.02
_CONTRADICTS = RELATIONS.index(Relation.CONTRADICTS)


class _Weights:
    """The named weights of one graph, in fp32."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(str(path))
        self._path = path
        self._arrays: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._made = {output: node for node in model.graph.node for output in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def _spread(self, name: str) -> Array | None:
        """Return a constant in fp32, whether it is kept whole or in eight bits."""
        if name in self._arrays:
            return self._arrays[name]
        quantised = self._arrays.get(f"{name}_quantized")
        if quantised is None:
            return None
        zero, scale = self._arrays[f"{name}_zero_point"], self._arrays[f"{name}_scale"]
        return np.asarray((quantised.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32))

    def _product(self, output: str) -> Array | None:
        """Return the constant matrix of the product that `output` comes of, through casts and scales."""
        node = self._made.get(output)
        while node is not None:
            if node.op_type in _PRODUCTS:
                return next(
                    (m for name in node.input if (m := self._spread(name.removesuffix("_quantized"))) is not None
                     and m.ndim == 2), None,
                )  # fmt: skip
            node = next((self._made[name] for name in node.input if name in self._made), None)
        return None

    def find(self, name: str, shape: torch.Size) -> Tensor | None:
        """Return a parameter by the name that it has in torch; None where the graph does not hold it as such."""
        own = self._spread(name)
        if own is None and name.endswith(".weight"):
            for reader in self._readers.get(f"{name.removesuffix('weight')}bias", []):
                found = next((m for i in reader.input if (m := self._product(i)) is not None), None)
                if found is not None:
                    own = found.T
        if own is None or own.shape != tuple(shape):
            return None
        return torch.from_numpy(np.array(own, dtype=np.float32))

    def _folded(self, name: str) -> Tensor | None:
        """Return a scalar that the graph has the exponential of, as the sharpness of an aligned comparison."""
        own = self._arrays.get("exp")
        if name != "sharpness" or own is None or own.ndim:
            return None
        return torch.tensor(float(np.log(own)))

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Replace all parameters of a module by those of the graph.

        Raises:
            ConfigurationError: the graph lacks some; nothing can be trained further from it.
        """
        found: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            own = self._folded(name)
            own = self.find(prefix + name, parameter.shape) if own is None else own
            # A pooler that no output reads is in no graph.
            if own is None and ".pooler." not in f".{name}":
                raise ConfigurationError(
                    f"{self._path}: no {name} to go on training from (a fused graph holds it otherwise), and no run "
                    "folder around the package that has it: train from --start pretrained"
                )
            if own is not None:
                found[name] = own
        module.load_state_dict(found, strict=False)


def _resize(transformer: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Give a transformer a table of words of the size that a package's (trimmed) tokenizer has."""
    table = transformer.get_input_embeddings()
    size, padding = tokenizer.get_vocab_size(), tokenizer.token_to_id("[PAD]")
    if isinstance(table, nn.Embedding) and table.num_embeddings != size:
        transformer.set_input_embeddings(nn.Embedding(size, table.embedding_dim, padding_idx=padding))
        transformer.config.vocab_size = size
        transformer.config.pad_token_id = padding


def _recovered_encoder(package: ModelPackage, path: Path) -> None:
    spec = package.manifest.encoder
    model, _ = encoder.load_pretrained(spec.base)
    tokenizer = Tokenizer.from_file(str(package.tokenizer))
    _resize(model.transformer, tokenizer)  # type: ignore[arg-type]
    _Weights(package.onnx(spec)).fill(model, "encoder.")
    embedder = encoder.Embedder(model, tokenizer, max_length=spec.max_length, sub_batch=16)
    _require_alike(package, embedder=embedder)
    encoder.save(embedder, spec.base, path)
    tokenizer.save(str(path / TOKENIZER), pretty=False)


def _recovered_verifier(package: ModelPackage, path: Path) -> None:
    spec = package.manifest.verifier
    if spec is None:
        raise ConfigurationError(f"{package.path}: no verifier to go on training from")
    model, _ = shipped.load() if spec.base == SHIPPED else crossencoder.load(spec.base)
    tokenizer = Tokenizer.from_file(str(package.verifier_tokenizer))
    _resize(model.model, tokenizer)
    model.retokenised(tokenizer)
    _Weights(package.onnx(spec)).fill(model, "encoder.")
    reader = crossencoder.PairReader(model, tokenizer, max_length=spec.max_length)
    _require_alike(package, reader=reader)
    crossencoder.save(reader, path)


def encoder_of(package: ModelPackage, path: Path) -> str:
    """Write the encoder of a package to `path`, in the layout that `trainer.model.encoder` reads; say where it is from.

    Raises:
        ConfigurationError: neither the graph nor the run beside it gives the weights; the message says what to do.
        ParityError: what was found does not give what the graph gives.
    """
    try:
        _recovered_encoder(package, path)
        return "from its graph"
    except ConfigurationError:
        beside = RunFolder(package.path.parent).encoder
        if not (beside / "config.json").exists():
            raise
    own = encoder.load_pretrained(str(beside))
    spec = package.manifest.encoder
    _require_alike(package, embedder=encoder.Embedder(*own, max_length=spec.max_length, sub_batch=16))
    shutil.copytree(beside, path)
    return "from its run folder"


def verifier_of(package: ModelPackage, path: Path) -> str:
    """Do the same for the verifier, in the layout that `trainer.verifier.crossencoder` reads.

    Raises:
        ConfigurationError, ParityError: as for the encoder; or the package has no verifier.
    """
    try:
        _recovered_verifier(package, path)
        return "from its graph"
    except ConfigurationError:
        beside, spec = RunFolder(package.path.parent).verifier, package.manifest.verifier
        if spec is None or not (beside / "config.json").exists():
            raise
    own = crossencoder.load(str(beside))
    _require_alike(package, reader=crossencoder.PairReader(*own, max_length=spec.max_length))
    shutil.copytree(beside, path)
    return "from its run folder"


def precision_of(package: ModelPackage) -> Precision:
    """Return what a package's graphs compute in."""
    graph = onnx.load(str(package.onnx(package.manifest.encoder))).graph
    if any(node.op_type == "MatMulInteger" for node in graph.node):
        return Precision.INT8
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer)
    return Precision.FP16 if half else Precision.FP32


def head_of(package: ModelPackage) -> JointHead | None:
    """Return the head that scores, with its calibration; None where the graph holds it otherwise."""
    weights, manifest = _Weights(package.onnx(package.manifest.encoder)), package.manifest
    shape = (len(manifest.recommendations), manifest.encoder.dimension)
    rows: list[NDArray[np.float64]] = []
    for side in ("safe", "unsafe"):
        matrix = weights.find(f"head.{side}.weight", torch.Size(shape))
        bias = weights.find(f"head.{side}.bias", torch.Size(shape[:1]))
        if matrix is None or bias is None:
            return None
        rows += [matrix.double().numpy(), bias.double().numpy()]
    own = manifest.calibration
    return JointHead(
        np.stack([rows[0], rows[2]], axis=1).reshape(-1, shape[1]),
        np.stack([rows[1], rows[3]], axis=1).reshape(-1),
        own.slope,
        own.intercept,
        tuple(own.knots),
    )


def _require_alike(
    package: ModelPackage, *, embedder: encoder.Embedder | None = None, reader: crossencoder.PairReader | None = None
) -> None:
    """Run what was recovered beside the graph that it came from.

    Raises:
        ParityError: they differ by more than products of eight bits do.
    """
    rules = [r.text for r in package.manifest.recommendations]
    texts = [*(c.text for c in package.manifest.canaries), *rules]
    pairs = list(zip(rules * len(texts), texts, strict=False))
    settings = Settings(scorer="onnx", verify=True)

    async def difference() -> float:
        if embedder is not None:
            scorer = build_scorer(settings, package)
            try:
                served = (await scorer.score(texts)).embeddings
            finally:
                await scorer.close()
            return float(np.mean(1 - (served * embedder.embed(texts)).sum(axis=1)))
        verifier = build_verifier(settings, package)
        if verifier is None or reader is None:
            return float("inf")
        try:
            p = await verifier.verify(pairs)
        finally:
            await verifier.close()
        return float(np.abs(p[:, 0] - reader.probabilities(pairs)[:, _CONTRADICTS]).mean())

    found = asyncio.run(difference())
    if not found <= TOLERANCE:
        raise ParityError(
            f"{package.path}: weights recovered from its graphs differ from them by {found:.3f} (limit {TOLERANCE}): "
            "train from --start pretrained"
        )
