"""The model package: the contract between trainer and monitor, and all that they share.

A package is a folder that Triton can serve as it is, plus what the monitor needs to feed the model and to read its
answer:

    manifest.json                 this module's `Manifest`
    tokenizer.json                Hugging Face tokenizers format
    encoder/config.pbtxt          onnxruntime backend, GPU (NVIDIA's container)
    encoder/configs/cpu.pbtxt     python backend, CPU (`--model-config-name=cpu`)
    encoder/1/model.onnx          input_ids, attention_mask (int64 [batch, tokens])
                                  -> sentence_embedding (fp32 [batch, dim]), p_unsafe (fp32 [batch])
    encoder/1/model.py            the python backend's side of the same file
    verifier/...                  the same three, where the package has a verifier: a recommendation and a statement as
                                  one sequence -> p_contradicts, p_neutral (fp32 [batch])
    verifier_tokenizer.json       its tokenizer

A package that does not fit is refused with what is wrong; the monitor then keeps the one it has, or does not start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.errors import ConfigurationError, ModelMismatch
from monitor.records import ModelReference, Thresholds
from monitor.types import Verdict

Doubles = NDArray[np.float64]

#: A package without verifier is of schema 1, one with a verifier of schema 2: a monitor that knows schema 1 only would
#: judge by the encoder at thresholds that are not the encoder's.
SCHEMA_VERSION = 1
SCHEMA_VERSION_WITH_VERIFIER = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
ENCODER = "encoder"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("sentence_embedding", "p_unsafe")
VERIFIER = "verifier"
VERIFIER_TOKENIZER = "verifier_tokenizer.json"
VERIFIER_OUTPUTS = ("p_contradicts", "p_neutral")
#: The class of the alignment that stands for "about none of the recommendations".
OUT_OF_SCOPE = "out_of_scope"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class EncoderSpec(_Part):
    """The encoder and how to feed it."""

    base: str = Field(description="Name of the pre-trained model it was fine-tuned from.")
    dimension: int = Field(gt=0)
    max_length: int = Field(gt=2, description="Tokens the encoder reads at once; longer statements go in windows.")
    model: str = ENCODER
    model_version: int = Field(default=1, gt=0, description="Triton's version number, pinned in every request.")
    inputs: tuple[str, str] = INPUTS
    outputs: tuple[str, str] = OUTPUTS


class VerifierSpec(_Part):
    """The verifier and how to feed it: ids and mask of tokenizer(recommendation, statement); the graph has segments."""

    base: str = Field(description="Name of the cross-encoder or encoder it was fine-tuned from.")
    max_length: int = Field(gt=2, description="Tokens of recommendation and statement together.")
    model: str = VERIFIER
    model_version: int = Field(default=1, gt=0, description="Triton's version number, pinned in every request.")
    inputs: tuple[str, str] = INPUTS
    outputs: tuple[str, str] = VERIFIER_OUTPUTS


class LogisticSpec(_Part):
    """A logistic regression over named features: sigmoid(weights @ x + intercept)."""

    features: list[str]
    weights: list[float]
    intercept: float


class CombinationSpec(_Part):
    """How alignment, verifier, encoder and claims become one probability; `monitor.combination` has the formulas."""

    candidates: int = Field(gt=0, description="Recommendations that are tried at most.")
    mass: float = Field(gt=0, le=1, description="No more are tried once the alignment gives this much to those before.")
    verify_from: float = Field(ge=0, le=1, description="P(in scope) of the alignment below which nothing is read.")
    claims: LogisticSpec = Field(description="What structured readings of claim and recommendation say by themselves.")
    unsafe: LogisticSpec
    scope: LogisticSpec
    thresholds: Thresholds = Field(description="Of the combined score; those of the manifest are of the encoder alone.")


class CalibrationSpec(_Part):
    """How margins became probabilities; already applied inside the ONNX graph, here for the record.

    log-odds = slope * margin + intercept, then straight pieces through `knots` of (before, after), if there are any.
    """

    method: str
    slope: float
    intercept: float
    knots: list[tuple[float, float]] = []
    fitted_on: str


class ScopeSpec(_Part):
    """What the scope gate needs."""

    language: str
    terms: list[str]
    names: list[str] = Field(default=[], description="Of the treatment: what a pronoun may stand for.")


class GuidelineSpec(_Part):
    """The guideline that the model was trained from."""

    id: str
    title: str
    condition: str
    treatment: str
    version: str
    valid_from: date | None = None
    valid_to: date | None = None
    sha256: str


class CorpusSpec(_Part):
    """The statements that the model was trained on."""

    sha256: str
    statements: int
    origin: str


class RecommendationSpec(_Part):
    """One recommendation, with the encoder's embedding of its text."""

    id: str
    section: str
    text: str
    embedding: list[float]


