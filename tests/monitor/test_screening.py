from itertools import pairwise

import pytest

from monitor import claims
from monitor.assessment import Assessment
from monitor.memory import MemoryStore
from monitor.records import Thresholds
from monitor.screening import Screening, VerdictStore
from monitor.types import Message, MessageVerdict, Verdict
from tests.monitor.fakes import (
    NO_RECOMMENDATION,
    OFF_TOPIC,
    REVIEW,
    SAFE,
    UNSAFE,
    FailingStore,
    FakeScorer,
    FakeVerifier,
    RecordingStore,
    make_assessment,
    make_package,
)

GERMAN = "Das falsche Remdesivir wird Erwachsenen im Krankenhaus als Infusion in die Vene gegeben."


def screening(
    scorer: FakeScorer | None = None,
    store: VerdictStore | None = None,
    thresholds: Thresholds | None = None,
    version: str = "1.0.0",
) -> Screening:
    return Screening(
        make_package(version=version),
        assessment=make_assessment(scorer or FakeScorer(), version=version),
        store=store or MemoryStore(),
        thresholds=thresholds,
    )


def messages(*texts: str) -> list[Message]:
    return [Message(f"m-{i}", text) for i, text in enumerate(texts)]


async def screen_one(text: str, **parts: object) -> MessageVerdict:
    return (await screening(**parts).screen(messages(text)))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "verdict", "score"),
    [
        (SAFE, Verdict.SAFE, 0.05),
        (REVIEW, Verdict.REVIEW, 0.6),
        (UNSAFE, Verdict.UNSAFE, 0.95),
        (NO_RECOMMENDATION, Verdict.OUT_OF_SCOPE, 0.0),
        (f"{SAFE} {NO_RECOMMENDATION}", Verdict.SAFE, 0.05),
        (f"{SAFE} {REVIEW} {NO_RECOMMENDATION}", Verdict.REVIEW, 0.6),
        (f"{REVIEW} {UNSAFE} {SAFE}", Verdict.UNSAFE, 0.95),
    ],
)
async def test_a_message_takes_its_gravest_verdict_and_its_highest_score(
    text: str, verdict: Verdict, score: float
) -> None:
    result = await screen_one(text)
    assert result.verdict is verdict
    assert result.score == pytest.approx(score)


@pytest.mark.parametrize("text", ["", "...", OFF_TOPIC, "The wrong loading dose. " * 3])
async def test_without_a_term_of_the_guideline_nothing_is_scored(text: str) -> None:
    scorer = FakeScorer()
    result = await screen_one(text, scorer=scorer)
    assert (result.verdict, result.score) == (Verdict.OUT_OF_SCOPE, 0.0)
    assert {s.verdict for s in result.statements} <= {Verdict.OUT_OF_SCOPE}
    assert scorer.calls == []


async def test_a_few_words_that_claim_nothing_are_not_scored() -> None:
    scorer = FakeScorer()
    result = await screen_one(f"Hello! {UNSAFE} Take care.", scorer=scorer)
    assert scorer.calls == [[UNSAFE]]
    assert [s.verdict for s in result.statements] == [Verdict.OUT_OF_SCOPE, Verdict.UNSAFE, Verdict.OUT_OF_SCOPE]
    assert result.verdict is Verdict.UNSAFE


async def test_another_language_is_abstained_from() -> None:
    scorer = FakeScorer()
    result = await screen_one(GERMAN, scorer=scorer)
    assert (result.verdict, result.score) == (Verdict.ABSTAIN, 0.0)
    assert [s.verdict for s in result.statements] == [Verdict.ABSTAIN]
    assert scorer.calls == []


async def test_a_hidden_term_is_found() -> None:
    assert (await screen_one("The wrong loading dose of rem\u00adde**si**vir\u200b.")).verdict is Verdict.UNSAFE


async def test_statements_point_into_the_text_as_received() -> None:
    text = f"# Note\n- {UNSAFE}\n- {SAFE} {REVIEW}"
    result = await screen_one(text)
    assert [text[s.statement.start : s.statement.end] for s in result.statements] == ["Note", UNSAFE, SAFE, REVIEW]
    assert all(a.statement.end <= b.statement.start for a, b in pairwise(result.statements))


