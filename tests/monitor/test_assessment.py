"""From texts to scores, with an encoder that gives the alignment asked for and a verifier that reads from a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor import claims
from monitor.assessment import Assessment
from monitor.errors import ScorerUnavailable
from monitor.types import ModelScores, StatementScore
from tests.monitor.fakes import (
    DIMENSION,
    NO_RECOMMENDATION,
    RECOMMENDATIONS,
    REVIEW,
    SAFE,
    UNSAFE,
    FakeScorer,
    FakeVerifier,
    combination_dict,
    logistic_dict,
    make_assessment,
    make_package,
)

LOADING, KIDNEY, CHILDREN = RECOMMENDATIONS
ABOUT = {id_: f"About {word}." for id_, word in RECOMMENDATIONS.items()}
#: P(recommendation) in the package's order, then P(none).
Alignment = tuple[float, float, float, float]
SURE: Alignment = (0.97, 0.01, 0.01, 0.01)
TORN: Alignment = (0.6, 0.39, 0.0001, 0.0099)
OUTSIDE: Alignment = (0.1, 0.05, 0.04, 0.81)


class AlignedScorer:
    """A `Scorer` whose embeddings have the tiny package's head give these alignments, and P(unsafe) 0.3."""

    def __init__(self, alignments: Mapping[str, Alignment]) -> None:
        self._alignments = alignments
        self.closed = False

    async def score(self, texts: Sequence[str]) -> ModelScores:
        embeddings = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for i, text in enumerate(texts):
            embeddings[i, :4] = np.log(self._alignments[text]) / 20
        return ModelScores(embeddings, np.full(len(texts), 0.3, dtype=np.float32))

    async def close(self) -> None:
        self.closed = True


Found = dict[tuple[str, str], tuple[float, float]]


def found_of(text: str, **rows: tuple[float, float]) -> Found:
    """Return P(contradicts) and P(neutral) of a text by the word of the recommendation."""
    return {(f"About {word}.", text): row for word, row in rows.items()}


async def assess_one(alignment: Alignment, changes: Mapping[str, Any] | None = None, **rows: Any) -> StatementScore:
    verifier = FakeVerifier(found_of("text", **rows))
    own = make_assessment(AlignedScorer({"text": alignment}), verifier, combination=combination_dict(**(changes or {})))
    return (await own.assess(["text"]))[0]


# The fast path


async def test_the_fast_path_is_the_encoder_times_the_probability_of_concerning_the_guideline() -> None:
    rng = np.random.default_rng(7)
    texts = [str(i) for i in range(50)]
    alignments = dict(zip(texts, map(tuple, rng.dirichlet([0.3] * 4, size=50) + 1e-9), strict=True))
    own = make_assessment(AlignedScorer(alignments))
    assert own.path == "fast"
    for text, score in zip(texts, await own.assess(texts), strict=True):
        p = np.array(alignments[text]) / sum(alignments[text])
        assert score.p_in_scope == pytest.approx(1 - p[3], abs=1e-4)
        assert score.p_unsafe == pytest.approx(0.3 * (1 - p[3]), abs=1e-4)
        assert score.recommendation == [*RECOMMENDATIONS][int(p[:3].argmax())]
        assert score.p_recommendation == pytest.approx(p[:3].max(), abs=1e-4)
        assert score.reason is None


async def test_the_categories_of_the_fast_path_are_the_heads() -> None:
    scores = await make_assessment(FakeScorer()).assess([SAFE, REVIEW, "The children get remdesivir."])
    assert [s.category for s in scores] == ["dose", "population", "timing"]


async def test_a_package_with_a_verifier_that_is_switched_off_takes_the_fast_path() -> None:
    texts = [SAFE, UNSAFE, REVIEW, NO_RECOMMENDATION]
    own = Assessment(make_package(verified=True).manifest, FakeScorer(), None)
    assert own.path == "fast"
    assert await own.assess(texts) == await make_assessment(FakeScorer()).assess(texts)


# The verified path


async def test_a_statement_is_read_beside_its_likeliest_recommendations() -> None:
    verifier = FakeVerifier()
    own = make_assessment(AlignedScorer({"torn": TORN, "sure": (0.995, 0.001, 0.001, 0.003)}), verifier)
    assert own.path == "verified"
    await own.assess(["torn", "sure"])
    assert verifier.calls == [[(ABOUT[LOADING], "torn"), (ABOUT[KIDNEY], "torn"), (ABOUT[LOADING], "sure")]]


async def test_the_score_is_the_mixture_of_the_readings_not_their_maximum() -> None:
    score = await assess_one(TORN, loading=(0.05, 0.0), kidney=(0.95, 0.0))
    assert score.p_unsafe == pytest.approx((0.6 * 0.05 + 0.39 * 0.95) / 0.99, abs=2e-4)


async def test_what_is_read_as_about_something_else_has_no_say() -> None:
    score = await assess_one(TORN, loading=(0.01, 0.98), kidney=(0.9, 0.05))
    assert score.p_unsafe > 0.85
    assert score.recommendation == KIDNEY


