"""Further suites of the evaluation: minimal pairs, fresh numeric vignettes, and how well retrieval finds the rule.

    perturbation    one number, negation or population of a right statement changed, or nothing that matters
    vignettes       numeric vignettes that training has not seen, by the same rules
    retrieval       recall@k of the recommendation that a statement is about, by BM25, the frozen encoder and both

None of them takes part in choosing anything: thresholds, checkpoints and ratios come from the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.artifacts import RunFolder
from trainer.evaluation import perturbations
from trainer.evaluation.measures import score_rows
from trainer.evaluation.stage import Score, Suite
from trainer.guideline.guidelines import Pack
from trainer.guideline.retrieval import Embed, measure_recall, read_passages
from trainer.settings import EvaluationSettings
from trainer.statements import vignettes
from trainer.statements.corpus import load_split
from trainer.types import Example, Metric, Recommendation, Split

#: Fresh vignettes; all drawn with another seed than those of training, and none with a text that training has.
VIGNETTES = 600


Parts = Mapping[Split, Sequence[Example]]


def _minimal_pairs(
    pack: Pack, recommendations: Sequence[Recommendation], parts: Parts, settings: EvaluationSettings
) -> Suite:
    pairs = perturbations.suites(
        recommendations,
        [*parts[Split.TEST_ID], *parts[Split.TEST_OOD]],
        [*pack.spec.synonyms, *pack.spec.brand_names],
        settings.seed,
        contrasts=vignettes.load_contrasts(pack, recommendations),
    )

    def run(scorers: Mapping[str, Score]) -> list[Metric]:
        return [
            row
            for model, score in scorers.items()
            for row in perturbations.measure(
                pairs, score, model=model, resamples=settings.bootstrap, seed=settings.seed
            )
        ]

    return run


def _vignettes(
    pack: Pack, recommendations: Sequence[Recommendation], parts: Parts, settings: EvaluationSettings
) -> Suite:
    known = {e.text for e in parts[Split.TRAIN]}
    drawn = vignettes.generate_at_most(vignettes.load_rules(pack, recommendations), VIGNETTES, settings.seed)
    seen = {e.family for e in drawn if e.text in known}
    fresh = [e for e in drawn if e.family not in seen]

    def run(scorers: Mapping[str, Score]) -> list[Metric]:
        if not fresh:
            return []
        return [
            row
            for model, score in scorers.items()
            for row in score_rows(
                fresh,
                score([e.text for e in fresh]),
                model=model,
                split=Split.TEST_ID,
                settings=settings,
                suite="vignettes",
                fine=False,
            )
        ]

    return run


def _retrieval(
    recommendations: Sequence[Recommendation],
    parts: Parts,
    folder: RunFolder,
    embed: Embed,
    settings: EvaluationSettings,
) -> Suite:
    def run(_: Mapping[str, Score]) -> list[Metric]:
        scoped = [e for e in parts[Split.TEST_OOD] if e.recommendation is not None]
        return measure_recall(
            scoped, recommendations, read_passages(folder), embed, split=Split.TEST_OOD, settings=settings
        )

    return run


def further_suites(
    pack: Pack,
    recommendations: Sequence[Recommendation],
    folder: RunFolder,
    embed: Embed,
    settings: EvaluationSettings,
) -> list[Suite]:
    """Return the suites that a run can be measured on; `embed` is the frozen encoder.

    Raises:
        PackError: the pack's vignette rules do not fit its recommendations.
        StageMissing: the run has no passages.
    """
    parts = load_split(folder)
    return [
        _minimal_pairs(pack, recommendations, parts, settings),
        _vignettes(pack, recommendations, parts, settings),
        _retrieval(recommendations, parts, folder, embed, settings),
    ]