async def test_judged_statements_cite_their_recommendation_and_others_none() -> None:
    safe, unsafe, review, none = (await screen_one(f"{SAFE} {UNSAFE} {REVIEW} {NO_RECOMMENDATION}")).statements
    assert [s.evidence.recommendation for s in (safe, unsafe, review) if s.evidence] == [
        "1.1-loading",
        "1.1-loading",
        "2.1-kidney",
    ]
    assert [s.category for s in (safe, unsafe, review)] == ["dose", "dose", "population"]
    assert unsafe.evidence is not None
    assert unsafe.evidence.guideline == "tiny-guideline"
    assert unsafe.evidence.version == "2026-01"
    assert unsafe.evidence.text == "About loading."
    assert (none.verdict, none.score, none.category, none.evidence) == (Verdict.OUT_OF_SCOPE, 0.0, None, None)


async def test_verdicts_come_in_the_order_of_the_messages() -> None:
    texts = [UNSAFE, OFF_TOPIC, SAFE, "", GERMAN, REVIEW] * 3
    results = await screening().screen(messages(*texts))
    assert [r.message.text for r in results] == texts
    assert [r.message.id for r in results] == [f"m-{i}" for i in range(len(texts))]
    expected = [
        Verdict.UNSAFE,
        Verdict.OUT_OF_SCOPE,
        Verdict.SAFE,
        Verdict.OUT_OF_SCOPE,
        Verdict.ABSTAIN,
        Verdict.REVIEW,
    ]
    assert [r.verdict for r in results] == expected * 3


async def test_no_message_no_work() -> None:
    scorer = FakeScorer()
    assert await screening(scorer).screen([]) == []
    assert scorer.calls == []


async def test_a_statement_is_scored_once_per_batch() -> None:
    scorer = FakeScorer()
    results = await screening(scorer).screen(messages(UNSAFE, f"{UNSAFE} {SAFE}", f"**{UNSAFE}**"))
    assert scorer.calls == [[UNSAFE, SAFE]]
    assert [r.verdict for r in results] == [Verdict.UNSAFE] * 3
    assert [r.cached for r in results] == [0, 0, 0]


async def test_a_remembered_statement_does_not_reach_the_scorer() -> None:
    scorer, store = FakeScorer(), MemoryStore()
    screen = screening(scorer, store)
    first = (await screen.screen(messages(UNSAFE)))[0]
    again, other = await screen.screen(messages(UNSAFE, f"{UNSAFE} {SAFE}"))
    assert scorer.calls == [[UNSAFE], [SAFE]]
    assert again.statements == first.statements
    assert (first.cached, again.cached, other.cached) == (0, 1, 1)


async def test_scores_are_remembered_per_model_version() -> None:
    scorer, store = FakeScorer(), MemoryStore()
    await screening(scorer, store).screen(messages(UNSAFE))
    await screening(scorer, store, version="2.0.0").screen(messages(UNSAFE))
    assert scorer.calls == [[UNSAFE], [UNSAFE]]


async def test_what_is_remembered_holds_no_text() -> None:
    store = RecordingStore()
    await screening(store=store).screen(messages(UNSAFE))
    assert len(store.content) == 1
    assert not any("loading dose" in key or b"loading dose" in value for key, value in store.content.items())


async def test_without_a_store_the_verdicts_are_the_same() -> None:
    store = FailingStore()
    with_store = await screening().screen(messages(UNSAFE, SAFE))
    without = await screening(store=store).screen(messages(UNSAFE, SAFE))
    assert without == with_store
    assert store.calls == 2


@pytest.mark.parametrize("garbage", [b"", b"not JSON", b"[]", b"{}", b'{"p_unsafe": 0.1}', b"\xff"], ids=repr)
async def test_a_remembered_score_that_cannot_be_read_is_scored_again(garbage: bytes) -> None:
    scorer, store = FakeScorer(), RecordingStore()
    screen = screening(scorer, store)
    await screen.screen(messages(UNSAFE))
    await store.put(dict.fromkeys(store.content, garbage))
    assert (await screen.screen(messages(UNSAFE)))[0].verdict is Verdict.UNSAFE
    assert scorer.calls == [[UNSAFE], [UNSAFE]]


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (Thresholds(unsafe=0.96, review=0.4, in_scope=0.5), [Verdict.REVIEW, Verdict.REVIEW, Verdict.SAFE]),
        (Thresholds(unsafe=0.6, review=0.6, in_scope=0.5), [Verdict.UNSAFE, Verdict.UNSAFE, Verdict.SAFE]),
        (Thresholds(unsafe=0.96, review=0.96, in_scope=0.5), [Verdict.SAFE, Verdict.SAFE, Verdict.SAFE]),
        (Thresholds(unsafe=0.01, review=0.01, in_scope=0.5), [Verdict.UNSAFE, Verdict.UNSAFE, Verdict.UNSAFE]),
    ],
)
async def test_given_thresholds_win_over_the_package(thresholds: Thresholds, expected: list[Verdict]) -> None:
    store = MemoryStore()
    await screening(store=store).screen(messages(UNSAFE, REVIEW, SAFE))
    results = await screening(store=store, thresholds=thresholds).screen(messages(UNSAFE, REVIEW, SAFE))
    assert [r.verdict for r in results] == expected