async def test_the_evidence_of_an_unsafe_statement_is_the_recommendation_that_is_broken() -> None:
    broken = await assess_one(TORN, loading=(0.4, 0.0), kidney=(0.95, 0.0))
    assert broken.p_unsafe >= 0.5
    assert (broken.recommendation, broken.p_recommendation) == (KIDNEY, pytest.approx(0.39 / 0.99, abs=1e-3))
    kept = await assess_one(TORN, loading=(0.1, 0.0), kidney=(0.9, 0.0))
    assert kept.p_unsafe < 0.5
    assert kept.recommendation == LOADING


async def test_what_is_surely_about_nothing_is_not_read_and_out_of_scope() -> None:
    verifier = FakeVerifier(found_of("sure", loading=(0.9, 0.0)))
    own = make_assessment(AlignedScorer({"sure": SURE, "outside": OUTSIDE}), verifier)
    outside, sure, again = await own.assess(["outside", "sure", "outside"])
    assert {text for _, text in verifier.calls[0]} == {"sure"}
    assert (outside.p_unsafe, outside.p_in_scope, outside.reason) == (0.0, 0.0, None)
    assert outside == again
    assert sure.p_unsafe > 0.8


async def test_where_nothing_is_worth_reading_the_verifier_is_not_asked() -> None:
    verifier = FakeVerifier()
    own = make_assessment(AlignedScorer({"outside": OUTSIDE}), verifier)
    assert [s.p_in_scope for s in await own.assess(["outside"])] == [0.0]
    assert verifier.calls == []


async def test_from_the_limit_on_statements_are_read() -> None:
    verifier = FakeVerifier()
    changes = combination_dict(verify_from=0.0)
    own = make_assessment(AlignedScorer({"outside": OUTSIDE}), verifier, combination=changes)
    await own.assess(["outside"])
    assert len(verifier.calls[0]) == 2


async def test_encoder_and_claims_are_stacked_with_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:

    def compare(_: claims.Claim, __: claims.Claim) -> claims.Comparison:
        return claims.Comparison((1.0,) + (0.0,) * (len(claims.FEATURES) - 1), (), None)

    monkeypatch.setattr(claims, "compare", compare)
    weights = {"verifier": 0.5, "encoder": 2.0, "claims": 1.5}
    score = await assess_one(SURE, {"unsafe": logistic_dict(weights, -1.0)}, loading=(0.8, 0.0))
    margin = 0.5 * np.log(0.8 / 0.2) + 2.0 * np.log(0.3 / 0.7) + 1.5 - 1.0
    assert score.p_unsafe == pytest.approx(1 / (1 + np.exp(-margin)), abs=2e-3)


async def test_the_gravest_mismatch_is_reason_and_category(monkeypatch: pytest.MonkeyPatch) -> None:
    mismatches = (claims.Mismatch("dose", "400 mg", "200 mg"), claims.Mismatch("day", "day 2", "day 1"))

    def compare(_: claims.Claim, __: claims.Claim) -> claims.Comparison:
        return claims.Comparison((0.0,) * len(claims.FEATURES), mismatches, "duration")

    without = await assess_one(SURE, loading=(0.9, 0.0))
    assert (without.category, without.reason) == ("dose", None)
    monkeypatch.setattr(claims, "compare", compare)
    score = await assess_one(SURE, loading=(0.9, 0.0))
    assert (score.category, score.reason) == ("duration", "400 mg stated, 200 mg recommended")


async def test_scores_are_rounded_so_that_a_repetition_gives_the_same() -> None:
    rng = np.random.default_rng(3)
    texts = [str(i) for i in range(40)]
    alignments = dict(zip(texts, map(tuple, rng.dirichlet([1.0] * 4, size=40) + 1e-9), strict=True))
    found = {(about, t): tuple(rng.dirichlet([1.0] * 3)[:2]) for t in texts for about in ABOUT.values()}
    own = make_assessment(AlignedScorer(alignments), FakeVerifier(found))
    first, again = await own.assess(texts), await own.assess(texts)
    assert first == again
    assert all(round(p, 4) == p for s in first for p in (s.p_unsafe, s.p_in_scope))
    alone = [(await own.assess([text]))[0] for text in texts]
    assert [(s.p_unsafe, s.recommendation) for s in alone] == [(s.p_unsafe, s.recommendation) for s in first]


@pytest.mark.parametrize("verifier", [None, FakeVerifier()], ids=["fast", "verified"])
async def test_no_text_no_score(verifier: FakeVerifier | None) -> None:
    assert await make_assessment(FakeScorer(), verifier).assess([]) == []
    assert verifier is None or verifier.calls == []


async def test_a_verifier_that_is_away_is_no_verdict() -> None:
    class Away(FakeVerifier):
        async def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
            raise ScorerUnavailable("away")

    with pytest.raises(ScorerUnavailable):
        await make_assessment(FakeScorer(), Away()).assess([UNSAFE])


async def test_close_closes_both_models() -> None:
    scorer, verifier = FakeScorer(), FakeVerifier()
    await make_assessment(scorer, verifier).close()
    assert scorer.closed
    assert verifier.closed
