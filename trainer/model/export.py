"""Stage `export`: encoder, verifier and heads -> ONNX graphs, a Triton repository around them, and the manifest.

Pooling, norm, the head that scores and its calibration are all in the encoder's graph, segments and softmax in the
verifier's, so a server gives final probabilities. Each graph is compared with the trained model before anything is
written where the monitor looks: on texts of mixed lengths, in a batch and one by one.

Eight-bit graphs (`eight_bit`) have dynamically quantised products (Jacob et al., CVPR 2018, arXiv:1712.05877) and word
embeddings of eight bits: a quarter of the size, and faster on CPUs with the instructions for it. Calibration, heads and
combination are then fitted on what the quantised graphs give (`trainer.verifier.packaging`), not on what they were
made from.
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf import text_format
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

from monitor.errors import ConfigurationError
from monitor.package import (
    ENCODER,
    INPUTS,
    MANIFEST,
    OUTPUTS,
    SCHEMA_VERSION,
    SCHEMA_VERSION_WITH_VERIFIER,
    TOKENIZER,
    VERIFIER,
    VERIFIER_OUTPUTS,
    VERIFIER_TOKENIZER,
    CalibrationSpec,
    CorpusSpec,
    EncoderSpec,
    GuidelineSpec,
    Manifest,
    ModelPackage,
    RecommendationSpec,
    ScopeSpec,
    VerifierSpec,
    sha256_file,
)
from monitor.records import Thresholds
from trainer.artifacts import RunFolder, digest, fingerprint
from trainer.errors import ParityError
from trainer.guideline.guidelines import Pack, scope_terms
from trainer.model.calibration import CalibrationModule
from trainer.model.classifier import Classifier
from trainer.model.encoder import Embedder, SentenceEncoder, padded
from trainer.model.heads import HeadModule, JointHead
from trainer.settings import ClassifierSettings, ExportSettings
from trainer.types import Example, Label, Recommendation, Split
from trainer.verifier import combining
from trainer.verifier.crossencoder import PairEncoder, PairReader
from trainer.verifier.pairs import RELATIONS, Relation
from trainer.verifier.vocabulary import count_tokens, trim

#: fp32 export may differ by rounding only.
MAX_DIFFERENCE = 1e-4
MAX_BATCH = 128
#: Occurrences from which on a word stays in a trimmed vocabulary; rarer ones are spelt in pieces.
_SELDOM = 4
_SERVING = Path(__file__).parents[1] / "serving"
_PARITY_TEXTS = (
    "Yes.",
    "Remdesivir is given as a 200 mg loading dose on day 1.",
    "Remdesivir is given as a 400 mg loading dose on day 1.",
    "ALT > 10x ULN: consider stopping; no dose adjustment at eGFR 12 mL/min.",
    "From 28 days of age and 3 kg up to 40 kg the loading dose is 5 mg/kg on day 1, and 2.5 mg/kg once daily follows. "
    * 4,
)


@dataclass(frozen=True)
class Graph:
    """A graph of the package: what is exported, and what shapes its outputs have a row."""

    name: str
    module: nn.Module
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    tokenizer: Tokenizer
    texts: Sequence[Any]  # what parity is measured on; pairs for a verifier
    max_length: int


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
    """The graph that is exported: token ids in, embedding and calibrated probability out."""

    def __init__(self, encoder: SentenceEncoder, joint: JointHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = HeadModule(joint)
        self.calibration = CalibrationModule(joint.calibration)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return fp32 [batch, dim] and fp32 [batch] for int64 [batch, tokens] twice."""
        embedding = self.encoder(input_ids, attention_mask)
        return embedding, self.calibration(self.head(embedding))


def encoder_graph(encoder: SentenceEncoder, joint: JointHead, tokenizer: Tokenizer, max_length: int) -> Graph:
    """Return the encoder as it is exported."""
    return Graph(
        ENCODER,
        ServedEncoder(encoder, joint),
        OUTPUTS,
        ((encoder.dimension,), ()),
        tokenizer,
        _PARITY_TEXTS,
        max_length,
    )