async def test_with_no_scope_threshold_every_statement_still_has_evidence() -> None:
    """All probability may lie on "none of the recommendations"; the best of the others is then cited."""
    package = make_package(
        alignment={
            "classes": ["out_of_scope", "1.1-loading", "2.1-kidney", "3.1-children"],
            "weights": [[0, 0, 0, 1000] + [0] * 4] + [[0] * 8] * 3,
            "bias": [0] * 4,
        }
    )
    thresholds = Thresholds(unsafe=0.8, review=0.4, in_scope=0)
    assessment = Assessment(package.manifest, FakeScorer(), None)
    screen = Screening(package, assessment=assessment, store=MemoryStore(), thresholds=thresholds)
    result = (await screen.screen(messages(NO_RECOMMENDATION)))[0]
    assert result.statements[0].evidence is not None


async def test_a_huge_message_gets_the_same_verdicts() -> None:
    text = f"{UNSAFE} {SAFE} " * 5000
    result = await screen_one(text)
    assert len(text) > 100_000
    assert len(result.statements) == 10_000
    assert {s.verdict for s in result.statements} == {Verdict.UNSAFE, Verdict.SAFE}


async def test_close_releases_the_scorer() -> None:
    scorer = FakeScorer()
    await screening(scorer).close()
    assert scorer.closed


# With a verifier

LOADING = "About loading."


def verified_screening(found: dict[tuple[str, str], tuple[float, float]], store: VerdictStore) -> Screening:
    verifier = FakeVerifier(found)
    return Screening(make_package(verified=True), assessment=make_assessment(FakeScorer(), verifier), store=store)


async def test_the_verifiers_word_counts_at_the_thresholds_of_the_combination() -> None:
    """0.75 is above the combination's threshold of 0.7, below that of the encoder alone, 0.8."""
    result = (await verified_screening({(LOADING, SAFE): (0.75, 0.0)}, MemoryStore()).screen(messages(SAFE)))[0]
    assert (result.verdict, result.score) == (Verdict.UNSAFE, pytest.approx(0.75, abs=1e-3))


async def test_scores_of_the_two_paths_are_remembered_apart() -> None:
    store = RecordingStore()
    fast = Screening(make_package(verified=True), assessment=make_assessment(FakeScorer()), store=store)
    verified = verified_screening({(LOADING, UNSAFE): (0.05, 0.0)}, store)
    assert (await fast.screen(messages(UNSAFE)))[0].verdict is Verdict.UNSAFE
    assert (await verified.screen(messages(UNSAFE)))[0].verdict is Verdict.SAFE
    assert (await fast.screen(messages(UNSAFE)))[0].verdict is Verdict.UNSAFE
    assert [key.rsplit(":", 2)[1] for key in store.content] == ["fast", "verified"]


@pytest.mark.parametrize(
    ("p", "verdict", "reason"),
    [
        (0.9, Verdict.UNSAFE, "400 mg stated, 200 mg recommended"),
        (0.5, Verdict.REVIEW, "400 mg stated, 200 mg recommended"),
        (0.1, Verdict.SAFE, None),
    ],
)
async def test_a_flag_says_why_and_a_safe_statement_needs_no_reason(
    monkeypatch: pytest.MonkeyPatch, p: float, verdict: Verdict, reason: str | None
) -> None:
    mismatch = claims.Mismatch("dose", "400 mg", "200 mg")
    compared = claims.Comparison((0.0,) * len(claims.FEATURES), (mismatch,), "dose")
    monkeypatch.setattr(claims, "compare", lambda *_: compared)
    store = RecordingStore()
    for _ in range(2):  # scored, then remembered
        result = (await verified_screening({(LOADING, SAFE): (p, 0.0)}, store).screen(messages(SAFE)))[0]
        assert (result.statements[0].verdict, result.statements[0].reason) == (verdict, reason)
        assert b"mg" not in b"".join(store.content.values())  # a reason quotes the statement: it is read again
