"""Fit how alignment, verifier, encoder and structured claims become one probability, and where it flags.

Everything here but the weighing of structured claims learns from the validation split, which neither encoder nor
verifier has trained on. The score is the probability that a statement in scope contradicts; a second regression, which
sees statements out of scope as well, decides what is in scope. Thresholds are chosen
on scores out of fold, by family, with the policy of the classifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from monitor import claims
from monitor.alignment import Alignment
from monitor.assessment import Scorer, Verifier
from monitor.combination import FEATURES, SCOPE_FEATURES, Readings, apply, choose_candidates, gather
from monitor.factory import build_scorer, build_verifier
from monitor.package import CombinationSpec, LogisticSpec, ModelPackage
from monitor.records import Thresholds
from monitor.settings import Settings
from trainer.artifacts import RunFolder, write_json
from trainer.errors import CorpusError
from trainer.model.classifier import threshold_limits
from trainer.model.conformal import NOT_JUDGED
from trainer.model.heads import family_groups, held_out_folds, is_unsafe
from trainer.settings import ClassifierSettings
from trainer.types import Example

Doubles = NDArray[np.float64]
#: What says whether a statement in scope contradicts.
UNSAFE_FEATURES = ("verifier", "encoder", "claims")
#: Inverse L2 strength of the regression on structured readings.
_CLAIMS_C = 0.03
#: Pairs verified between two steps of the progress bar.
_SLICE = 1024
COMBINATION = "combination.json"


@dataclass(frozen=True)
class Read:
    """Statements beside their candidates: features fp64 [n, len(FEATURES)], and which recommendations were tried."""

    readings: Readings
    candidates: list[list[int]]
    ids: list[str]

    @property
    def features(self) -> Doubles:
        """What the regressions read, fp64 [n, len(FEATURES)]."""
        return self.readings.features()

    def ranked(self) -> list[list[str]]:
        """Return the candidates of each statement by their weight in the mixture, best first."""
        weights = self.readings.weights()
        return [
            [self.ids[own[j]] for j in np.argsort(-weights[i, : len(own)], kind="stable")]
            for i, own in enumerate(self.candidates)
        ]


async def read_served(
    package: ModelPackage,
    scorer: Scorer,
    verifier: Verifier,
    texts: Sequence[str],
    *,
    most: int,
    mass: float,
    weighing: LogisticSpec,
    advance: Callable[[int], None] = lambda _: None,
) -> Read:
    """Read statements beside their likeliest recommendations through the package's own graphs.

    All of them, where `monitor.assessment` reads those only that may be about a recommendation. `most` and `mass` say
    how many are tried, see `CombinationSpec`, and `weighing` is its `claims`.
    """
    manifest = package.manifest
    alignment = Alignment(manifest)
    by_id = {r.id: r.text for r in manifest.recommendations}
    rules = [by_id[name] for name in alignment.ids]
    scores = await scorer.score(texts)
    aligned = alignment.align(scores.embeddings)
    candidates = choose_candidates(aligned.recommendations, most, mass)
    pairs = [(rules[k], text) for text, own in zip(texts, candidates, strict=True) for k in own]
    found = []
    for start in range(0, len(pairs), _SLICE):
        found.append(await verifier.verify(pairs[start : start + _SLICE]))
        advance(len(found[-1]))
    readings = gather(
        aligned.recommendations,
        aligned.in_scope,
        scores.p_unsafe.astype(np.float64),
        candidates,
        np.concatenate(found).astype(np.float64) if found else np.zeros((0, 2)),
        [claims.read(rule) for rule in rules],
        [claims.read(text) for text in texts],
        weighing,
    )
    return Read(readings, candidates, alignment.ids)


def weigh_claims(pairs: Sequence[tuple[str, str]], unsafe: Sequence[bool]) -> LogisticSpec:
    """Fit what structured readings are worth: on (recommendation, statement) pairs that belong together.

    Features that never vary have no weight. From training statements, of which there are many more than of validation.
    """
    known: dict[str, claims.Claim] = {}
    rows = []
    for rule, text in pairs:
        if rule not in known:
            known[rule] = claims.read(rule)
        rows.append(claims.compare(known[rule], claims.read(text)).features)
    features = np.array(rows, dtype=np.float64).reshape(len(rows), len(claims.FEATURES))
    return _logistic(features, np.array(unsafe, dtype=bool), claims.FEATURES, claims.FEATURES, _CLAIMS_C)


def fit_served(
    package: ModelPackage, validation: Sequence[Example], weighing: LogisticSpec, settings: ClassifierSettings
) -> Combined:
    """Fit the combination of a package that has none yet, on what its graphs give.

    Raises:
        CorpusError: there are no safe, no unsafe or no out-of-scope statements to fit on.
    """

    async def read() -> Read:
        own = Settings(scorer="onnx")
        scorer, verifier = build_scorer(own, package), build_verifier(own, package)
        if verifier is None:
            raise CorpusError(f"{package.path}: no verifier to combine with")
        try:
            return await read_served(
                package,
                scorer,
                verifier,
                [e.text for e in validation],
                most=settings.candidates,
                mass=settings.candidate_mass,
                weighing=weighing,
            )
        finally:
            await scorer.close()
            await verifier.close()

    return fit(asyncio.run(read()), validation, weighing, settings)


def _logistic(
    features: Doubles, target: NDArray[np.bool_], names: Sequence[str], among: Sequence[str], c: float
) -> LogisticSpec:
    """Fit a regression on the columns `names` of features called `among`; the scale of each is in its weight."""
    columns = [among.index(name) for name in names]
    if len(set(target.tolist())) < 2:
        # A fold of a small corpus can be all of one kind: nothing to learn, and no certainty either.
        return LogisticSpec(features=list(names), weights=[0.0] * len(names), intercept=2.0 if target.any() else -2.0)
    own = features[:, columns]
    scaler = StandardScaler().fit(own)
    scale = np.where(own.std(axis=0) < 1e-9, np.inf, scaler.scale_)  # what never varies has nothing to say
    model = LogisticRegression(C=c, max_iter=2000).fit((own - scaler.mean_) / scale, target)
    weights = model.coef_[0] / scale
    return LogisticSpec(
        features=list(names),
        weights=[round(float(w), 6) for w in weights],
        intercept=round(float(model.intercept_[0] - weights @ scaler.mean_), 6),
    )


@dataclass(frozen=True)
class Combined:
    """The fitted combination and what it does on the families it was fitted on, out of fold."""

    spec: CombinationSpec
    report: dict[str, Any]


def fit(read_: Read, examples: Sequence[Example], weighing: LogisticSpec, settings: ClassifierSettings) -> Combined:
    """Fit the regressions and thresholds on validation statements, in scope and out.

    Raises:
        CorpusError: there are no safe, no unsafe or no out-of-scope statements among them.
    """
    unsafe = is_unsafe(examples)
    inside = np.array([e.recommendation is not None for e in examples], dtype=bool)
    if len(set(unsafe[inside])) < 2 or inside.all():
        raise CorpusError(
            "the validation split needs safe, unsafe and out-of-scope statements to combine the models on"
        )
    groups = family_groups(examples)
    features = read_.features
    folds = held_out_folds(unsafe, groups, settings.folds, settings.seed)

    def out_of_fold(target: NDArray[np.bool_], names: Sequence[str], among: NDArray[np.bool_], c: float) -> Doubles:
        result = np.zeros(len(examples))
        for rest, part in folds:
            own = rest[among[rest]]
            result[part] = apply(_logistic(features[own], target[own], names, FEATURES, c), features[part])
        return result

    everything = np.ones(len(examples), dtype=bool)
    # What contradicts is learnt from statements in scope only: of the others no relation to the guideline is known.
    tried = {c: out_of_fold(unsafe, UNSAFE_FEATURES, inside, c) for c in settings.combination_c}
    best = min(tried, key=lambda c: log_loss(unsafe[inside], tried[c][inside]))
    p, scope = tried[best], out_of_fold(inside, SCOPE_FEATURES, everything, 1.0)
    p, scope = np.round(p, 4), np.round(scope, 4)
    least = round(float(min(np.quantile(scope[inside], 1 - settings.in_scope_recall), 0.5)), 4)
    served = np.where(scope < least, NOT_JUDGED, p)
    flag, review, _ = threshold_limits(
        served[inside], unsafe[inside], [groups[i] for i in np.flatnonzero(inside)], settings
    )
    p_in = read_.readings.in_scope[inside]
    spec = CombinationSpec(
        candidates=settings.candidates,
        mass=settings.candidate_mass,
        verify_from=round(float(min(np.quantile(p_in, (1 - settings.in_scope_recall) / 2), 0.5)), 4),
        claims=weighing,
        unsafe=_logistic(features[inside], unsafe[inside], UNSAFE_FEATURES, FEATURES, best),
        scope=_logistic(features, inside, SCOPE_FEATURES, FEATURES, 1.0),
        thresholds=Thresholds(unsafe=flag, review=review, in_scope=least),
    )
    mixture = read_.readings.mixture()
    encoder = read_.readings.encoder
    right = [own[0] == e.recommendation for own, e, i in zip(read_.ranked(), examples, inside, strict=True) if i]
    report = {
        "inverse strength of its regularisation": best,
        "AUC of the mixture alone": float(roc_auc_score(unsafe[inside], mixture[inside])),
        "AUC of the encoder alone": float(roc_auc_score(unsafe[inside], encoder[inside])),
        "AUC combined, out of fold": float(roc_auc_score(unsafe[inside], p[inside])),
        "evidence is the right recommendation": float(np.mean(right)),
        "out of scope, flagged": float(np.mean(served[~inside] >= flag)),
        "out of scope, judged": float(np.mean(scope[~inside] >= least)),
        "recommendations read for each statement": float(np.mean([len(own) for own in read_.candidates])),
    }
    return Combined(spec, report)


def save(combined: Combined, folder: RunFolder) -> None:
    """Write the combination, and what it does on the validation split."""
    write_json(
        folder.root / COMBINATION, {"spec": combined.spec.model_dump(mode="json"), "validation": combined.report}
    )
