"""The shipped default model on minimal pairs: right statements pass, their smallest wrong edits are flagged.

The numbers asserted are in `expected.py`. Messages of failures list what the model got wrong.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.errors import GuardlineError
from monitor.package import ModelPackage
from monitor.policy import judge
from monitor.types import StatementScore, Verdict
from tests.model_quality import expected
from tests.model_quality.minimal_pairs import both_right, load_pairs
from trainer.evaluation import perturbations
from trainer.evaluation.stage import ServedModel
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.statements import vignettes

pytestmark = pytest.mark.model
CHECKOUT = Path(__file__).resolve().parents[2]
PAIRS = load_pairs()
SEED = 11


@pytest.fixture(scope="module")
def shipped() -> ModelPackage:
    """The default package of the checkout; nothing is trained for it here."""
    try:
        return ModelPackage.load(CHECKOUT / expected.PACKAGE)
    except GuardlineError as error:
        pytest.skip(f"no default package to measure: {error}")


def scored(package: ModelPackage, texts: Sequence[str]) -> list[StatementScore]:
    """Return the scores that the monitor gives by default."""

    async def run() -> list[StatementScore]:
        served = ServedModel(package)
        try:
            return await served.score(texts)
        finally:
            await served.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def judged(shipped: ModelPackage) -> dict[str, tuple[float, bool]]:
    """P(unsafe) of each statement of the hand-written pairs, and whether the monitor flags it."""
    texts = [text for p in PAIRS for text in (p.right, p.wrong)]
    limits = shipped.thresholds(verified=True)
    return {
        text: (score.p_unsafe, judge(score, limits) is Verdict.UNSAFE)
        for text, score in zip(texts, scored(shipped, texts), strict=True)
    }


@pytest.mark.parametrize("start", ["right", "wrong"])
def test_of_most_recommendations_the_right_statement_passes_and_its_smallest_edit_is_flagged(
    judged: dict[str, tuple[float, bool]], start: str
) -> None:
    flagged = {text: flag for text, (_, flag) in judged.items()}
    found = both_right(PAIRS, flagged, start)
    missed = sorted({p.recommendation for p in PAIRS} - set(found))
    assert len(found) >= expected.RECOMMENDATIONS, f"{len(found)} only; missed: {', '.join(missed)}"


def test_right_statements_pass_and_wrong_ones_are_flagged(judged: dict[str, tuple[float, bool]]) -> None:
    false = [p.right for p in PAIRS if judged[p.right][1]]
    missed = [p.wrong for p in PAIRS if not judged[p.wrong][1]]
    assert 1 - len(false) / len(PAIRS) >= expected.RIGHT_PASSES, "\n".join(false)
    assert 1 - len(missed) / len(PAIRS) >= expected.WRONG_FLAGGED, "\n".join(missed)


def test_of_the_two_the_wrong_statement_scores_higher(judged: dict[str, tuple[float, bool]]) -> None:
    upside_down = [p for p in PAIRS if judged[p.wrong][0] <= judged[p.right][0]]
    assert 1 - len(upside_down) / len(PAIRS) >= expected.TOLD_APART, "\n".join(map(str, upside_down))


def test_edits_made_by_rule_from_the_recommendations(shipped: ModelPackage) -> None:
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    pairs = perturbations.suites(
        recommendations, [], [*pack.spec.synonyms, *pack.spec.brand_names], SEED,
        contrasts=vignettes.load_contrasts(pack, recommendations),
    )  # fmt: skip

    def score(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([s.p_unsafe for s in scored(shipped, texts)])

    rows = perturbations.measure(pairs, score, model="shipped", resamples=2)
    accuracy = {r.stratum: r.value for r in rows if r.metric == "pair accuracy"}
    assert {k: v for k, v in accuracy.items() if v < expected.GENERATED.get(k, 0)} == {}
    violations = {r.stratum: r.value for r in rows if r.metric == "invariance violations"}
    assert violations["invariance"] <= 1 - expected.INVARIANT
