"""Stage `export`: encoder, verifier and heads -> ONNX graphs, a Triton repository around them, and the manifest.

Each graph (`graphs`) is written in the precision that the settings ask for (`precision`), passes the gate of that
precision (`parity`) and gets its two configurations for Triton (`triton_config`). Calibration, heads and combination
are fitted on what the written graphs give (`trainer.verifier.combining`), not on what they were made from. Last, the
package decides on statements of its own (`canaries`), by which every monitor checks it before it serves.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from tokenizers import Tokenizer

from monitor.errors import ConfigurationError
from monitor.package import (
    MANIFEST,
    SCHEMA_VERSION,
    SCHEMA_VERSION_WITH_VERIFIER,
    TOKENIZER,
    VERIFIER_TOKENIZER,
    CalibrationSpec,
    CorpusSpec,
    EncoderSpec,
    GuidelineSpec,
    LogisticSpec,
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
from trainer.model import canaries, parity
from trainer.model.classifier import Classifier
from trainer.model.encoder import Embedder
from trainer.model.graphs import Graph, encoder_graph, to_onnx, verifier_graph
from trainer.model.parity import Parity
from trainer.model.precision import halve, quantise
from trainer.model.triton_config import VERSION, triton_config
from trainer.settings import ClassifierSettings, ExportSettings, Precision
from trainer.types import Example, Label, Recommendation, Split
from trainer.verifier import combining
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.vocabulary import count_tokens, trim

#: Occurrences from which on a word stays in a trimmed vocabulary; rarer ones are spelt in pieces.
_SELDOM = 4
#: Validation statements whose labels are compared before and after.
_FIXED = 128
_SERVING = Path(__file__).parents[1] / "serving"


def export_graph(graph: Graph, path: Path, *, fused: bool = True) -> Parity:
    """Write a graph in fp32 and return its parity; without fusions where a fused one does not hold (rotary embeddings).

    Raises:
        ParityError: the plain graph differs, too.
    """
    to_onnx(graph, path, fused=fused)
    try:
        return parity.check(graph, path)
    except ParityError:
        if not fused:
            raise
        return export_graph(graph, path, fused=False)


def write_onnx(graph: Graph, path: Path, precision: Precision, *, fused: bool = True) -> Parity:
    """Write a graph in a precision and return its parity.

    Raises:
        ParityError: the fp32 graph, or the smaller one made of it, does not pass its gate.
    """
    if precision is Precision.INT8:
        whole = path.with_suffix(".whole.onnx")
        try:
            export_graph(graph, whole, fused=False)
            quantise(whole, path)
        finally:
            whole.unlink(missing_ok=True)
        return parity.check(graph, path, precision)
    found = export_graph(graph, path, fused=fused)
    if precision is Precision.FP16:
        halve(path)
        found = parity.check(graph, path, precision)
    return found


def write_graph(root: Path, graph: Graph, *, precision: Precision = Precision.FP32, tensorrt: bool = False) -> Parity:
    """Write one model of the repository: the graph, both configurations, the python backend's side; return its parity.

    For TensorRT without fusions: it knows the standard's operators only, and has fusions of its own.

    Raises:
        ParityError: the graph does not pass its gate.
        ConfigurationError: eight bits for TensorRT, which has none of ONNX Runtime's dynamic products.
    """
    if tensorrt and precision is Precision.INT8:
        raise ConfigurationError("TensorRT cannot run a package of eight bits: export it with --precision fp16 or fp32")
    version = root / graph.name / str(VERSION)
    version.mkdir(parents=True)
    path = version / "model.onnx"
    found = write_onnx(graph, path, precision, fused=not tensorrt)
    shutil.copy(_SERVING / "model.py", version / "model.py")
    own = sha256_file(path)
    (root / graph.name / "configs").mkdir()
    for name, gpu in (("config.pbtxt", True), ("configs/cpu.pbtxt", False)):
        text = triton_config(graph, own, gpu=gpu, precision=precision, tensorrt=tensorrt)
        (root / graph.name / name).write_text(text)
    return found


def _trimmed(transformer: Any, tokenizer: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Leave the words of these texts in a transformer; return its tokenizer, as it was where that cannot be trimmed."""
    try:
        return trim(transformer, tokenizer, [i for i, n in count_tokens(tokenizer, texts).items() if n >= _SELDOM])
    except ConfigurationError:
        return tokenizer


def fixed_set(recommendations: Sequence[Recommendation], validation: Sequence[Example]) -> list[tuple[str, str]]:
    """Return (recommendation, statement) pairs on which labels are compared: evenly from all over the validation split.

    Without validation statements (nothing was trained) recommendations stand beside themselves and each other.
    """
    rules = {r.id: r.text for r in recommendations}
    scoped = [(rules[e.recommendation], e.text) for e in validation if e.recommendation in rules]
    if not scoped:
        texts = [r.text for r in recommendations]
        scoped = [*zip(texts, texts, strict=True), *zip(texts, [*texts[1:], texts[0]], strict=True)]
    return scoped[:: max(1, len(scoped) // _FIXED)][:_FIXED]


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
    *,
    weighing: LogisticSpec | None = None,
) -> dict[str, Any]:
    """Run the stage; return what to say of it. The old package stays until the new one is complete.

    `vocabulary` is all text whose words the encoder must know, where it is trimmed. With a verifier the combination is
    fitted here, on what the exported graphs give for the validation split of `examples`; `weighing`, what structured
    claims are worth in it, on the training split where it is not given.
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
        fixed = fixed_set(recommendations, examples.get(Split.VALIDATION, []))
        graph = encoder_graph(
            encoder,
            models.classifier.joint,
            tokenizer,
            models.encoder.max_length,
            fixed=[text for _, text in fixed],
            thresholds=(models.classifier.unsafe, models.classifier.review),
        )
        found = write_graph(root, graph, precision=settings.precision, tensorrt=settings.tensorrt)
        summary["encoder, largest difference to torch"] = str(found)
        tokenizer.save(str(root / TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="export: verifier")
        if models.verifier is not None:
            reader = copy.deepcopy(models.verifier.encoder).cpu().float()
            pieces = Tokenizer.from_str(models.verifier.tokenizer.to_str())
            pieces.no_truncation()
            if settings.trim:
                pieces = _trimmed(reader.model, pieces, words)
                reader.retokenised(pieces)
            own = verifier_graph(reader, pieces, models.verifier.max_length, fixed=fixed)
            found = write_graph(root, own, precision=settings.precision, tensorrt=settings.tensorrt)
            summary["verifier"] = str(found)
            pieces.save(str(root / VERIFIER_TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="export: manifest")
        manifest = build_manifest(root, pack, recommendations, models, folder)
        if models.verifier is not None:
            progress.update(task, description="export: combination, on what the graphs give")
            if weighing is None:
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
        progress.update(task, description="export: canaries")
        chosen = canaries.choose(ModelPackage(root, manifest), [e.text for e in examples.get(Split.VALIDATION, [])])
        summary["canaries"] = canaries.in_words(chosen)
        manifest = write_manifest(root, manifest.model_copy(update={"canaries": chosen}))
        shutil.rmtree(folder.package, ignore_errors=True)
        root.replace(folder.package)
        progress.update(task, advance=1)
    size = sum(f.stat().st_size for f in folder.package.rglob("*") if f.is_file())
    return {"model": f"{manifest.name} {manifest.version}", **summary, "megabytes": round(size / 1e6, 1)}
