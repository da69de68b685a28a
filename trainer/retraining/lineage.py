"""What a package says of its descent: parent, guideline, corpus, decisions, the gate and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.package import MANIFEST, EvaluationSummary, LineageSpec, ModelPackage
from trainer.artifacts import write_text
from trainer.evaluation.measures import measure
from trainer.retraining import decisions
from trainer.retraining.comparison import Compared, Judgement, Suite
from trainer.retraining.decisions import Part, Settled
from trainer.retraining.gate import Rule, Verdict
from trainer.retraining.settings import RetrainSettings
from trainer.types import Split

#: What the suites of statements are called in manifests.
_SPLITS = {Suite.HEARD: Split.TEST_ID, Suite.UNHEARD: Split.TEST_OOD}


@dataclass(frozen=True)
class Facts:
    """What is known of a retraining besides its figures.

    `exact`: the frozen sets are those that the champion was never trained on; `same_guideline`: both have the same
    recommendations.
    """

    champion: ModelPackage
    settings: RetrainSettings
    settled: Sequence[Settled]
    exact: bool
    same_guideline: bool


def learnt(compared: Compared) -> tuple[int, int]:
    """Return how many decisions of the training part the challenger decides right, and how many there are."""
    places = compared.sets.of(Suite.LEARNT)
    return sum(compared.challenger[i].right for i in places), len(places)


def summaries(compared: Compared, of: Sequence[Judgement]) -> list[EvaluationSummary]:
    """Return the figures of one model on the sets of statements, at a probability of one half as everywhere."""
    result = []
    for suite, split in _SPLITS.items():
        places = compared.sets.of(suite)
        unsafe = np.array([compared.sets.items[i].unsafe for i in places], dtype=bool)
        p = np.array([of[i].p for i in places], dtype=np.float64)
        found = measure(unsafe, p, np.ones((1, len(places)), dtype=np.uint16))
        values = [float(found[name][0]) for name in ("F1", "AUC", "AP", "balanced accuracy")]
        if not np.isfinite(values).all():
            continue
        f1, auc, average_precision, balanced = (round(v, 4) for v in values)
        result.append(
            EvaluationSummary(
                suite=f"statements/{split.value}",
                f1=f1,
                auc=auc,
                average_precision=average_precision,
                balanced_accuracy=balanced,
                n=len(places),
            )
        )
    return result


def write(package: ModelPackage, facts: Facts, compared: Compared, verdict: Verdict) -> ModelPackage:
    """Write lineage and figures into a package's manifest; its version, which is of what decides, stays."""
    training = [s for s in facts.settled if s.part is Part.TRAINING]
    lineage = LineageSpec(
        parent=f"{facts.champion.reference.name}@{facts.champion.reference.version}",
        start=facts.settings.start.value,
        profile=facts.settings.profile,
        decisions=len(training),
        decisions_sha256=decisions.digest(training),
        learnt=learnt(compared)[0],
        gate="passed" if verdict.passed else "refused",
        differences={f"{f.suite}: {f.metric}": f.difference for f in verdict.findings if f.rule is Rule.SHOWN},
    )
    manifest = package.manifest.model_copy(
        update={"evaluation": summaries(compared, compared.challenger), "lineage": lineage}
    )
    write_text(package.path / MANIFEST, manifest.model_dump_json(exclude_none=True) + "\n")
    return ModelPackage(package.path, manifest)
