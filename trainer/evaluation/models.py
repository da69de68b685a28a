"""Names that all of the evaluation shares: the models that are compared, and the test splits."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.types import Split

#: The package with its verifier, as the monitor serves it by default.
COMBINED = "combined"
#: The package's encoder alone: all there is without a verifier, the fast path with one.
CONTRASTIVE = "contrastive"
FROZEN = "frozen"
FROZEN_BINARY = "frozen, one hyperplane"
TESTS = (Split.TEST_ID, Split.TEST_OOD)
#: What the splits are called for people.
VOICES = {Split.TEST_ID: "voices heard in training", Split.TEST_OOD: "voices never heard"}


def served_of(models: Iterable[str]) -> str:
    """Return which of the measured models the monitor serves by default."""
    return COMBINED if COMBINED in set(models) else CONTRASTIVE
