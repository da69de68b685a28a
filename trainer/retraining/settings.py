"""How a challenger is trained, and what it must show to take over: one frozen dataclass each, two profiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class StartFrom(StrEnum):
    """The weights that training starts from."""

    CHAMPION = "champion"  # those in use: a small step away from what reviewers know
    PRETRAINED = "pretrained"  # those that `guardline train` starts from


@dataclass(frozen=True)
class UpdateSettings:
    """How the champion's weights learn decisions.

    With `encoder_epochs` 0 the encoder stays as it is and its heads take a step of `trainer.retraining.heads`; the
    verifier reads decisions among `replay` statements of the corpus, so that it does not forget them (experience
    replay: Rolnick et al., NeurIPS 2019, arXiv:1811.11682).
    """

    encoder_epochs: int = 0
    encoder_learning_rate: float = 2e-4
    verifier_epochs: int = 1
    verifier_learning_rate: float = 1e-4
    replay: int | None = 300  # statements of the corpus, whole families; None: all of it
    heads_replay: int = 1200  # the same for the heads, which are a thousand times cheaper
    weight: int = 8  # times, at least, that a decision stands among them; a statement of the corpus stands there once
    most: int = 32  # times, at most
    share: float = 0.15  # of the replayed statements that decisions make up, where few of them have to be heard
    attraction: float = 0.5  # strength of the pull of the heads towards the champion's, see `heads`
    seed: int = 17

    def times(self, decisions: int, statements: int) -> int:
        """Return how often each decision stands among so many statements."""
        return min(max(round(self.share * statements / max(decisions, 1)), self.weight), self.most)


@dataclass(frozen=True)
class FrozenSettings:
    """What champion and challenger are measured on; families are drawn whole, the same ones each time."""

    statements: int | None = None  # of each test split, at most; None: all
    pairs: int | None = None  # minimal pairs of each suite, at most
    answers: int | None = None  # whole answers, at most
    bootstrap: int = 1000
    seed: int = 11


@dataclass(frozen=True)
class GateSettings:
    """Margins of non-inferiority, in the unit of the metric (shares and areas, between 0 and 1).

    `margin` bounds what may be lost overall, `fine_margin` in a stratum such as one recommendation, where only a loss
    that is certain counts (`trainer.retraining.gate` says why). Below `least` statements, or families, a stratum shows
    nothing.
    """

    margin: float = 0.03
    fine_margin: float = 0.05
    outside_margin: float = 0.02
    least: int = 30
    least_families: int = 10


@dataclass(frozen=True)
class ShadowSettings:
    """What a challenger may change on the stream: shares of the messages that both judged."""

    new_flags: float = 0.05  # flagged by the challenger alone
    lost_flags: float = 0.05  # flagged by the champion alone


@dataclass(frozen=True)
class RetrainSettings:
    """One retraining."""

    profile: str
    start: StartFrom = StartFrom.CHAMPION
    update: UpdateSettings = field(default_factory=UpdateSettings)
    frozen: FrozenSettings = field(default_factory=FrozenSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    shadow: ShadowSettings = field(default_factory=ShadowSettings)


PROFILES = {
    # Minutes: the encoder stays, its heads and the verifier take a small step; measured on part of the frozen sets.
    "quick": RetrainSettings("quick", frozen=FrozenSettings(statements=600, pairs=60, answers=120)),
    # Everything is trained further, on the whole corpus, and measured on all of the frozen sets.
    "full": RetrainSettings("full", update=UpdateSettings(encoder_epochs=2, replay=None)),
}