def verifier_graph(encoder: PairEncoder, tokenizer: Tokenizer, max_length: int) -> Graph:
    """Return the verifier as it is exported."""
    rule = "Adults and children of 40 kg or more receive 200 mg on day 1, then 100 mg once daily."
    pairs = [(rule, text) for text in _PARITY_TEXTS]
    return Graph(VERIFIER, ServedVerifier(encoder), VERIFIER_OUTPUTS, ((), ()), tokenizer, pairs, max_length)


def to_onnx(graph: Graph, path: Path, *, fused: bool = True) -> None:
    """Write a graph with dynamic batch and length; attention and layer norms fused for ONNX Runtime if `fused`."""
    ids, mask = _tensors(graph, graph.texts[1:3])
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


def _tensors(graph: Graph, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
    rows = [encoding.ids[: graph.max_length] for encoding in graph.tokenizer.encode_batch(list(texts))]
    return padded(rows, torch.device("cpu"))


def largest_difference(graph: Graph, path: Path) -> float:
    """Return the largest difference of any output between torch and ONNX Runtime, batched and one by one.

    Raises:
        ParityError: the file does not run, or gives NaN.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for texts in (graph.texts, *((text,) for text in graph.texts)):
        ids, mask = _tensors(graph, texts)
        with torch.inference_mode():
            expected = graph.module(ids, mask)
        try:
            given = session.run(list(graph.outputs), dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise ParityError(f"the ONNX graph does not run on a batch of {tuple(ids.shape)}: {error}") from error
        for a, b in zip(expected, given, strict=True):
            worst = float(np.maximum(worst, np.abs(a.numpy() - b).max()))  # maximum hands NaN on, max() does not
    if np.isnan(worst):
        raise ParityError(f"the ONNX graph of the {graph.name} gives NaN")
    return worst


def parity(graph: Graph, path: Path, limit: float = MAX_DIFFERENCE) -> float:
    """Return the largest difference between torch and ONNX Runtime.

    Raises:
        ParityError: it is more than `limit`.
    """
    worst = largest_difference(graph, path)
    if worst > limit:
        raise ParityError(
            f"the ONNX graph of the {graph.name} differs from the trained model by {worst:.1e} (limit {limit:.0e})"
        )
    return worst


def export_graph(graph: Graph, path: Path) -> float:
    """Write a graph and return its parity; without fusions where a fused one does not hold (rotary embeddings).

    Raises:
        ParityError: the plain graph differs, too.
    """
    to_onnx(graph, path)
    try:
        return parity(graph, path)
    except ParityError:
        to_onnx(graph, path, fused=False)
        return parity(graph, path)


def quantise(graph: Graph, path: Path) -> None:
    """Write a graph with products and word embeddings of eight bits.

    From the graph without fusions: a fused attention would keep its weights whole. Constants are folded first, so that
    every weight is one that quantising sees.
    """
    whole, folded = path.with_suffix(".whole.onnx"), path.with_suffix(".folded.onnx")
    to_onnx(graph, whole, fused=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(whole), options, providers=["CPUExecutionProvider"])
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)  # it asks for the folding that was just done
    try:
        quantize_dynamic(
            folded,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        )
    finally:
        logger.setLevel(before)
    whole.unlink()
    folded.unlink()
    onnx.checker.check_model(str(path))


def triton_config(graph: Graph, digest_: str, *, gpu: bool) -> str:
    """Return a config.pbtxt, built and parsed back as Triton's own message.

    `digest_`, the SHA-256 of the ONNX file, lets a client tell whose weights a server has loaded.
    """
    config = model_config_pb2.ModelConfig(name=graph.name, max_batch_size=MAX_BATCH)
    if gpu:
        config.backend = "onnxruntime"
    else:
        config.backend = "python"
    config.parameters["onnx_sha256"].string_value = digest_
    for name in INPUTS:
        config.input.add(name=name, data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    for name, shape in zip(graph.outputs, graph.shapes, strict=True):
        output = config.output.add(name=name, data_type=model_config_pb2.TYPE_FP32, dims=list(shape) or [1])
        if not shape:
            # A scalar per row: Triton wants a dimension, and the reshape to none makes it [batch] again.
            output.reshape.SetInParent()
    kind = model_config_pb2.ModelInstanceGroup.KIND_GPU if gpu else model_config_pb2.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    if gpu:
        # The client sends batches of one length; Triton may still join those that arrive together.
        config.dynamic_batching.max_queue_delay_microseconds = 500
    text = str(text_format.MessageToString(config))
    if text_format.Parse(text, model_config_pb2.ModelConfig()) != config:
        raise ParityError("config.pbtxt does not parse back to what was written")
    return text


def write_graph(root: Path, graph: Graph, *, eight_bit: bool = False) -> float:
    """Write one model of the repository: the graph, both configurations, the python backend's side; return its parity.

    That of an eight-bit graph is how far its outputs are from the trained model's.
    """
    version = root / graph.name / "1"
    version.mkdir(parents=True)
    path = version / "model.onnx"
    difference = export_graph(graph, path)
    if eight_bit:
        quantise(graph, path)
        difference = largest_difference(graph, path)
    shutil.copy(_SERVING / "model.py", version / "model.py")
    sha256 = sha256_file(path)
    (root / graph.name / "config.pbtxt").write_text(triton_config(graph, sha256, gpu=True))
    (root / graph.name / "configs").mkdir()
    (root / graph.name / "configs" / "cpu.pbtxt").write_text(triton_config(graph, sha256, gpu=False))
    return difference


def _trimmed(transformer: Any, tokenizer: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Leave the words of these texts in a transformer; return its tokenizer, as it was where that cannot be trimmed."""
    try:
        return trim(transformer, tokenizer, [i for i, n in count_tokens(tokenizer, texts).items() if n >= _SELDOM])
    except ConfigurationError:
        return tokenizer


@dataclass(frozen=True)
class Models:
    """What is exported: the encoder, its heads and, where there is one, the verifier (`verifier_base`: made from)."""

    encoder: Embedder
    tokenizer: Tokenizer
    base: str
    classifier: Classifier
    verifier: PairReader | None = None
    verifier_base: str = ""


def build_manifest(
    root: Path, pack: Pack, recommendations: Sequence[Recommendation], models: Models, folder: RunFolder
) -> Manifest:
    """Return the manifest of the graphs and tokenizers below `root`, without version and combination."""
    embedder, classifier = models.encoder, models.classifier
    now = datetime.now(UTC).replace(microsecond=0)
    source = pack.spec.sources[0]
    embeddings = embedder.embed([r.text for r in recommendations])
    statements = folder.statements.read_bytes().count(b"\n") if folder.statements.exists() else 0
    verifier = models.verifier
    return Manifest(
        schema_version=SCHEMA_VERSION if verifier is None else SCHEMA_VERSION_WITH_VERIFIER,
        name=pack.spec.id,
        version="",
        created_at=now,
        encoder=EncoderSpec(base=models.base, dimension=embedder.encoder.dimension, max_length=embedder.max_length),
        thresholds=Thresholds(unsafe=classifier.unsafe, review=classifier.review, in_scope=classifier.in_scope),
        calibration=CalibrationSpec(
            method=classifier.joint.calibration.method,
            slope=classifier.joint.slope,
            intercept=classifier.joint.intercept,
            knots=list(classifier.joint.knots),
            fitted_on="validation",
        ),
        scope=ScopeSpec(
            language=pack.spec.language,
            terms=scope_terms(pack, list(recommendations)),
            names=list(dict.fromkeys([pack.spec.treatment, *pack.spec.synonyms, *pack.spec.brand_names])),
        ),
        guideline=GuidelineSpec(
            id=pack.spec.id,
            title=pack.spec.title or pack.spec.id,
            condition=pack.spec.condition,
            treatment=pack.spec.treatment,
            version=source.version,
            valid_from=source.valid_from,
            valid_to=source.valid_to,
            sha256=digest(folder.recommendations),
        ),
        corpus=CorpusSpec(sha256=digest(folder.statements), statements=statements, origin="written by language models"),
        recommendations=[
            RecommendationSpec(id=r.id, section=r.section, text=r.text, embedding=np.round(e, 6).tolist())
            for r, e in zip(recommendations, embeddings, strict=True)
        ],
        alignment=classifier.alignment,
        category=classifier.category,
        verifier=VerifierSpec(base=models.verifier_base, max_length=verifier.max_length) if verifier else None,
        evaluation=[],
        files={f.relative_to(root).as_posix(): sha256_file(f) for f in sorted(root.rglob("*")) if f.is_file()},
    )


def write_manifest(root: Path, manifest: Manifest) -> Manifest:
    """Give the manifest its version and write it.

    Thresholds, heads and terms decide as much as the weights do: all of it makes the version, but not the time.
    """
    revision = fingerprint(manifest.model_dump(mode="json", exclude={"created_at", "version"}))[:8]
    manifest = manifest.model_copy(update={"version": f"{manifest.created_at:%Y%m%d}.{revision}"})
    (root / MANIFEST).write_text(manifest.model_dump_json(exclude_none=True) + "\n")
    return manifest


def run(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    models: Models,
    examples: Mapping[Split, Sequence[Example]],
    vocabulary: Iterable[str],
    folder: RunFolder,
    settings: ExportSettings,
    classifier_settings: ClassifierSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it. The old package stays until the new one is complete.

    `vocabulary` is all text whose words the encoder must know, where it is trimmed. With a verifier the combination is
    fitted here, on what the exported graphs give for the validation split of `examples`.
    """
    task = progress.add_task("export: encoder", total=3)
    folder.root.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder.root, prefix=".package-") as temporary:
        root = Path(temporary) / "package"
        root.mkdir()
        # A copy: `cpu`, `float` and trimming change a module in place; the manifest's embeddings are the original's.
        encoder, tokenizer = copy.deepcopy(models.encoder.encoder).cpu().float(), models.tokenizer
        if settings.trim:
            words = list(vocabulary)
            tokenizer = _trimmed(encoder.transformer, tokenizer, words)
        graph = encoder_graph(encoder, models.classifier.joint, tokenizer, models.encoder.max_length)
        summary["encoder, largest difference to torch"] = (
            f"{write_graph(root, graph, eight_bit=settings.eight_bit):.1e}"
        )
        tokenizer.save(str(root / TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="export: verifier")
        if models.verifier is not None:
            reader = copy.deepcopy(models.verifier.encoder).cpu().float()
            pieces = Tokenizer.from_str(models.verifier.tokenizer.to_str())
            pieces.no_truncation()
            if settings.trim:
                pieces = _trimmed(reader.model, pieces, words)
                reader.retokenised(pieces)
            own = verifier_graph(reader, pieces, models.verifier.max_length)
            summary["verifier"] = f"{write_graph(root, own, eight_bit=settings.eight_bit):.1e}"
            pieces.save(str(root / VERIFIER_TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="export: manifest")
        manifest = build_manifest(root, pack, recommendations, models, folder)
        if models.verifier is not None:
            progress.update(task, description="export: combination, on what the graphs give")
            rules = {r.id: r.text for r in recommendations}
            scoped = [e for e in examples[Split.TRAIN] if e.recommendation is not None]
            weighing = combining.weigh_claims(
                [(rules[str(e.recommendation)], e.text) for e in scoped], [e.label is Label.UNSAFE for e in scoped]
            )
            combined = combining.fit_served(
                ModelPackage(root, manifest), examples[Split.VALIDATION], weighing, classifier_settings
            )
            combining.save(combined, folder)
            manifest = manifest.model_copy(update={"combination": combined.spec})
            summary |= combined.report
        manifest = write_manifest(root, manifest)
        shutil.rmtree(folder.package, ignore_errors=True)
        root.replace(folder.package)
        progress.update(task, advance=1)
    size = sum(f.stat().st_size for f in folder.package.rglob("*") if f.is_file())
    return {"model": f"{manifest.name} {manifest.version}", **summary, "megabytes": round(size / 1e6, 1)}