class LinearHead(_Part):
    """A multinomial logistic regression on embeddings: softmax(weights @ e + bias) over `classes`."""

    classes: list[str]
    weights: list[list[float]]
    bias: list[float]

    def arrays(self) -> tuple[Doubles, Doubles]:
        """Return weights, fp64 [classes, dim], and bias, fp64 [classes], for those who read many batches."""
        return np.asarray(self.weights, dtype=np.float64), np.asarray(self.bias, dtype=np.float64)

    def probabilities(self, embeddings: NDArray[np.floating[Any]]) -> Doubles:
        """Return softmax probabilities, fp64 [n, classes], for embeddings [n, dim]."""
        return softmax(embeddings, *self.arrays())


def softmax(embeddings: NDArray[np.floating[Any]], weights: Doubles, bias: Doubles) -> Doubles:
    """Return softmax(weights @ e + bias), fp64 [n, classes], for embeddings [n, dim]; large logits do not overflow."""
    logits = embeddings.astype(np.float64) @ weights.T + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


class EvaluationSummary(_Part):
    """Figures of the frozen test sets, so that a package can be judged without its run folder."""

    suite: str
    f1: float
    auc: float
    average_precision: float
    balanced_accuracy: float
    n: int


class CanarySpec(_Part):
    """A text and what the package decided on it when it was exported; checked before the package serves."""

    text: str
    verdict: Verdict
    score: float


class LineageSpec(_Part):
    """Where a retrained package comes from, and what its gate said of it."""

    parent: str = Field(description="Name and version of the champion that it was held against.")
    start: str = Field(description="The weights that training started from: champion or pretrained.")
    profile: str
    decisions: int = Field(description="Settled decisions that it has learnt from.")
    decisions_sha256: str
    learnt: int = Field(description="Of those, decided right afterwards.")
    gate: str = Field(description="passed or refused.")
    differences: dict[str, float] = Field(description="Challenger minus champion on the large frozen sets, by metric.")


