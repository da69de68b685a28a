"""Stage `export`: encoder and heads -> one ONNX graph, a Triton repository around it, and the manifest.

Pooling, norm, the head that scores and its calibration are all in the graph, so a server gives final
probabilities. The graph is compared with the trained model before anything is written where the monitor looks: on
statements of mixed lengths, in a batch and one by one.
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf import text_format
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

from monitor.package import (
    ENCODER,
    INPUTS,
    MANIFEST,
    OUTPUTS,
    SCHEMA_VERSION,
    TOKENIZER,
    CalibrationSpec,
    CorpusSpec,
    EncoderSpec,
    GuidelineSpec,
    Manifest,
    RecommendationSpec,
    ScopeSpec,
    sha256_file,
)
from monitor.records import Thresholds
from trainer.artifacts import RunFolder, digest, fingerprint
from trainer.errors import ParityError
from trainer.guideline.guidelines import Pack, scope_terms
from trainer.model.calibration import CalibrationModule
from trainer.model.classifier import Classifier
from trainer.model.encoder import Embedder, SentenceEncoder
from trainer.model.heads import HeadModule, JointHead
from trainer.types import Recommendation

#: fp32 export may differ by rounding only.
MAX_DIFFERENCE = 1e-4
MAX_BATCH = 128
_SERVING = Path(__file__).parents[1] / "serving"
_PARITY_TEXTS = (
    "Yes.",
    "Remdesivir is given as a 200 mg loading dose on day 1.",
    "Remdesivir is given as a 400 mg loading dose on day 1.",
    "ALT > 10x ULN: consider stopping; no dose adjustment at eGFR 12 mL/min.",
    "From 28 days of age and 3 kg up to 40 kg the loading dose is 5 mg/kg on day 1, and 2.5 mg/kg once daily follows. "
    * 4,
)


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


def to_onnx(model: ServedEncoder, path: Path, *, fused: bool = True) -> None:
    """Write the graph with dynamic batch and length; attention and layer norms fused for ONNX Runtime if `fused`."""
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = torch.ones_like(ids)
    batch, tokens = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("tokens", min=2, max=8192)
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # It warns of axes that share a name, which is what the contract wants, and of an absent torchvision.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                (ids, mask),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
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


def _tensors(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    rows = [encoding.ids[:max_length] for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def parity(model: ServedEncoder, path: Path, tokenizer: Tokenizer, max_length: int) -> float:
    """Return the largest difference of any output between torch and ONNX Runtime, batched and one by one.

    Raises:
        ParityError: it is more than `MAX_DIFFERENCE`.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for texts in (_PARITY_TEXTS, *((text,) for text in _PARITY_TEXTS)):
        ids, mask = _tensors(tokenizer, texts, max_length)
        with torch.inference_mode():
            expected = model(ids, mask)
        try:
            given = session.run(list(OUTPUTS), dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise ParityError(f"the ONNX graph does not run on a batch of {tuple(ids.shape)}: {error}") from error
        for a, b in zip(expected, given, strict=True):
            worst = float(np.maximum(worst, np.abs(a.numpy() - b).max()))  # maximum hands NaN on, max() does not
    if not worst <= MAX_DIFFERENCE:  # also true of NaN
        raise ParityError(f"the ONNX graph differs from the trained model by {worst:.1e} (limit {MAX_DIFFERENCE:.0e})")
    return worst


def export_encoder(model: ServedEncoder, path: Path, tokenizer: Tokenizer, max_length: int) -> float:
    """Write the graph and return its parity; without fusions where a fused one does not hold (rotary embeddings).

    Raises:
        ParityError: the plain graph differs, too.
    """
    to_onnx(model, path)
    try:
        return parity(model, path, tokenizer, max_length)
    except ParityError:
        to_onnx(model, path, fused=False)
        return parity(model, path, tokenizer, max_length)


def triton_config(dimension: int, digest_: str, *, gpu: bool) -> str:
    """Return a config.pbtxt, built and parsed back as Triton's own message.

    `digest_`, the SHA-256 of the ONNX file, lets a client tell whose weights a server has loaded.
    """
    config = model_config_pb2.ModelConfig(name=ENCODER, max_batch_size=MAX_BATCH)
    if gpu:
        config.backend = "onnxruntime"
    else:
        config.backend = "python"
    config.parameters["onnx_sha256"].string_value = digest_
    for name in INPUTS:
        config.input.add(name=name, data_type=model_config_pb2.TYPE_INT64, dims=[-1])
    config.output.add(name=OUTPUTS[0], data_type=model_config_pb2.TYPE_FP32, dims=[dimension])
    # A scalar per row: Triton wants a dimension, and the reshape to none makes it [batch] again.
    config.output.add(name=OUTPUTS[1], data_type=model_config_pb2.TYPE_FP32, dims=[1]).reshape.SetInParent()
    kind = model_config_pb2.ModelInstanceGroup.KIND_GPU if gpu else model_config_pb2.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    if gpu:
        # The client sends batches of one length; Triton may still join those that arrive together.
        config.dynamic_batching.max_queue_delay_microseconds = 500
    text = str(text_format.MessageToString(config))
    if text_format.Parse(text, model_config_pb2.ModelConfig()) != config:
        raise ParityError("config.pbtxt does not parse back to what was written")
    return text


def _write_repository(root: Path, model: ServedEncoder, tokenizer: Tokenizer, max_length: int) -> float:
    version = root / ENCODER / "1"
    version.mkdir(parents=True)
    difference = export_encoder(model, version / "model.onnx", tokenizer, max_length)
    shutil.copy(_SERVING / "model.py", version / "model.py")
    sha256 = sha256_file(version / "model.onnx")
    (root / ENCODER / "config.pbtxt").write_text(triton_config(model.encoder.dimension, sha256, gpu=True))
    (root / ENCODER / "configs").mkdir()
    (root / ENCODER / "configs" / "cpu.pbtxt").write_text(triton_config(model.encoder.dimension, sha256, gpu=False))
    tokenizer.save(str(root / TOKENIZER))
    return difference


def _manifest(
    root: Path,
    pack: Pack,
    recommendations: Sequence[Recommendation],
    embedder: Embedder,
    classifier: Classifier,
    folder: RunFolder,
    base: str,
    max_length: int,
) -> Manifest:
    files = {f.relative_to(root).as_posix(): sha256_file(f) for f in sorted(root.rglob("*")) if f.is_file()}
    now = datetime.now(UTC).replace(microsecond=0)
    source = pack.spec.sources[0]
    embeddings = embedder.embed([r.text for r in recommendations])
    statements = folder.statements.read_bytes().count(b"\n")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=pack.spec.id,
        version="",
        created_at=now,
        encoder=EncoderSpec(base=base, dimension=embedder.encoder.dimension, max_length=max_length),
        thresholds=Thresholds(unsafe=classifier.unsafe, review=classifier.review, in_scope=classifier.in_scope),
        calibration=CalibrationSpec(
            method=classifier.joint.calibration.method,
            slope=classifier.joint.slope,
            intercept=classifier.joint.intercept,
            knots=list(classifier.joint.knots),
            fitted_on="validation",
        ),
        scope=ScopeSpec(language=pack.spec.language, terms=scope_terms(pack, list(recommendations))),
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
        evaluation=[],
        files=files,
    )
    # Thresholds, heads and terms decide as much as the weights do: all of it makes the version, but not the time.
    revision = fingerprint(manifest.model_dump(mode="json", exclude={"created_at"}))[:8]
    return manifest.model_copy(update={"version": f"{now:%Y%m%d}.{revision}"})


def run(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    embedder: Embedder,
    tokenizer: Tokenizer,
    classifier: Classifier,
    folder: RunFolder,
    base: str,
    max_length: int,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it. The old package stays until the new one is complete."""
    task = progress.add_task("export: ONNX", total=2)
    folder.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.root, prefix=".package-") as temporary:
        root = Path(temporary) / "package"
        root.mkdir()
        # A copy: `cpu` and `float` change a module in place, and the manifest's embeddings come from the original.
        model = ServedEncoder(copy.deepcopy(embedder.encoder).cpu().float(), classifier.joint)
        difference = _write_repository(root, model, tokenizer, max_length)
        progress.update(task, advance=1, description="export: manifest")
        manifest = _manifest(root, pack, recommendations, embedder, classifier, folder, base, max_length)
        (root / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        shutil.rmtree(folder.package, ignore_errors=True)
        root.replace(folder.package)
        progress.update(task, advance=1)
    return {"model": f"{manifest.name} {manifest.version}", "largest difference to torch": f"{difference:.1e}"}