class Manifest(_Part):
    """Everything about a model but its weights."""

    schema_version: int
    name: str
    version: str
    created_at: datetime
    labels: tuple[str, str] = ("safe", "unsafe")
    encoder: EncoderSpec
    thresholds: Thresholds
    calibration: CalibrationSpec
    scope: ScopeSpec
    guideline: GuidelineSpec
    corpus: CorpusSpec
    recommendations: list[RecommendationSpec]
    alignment: LinearHead
    category: LinearHead
    verifier: VerifierSpec | None = None
    combination: CombinationSpec | None = None
    canaries: list[CanarySpec] = []
    evaluation: list[EvaluationSummary]
    lineage: LineageSpec | None = None
    files: dict[str, str] = Field(description="SHA-256 of each file, by path in the package.")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ModelPackage:
    """A package that was read and found usable."""

    path: Path
    manifest: Manifest

    @property
    def reference(self) -> ModelReference:
        """Name and version, as every event states them."""
        return ModelReference(name=self.manifest.name, version=self.manifest.version)

    def thresholds(self, *, verified: bool) -> Thresholds:
        """Return the thresholds of the combined score, or of the encoder's alone."""
        combination = self.manifest.combination
        return combination.thresholds if verified and combination else self.manifest.thresholds

    def onnx(self, spec: EncoderSpec | VerifierSpec) -> Path:
        """Return where a graph of the package lies."""
        return self.path / spec.model / str(spec.model_version) / "model.onnx"

    def sha256(self, spec: EncoderSpec | VerifierSpec) -> str:
        """Return the SHA-256 of a graph of the package, as the manifest states it.

        Raises:
            ModelMismatch: the manifest does not list that graph.
        """
        name = self.onnx(spec).relative_to(self.path).as_posix()
        if name not in self.manifest.files:
            raise ModelMismatch(f"{self.path}: the manifest lists no {name}: export the package again")
        return self.manifest.files[name]

    @property
    def tokenizer(self) -> Path:
        """The encoder's tokenizer."""
        return self.path / TOKENIZER

    @property
    def verifier_tokenizer(self) -> Path:
        """The verifier's tokenizer."""
        return self.path / VERIFIER_TOKENIZER

    @classmethod
    def load(cls, path: Path) -> ModelPackage:
        """Read and check a package.

        Raises:
            ConfigurationError: there is no package at `path`.
            ModelMismatch: there is one, but this monitor cannot use it; the message says why.
        """
        file = path / MANIFEST
        if not file.is_file():
            raise ConfigurationError(
                f"no model package at {path}: run `guardline demo` or `guardline train` first, or name one with --model"
            )
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise ModelMismatch(
                f"{file}: {where}: {problem['msg']}: export the package again or upgrade guardline"
            ) from error
        package = cls(path, manifest)
        package._check()
        return package

    def _check(self) -> None:
        manifest = self.manifest
        known = (SCHEMA_VERSION, SCHEMA_VERSION_WITH_VERIFIER)
        if manifest.schema_version not in known:
            raise ModelMismatch(
                f"{self.path}: manifest schema {manifest.schema_version}, this monitor reads "
                f"{' and '.join(map(str, known))}: export the package again or upgrade guardline"
            )
        if (manifest.verifier is None) != (manifest.combination is None):
            raise ModelMismatch(f"{self.path}: verifier and combination belong together: export the package again")
        if manifest.combination is not None:
            from monitor import claims, combination  # which import this module

            self._check_logistic("claims", manifest.combination.claims, claims.FEATURES)
            self._check_logistic("unsafe", manifest.combination.unsafe, combination.FEATURES)
            self._check_logistic("scope", manifest.combination.scope, combination.FEATURES)
        for name, digest in manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise ModelMismatch(f"{self.path}: {name} is missing: export the package again")
            if sha256_file(file) != digest:
                raise ModelMismatch(f"{self.path}: {name} is not the file that was exported: export the package again")
        ids = {r.id for r in manifest.recommendations}
        if {*manifest.alignment.classes} != ids | {OUT_OF_SCOPE}:
            raise ModelMismatch(
                f"{self.path}: the alignment's classes are not the recommendations and {OUT_OF_SCOPE}: export the "
                "package again"
            )
        for name, head in (("alignment", manifest.alignment), ("category", manifest.category)):
            n, dimension = len(head.classes), manifest.encoder.dimension
            if [len(row) for row in head.weights] != [dimension] * n or len(head.bias) != n:
                raise ModelMismatch(
                    f"{self.path}: the {name} head is not {n} classes by {dimension} dimensions: export the package "
                    "again"
                )

    def _check_logistic(self, name: str, spec: LogisticSpec, known: Sequence[str]) -> None:
        where = f"{self.path}: combination.{name}"
        if unknown := sorted({*spec.features} - {*known}):
            raise ModelMismatch(
                f"{where} reads {', '.join(unknown)}, which this monitor does not know: upgrade guardline or "
                "export the package again"
            )
        if len(spec.weights) != len(spec.features) or len({*spec.features}) != len(spec.features):
            distinct = len({*spec.features})
            raise ModelMismatch(
                f"{where} has {len(spec.weights)} weights for {distinct} features: export the package again"
            )
        if not np.isfinite([*spec.weights, spec.intercept]).all():
            raise ModelMismatch(f"{where} has a weight that is no finite number: export the package again")
