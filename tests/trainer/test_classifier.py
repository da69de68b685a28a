"""The stage: the score by hand, what the policies promise, thresholds as tables, the artefact."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.progress import Progress

from monitor.assessment import Assessment
from monitor.errors import ConfigurationError
from monitor.package import OUT_OF_SCOPE, LinearHead
from monitor.policy import judge
from monitor.records import Thresholds
from monitor.types import ModelScores, Verdict
from trainer.artifacts import RunFolder
from trainer.errors import CorpusError, StageMissing
from trainer.model.calibration import Calibration
from trainer.model.classifier import (
    POLICIES,
    Classifier,
    OperatingPoint,
    Scored,
    describe_conformal,
    describe_point,
    embed_splits,
    fit,
    fit_and_explain,
    fit_joint,
    held_out_errors,
    in_scope,
    is_unsafe,
    least_recall_threshold,
    load,
    measure_coverage,
    run,
    save,
    threshold,
)
from trainer.model.conformal import NOT_JUDGED
from trainer.model.encoder import Embedder, load_pretrained
from trainer.model.heads import Hidden, JointHead
from trainer.settings import ClassifierSettings
from trainer.types import Difficulty, Example, Label, Split

DIM = 6
RULES = ["dose", "days", "route"]
#: The head is named, so that nothing is compared: `tests/trainer/test_heads.py` does that.
OWN = ClassifierSettings(head="joint", folds=3)
CATEGORIES = {"dose": "dose", "days": "duration", "route": "route"}


def example(i: int, rule: str | None, label: Label) -> Example:
    hard = Difficulty.HARD if label is Label.UNSAFE else None
    return Example(f"e-{i}", f"text {i}", label, rule, CATEGORIES.get(str(rule)), hard, f"f-{i}", "a")


def cloud(n: int, seed: int, rules: list[str] = RULES, spread: float = 0.35) -> tuple[NDArray, list[Example]]:
    """Embeddings around a centre for each rule and label, and some that are about none."""
    centres = np.random.default_rng(0).normal(size=(2 * len(RULES) + 1, DIM))
    rng = np.random.default_rng(seed)
    vectors, examples = [], []
    for i in range(n):
        kind = int(rng.integers(0, 2 * len(rules) + 1))
        if kind == 2 * len(rules):
            row, centre = example(i, None, Label.OUT_OF_SCOPE), centres[-1]
        else:
            row = example(i, rules[kind // 2], Label.UNSAFE if kind % 2 else Label.SAFE)
            centre = centres[2 * RULES.index(rules[kind // 2]) + kind % 2]
        vector = centre + spread * rng.normal(size=DIM)
        vectors.append(vector / np.linalg.norm(vector))
        examples.append(row)
    return np.array(vectors, dtype=np.float32), examples


def scoped(vectors: NDArray, examples: list[Example]) -> tuple[NDArray, list[Example]]:
    keep = in_scope(examples)
    return vectors[keep], [examples[i] for i in keep]


def served(found: Classifier, vectors: NDArray, examples: list[Example]) -> tuple[NDArray, NDArray]:
    """What the policy sees of those in scope, and which are unsafe."""
    scored = Scored.of(found, vectors, examples)
    return scored.served(found.joint.calibration, found.in_scope), scored.unsafe


@pytest.fixture(scope="module")
def data() -> tuple[dict[Split, NDArray], dict[Split, list[Example]]]:
    parts = {Split.TRAIN: cloud(400, 1), Split.VALIDATION: cloud(200, 2)}
    return {p: v for p, (v, _) in parts.items()}, {p: e for p, (_, e) in parts.items()}


@pytest.fixture(scope="module")
def fitted(data: tuple) -> Classifier:
    return fit(*data, RULES, OWN)


# The score


def test_p_unsafe_is_the_unsafe_share_of_the_softmax() -> None:
    rng = np.random.default_rng(1)
    head = JointHead(rng.normal(size=(6, DIM)), rng.normal(size=6), slope=1.0, intercept=0.0)
    embeddings = rng.normal(size=(5, DIM)).astype(np.float32)
    expected = []
    for e in embeddings.astype(float):
        logits = [sum(w * x for w, x in zip(row, e, strict=True)) for row in head.weights] + head.bias
        exponentials = np.exp(logits)
        expected.append((exponentials[1] + exponentials[3] + exponentials[5]) / exponentials.sum())
    np.testing.assert_allclose(head.p_unsafe(embeddings), expected, rtol=1e-9)


def test_calibration_is_a_line_in_the_log_odds() -> None:
    rng = np.random.default_rng(2)
    raw = JointHead(rng.normal(size=(4, DIM)), rng.normal(size=4), slope=1.0, intercept=0.0)
    embeddings = rng.normal(size=(5, DIM)).astype(np.float32)
    p = raw.p_unsafe(embeddings)
    np.testing.assert_allclose(raw.margin(embeddings), np.log(p / (1 - p)), rtol=1e-6)
    q = replace(raw, slope=0.5, intercept=-1.0).p_unsafe(embeddings)
    np.testing.assert_allclose(np.log(q / (1 - q)), 0.5 * np.log(p / (1 - p)) - 1, rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    head = JointHead(np.array([[500.0], [-500.0]]), np.zeros(2), 3.0, 0.0)
    np.testing.assert_allclose(head.p_unsafe(np.array([[0.5], [-0.5]], dtype=np.float32)), [0, 1], atol=1e-9)


def test_classes_without_training_rows_never_win() -> None:
    train = scoped(*cloud(300, 1, ["dose", "days"]))
    keep = [i for i, e in enumerate(train[1]) if (e.recommendation, e.label) != ("days", Label.UNSAFE)]
    train = train[0][keep], [train[1][i] for i in keep]
    head = fit_joint(train, scoped(*cloud(200, 2, ["dose"])), RULES, 10.0)
    assert head.weights.shape == (6, DIM)
    everywhere = np.random.default_rng(4).normal(size=(500, DIM))
    everywhere /= np.linalg.norm(everywhere, axis=1, keepdims=True)
    logits = everywhere @ head.weights.T + head.bias
    assert set(logits.argmax(axis=1)) <= {0, 1, 2}
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert shares[:, 3:].max() < 1e-12


def test_a_separable_cloud_is_separated(data: tuple, fitted: Classifier) -> None:
    vectors, examples = scoped(*cloud(300, 9))
    p = fitted.joint.p_unsafe(vectors)
    assert ((p >= 0.5) == is_unsafe(examples)).mean() > 0.9


def test_a_guideline_of_one_recommendation() -> None:
    train, validation = scoped(*cloud(300, 1, ["dose"], spread=0.7)), scoped(*cloud(300, 2, ["dose"], spread=0.7))
    p = fit_joint(train, validation, ["dose"], 10.0).p_unsafe(validation[0])
    assert ((p >= 0.5) == is_unsafe(validation[1])).mean() > 0.8


def test_a_guideline_of_two_categories() -> None:
    rules = ["dose", "days"]
    parts = {Split.TRAIN: cloud(300, 1, rules), Split.VALIDATION: cloud(200, 2, rules)}
    vectors, examples = {p: v for p, (v, _) in parts.items()}, {p: e for p, (_, e) in parts.items()}
    found = fit(vectors, examples, rules, OWN)
    assert found.category.classes == ["dose", "duration"]
    assert np.shape(found.category.weights) == (2, DIM)
    assert len(found.category.bias) == 2


def test_the_alignment_knows_recommendations_that_have_no_training_statement(data: tuple) -> None:
    rules = [*RULES, "never trained"]
    found = fit(*data, rules, OWN)
    assert {*found.alignment.classes} == {*rules, OUT_OF_SCOPE}


def test_a_corpus_without_out_of_scope_statements() -> None:
    parts = {p: scoped(*cloud(200, i)) for i, p in enumerate((Split.TRAIN, Split.VALIDATION), 1)}
    found = fit({p: v for p, (v, _) in parts.items()}, {p: e for p, (_, e) in parts.items()}, RULES, OWN)
    assert {*found.alignment.classes} == {*RULES, OUT_OF_SCOPE}


def test_heads_name_their_classes_and_fit_the_embedding(fitted: Classifier) -> None:
    assert {*fitted.alignment.classes} == {*RULES, OUT_OF_SCOPE}
    assert fitted.category.classes == sorted(CATEGORIES.values())
    for head in (fitted.alignment, fitted.category):
        assert np.shape(head.weights) == (len(head.classes), DIM)
        assert len(head.bias) == len(head.classes)


def test_the_alignment_names_the_rule(fitted: Classifier) -> None:
    vectors, examples = cloud(300, 9)
    logits = vectors @ np.array(fitted.alignment.weights).T + np.array(fitted.alignment.bias)
    named = [fitted.alignment.classes[i] for i in logits.argmax(axis=1)]
    assert (
        np.mean([n == (e.recommendation or OUT_OF_SCOPE) for n, e in zip(named, examples, strict=True)]) > 0.7
    )  # chance: 0.29


def test_thresholds_keep_their_order(fitted: Classifier) -> None:
    assert 0.05 <= fitted.review <= fitted.unsafe <= 0.99
    assert fitted.unsafe >= 0.5
    assert 0 <= fitted.in_scope <= 0.5


@pytest.mark.parametrize(
    ("flagged", "reviewed"), [(0.0, 0.0), (0.05, 0.1), (0.2, 0.0), (0.3, 0.5), (0.0, 1.0), (1.0, 0.0), (0.6, 0.6)]
)
def test_fitted_thresholds_keep_their_promise(data: tuple, flagged: float, reviewed: float) -> None:
    found = fit(*data, RULES, replace(OWN, flagged_safe=flagged, reviewed_safe=reviewed))
    p, unsafe = served(found, data[0][Split.VALIDATION], data[1][Split.VALIDATION])
    p = p[~unsafe]
    assert found.review <= found.unsafe
    assert 0.5 <= found.unsafe <= 0.99
    for limit, share in ((found.unsafe, flagged), (found.review, flagged + reviewed)):
        assert limit == 0.99 or (p >= limit).mean() <= share


def test_served_scores_are_what_the_monitor_judges(data: tuple, fitted: Classifier) -> None:
    """Calibration, alignment, rounding and scope: thresholds are chosen on what they will be compared with."""
    vectors, examples = scoped(*cloud(300, 9, spread=0.8))
    found = replace(fitted, in_scope=0.6)
    manifest = SimpleNamespace(
        alignment=found.alignment,
        category=found.category,
        recommendations=[
            SimpleNamespace(id=name, section="1", text=name) for name in found.alignment.classes if name != OUT_OF_SCOPE
        ],
        combination=None,
        guideline=SimpleNamespace(id="g", version="1"),
    )
    scores = ModelScores(vectors, found.joint.p_unsafe(vectors).astype(np.float32))
    limits = Thresholds(unsafe=found.unsafe, review=found.review, in_scope=found.in_scope)
    assessment = Assessment(manifest, SimpleNamespace(), None)
    verdicts = [judge(score, limits) for score in assessment._fast(assessment.alignment.align(vectors), scores)]
    own, _ = served(found, vectors, examples)
    assert (own == NOT_JUDGED).any()
    expected = np.select(
        [own == NOT_JUDGED, own >= found.unsafe, own >= found.review],
        [Verdict.OUT_OF_SCOPE, Verdict.UNSAFE, Verdict.REVIEW],
        Verdict.SAFE,
    )
    assert verdicts == expected.tolist()


def test_a_linear_head_with_large_logits_does_not_overflow() -> None:
    head = LinearHead(classes=["a", "b"], weights=[[900.0], [-900.0]], bias=[0.0, 0.0])
    found = head.probabilities(np.array([[1.0], [-1.0], [0.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0.5, 0.5]], atol=1e-12)
    assert found.dtype == np.float64


# Policies


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_recall_flags_at_least_the_share_of_the_unsafe_and_hardly_more(data: tuple, share: float) -> None:
    found = fit(*data, RULES, replace(OWN, policy="recall", flagged_unsafe=share))
    p, unsafe = served(found, data[0][Split.VALIDATION], data[1][Split.VALIDATION])
    assert share <= (p[unsafe] >= found.unsafe).mean() <= share + 0.03
    assert found.review <= found.unsafe


@pytest.mark.parametrize(
    ("scores", "share", "expected"),
    [
        ([0.9, 0.5, 0.2, 0.1], 0.5, 0.5),
        ([0.9, 0.5, 0.2, 0.1], 0.51, 0.2),  # two of four are too few
        ([0.9, 0.5, 0.2, 0.1], 1.0, 0.1),
        ([0.9, 0.5, 0.2, 0.1], 0.0, 0.9),
        ([0.999, 0.998], 0.5, 0.99),
        ([0.9, NOT_JUDGED, NOT_JUDGED], 0.9, 0.0),  # no threshold reaches those
        ([], 0.5, 0.5),
    ],
)
def test_least_recall_threshold(scores: list[float], share: float, expected: float) -> None:
    assert least_recall_threshold(np.array(scores), share) == pytest.approx(expected)


@pytest.fixture(scope="module")
def blurred() -> tuple[dict[Split, NDArray], dict[Split, list[Example]]]:
    """Classes that overlap, and enough of them."""
    parts = {Split.TRAIN: cloud(300, 1, spread=0.9), Split.VALIDATION: cloud(480, 2, spread=0.9)}
    return {p: v for p, (v, _) in parts.items()}, {p: e for p, (_, e) in parts.items()}


def test_the_conformal_band_holds_on_statements_that_had_no_part_in_it(blurred: tuple) -> None:
    own = replace(OWN, policy="conformal", alpha=0.1, beta=0.2)
    fitted = fit_and_explain(*blurred, RULES, own)
    found = fitted.classifier
    p, unsafe = served(found, *cloud(2000, 3, spread=0.9))
    assert (p[unsafe] < found.review).mean() < 0.15
    assert (p[~unsafe] >= found.unsafe).mean() < 0.25
    assert found.review < found.unsafe
    assert fitted.point.band.unsafe_families + fitted.point.band.safe_families < 300  # half gave the calibration


def test_each_policy_is_judged_on_families_it_has_not_seen(blurred: tuple) -> None:
    fitted = fit_and_explain(*blurred, RULES, OWN)
    for policy in POLICIES:
        rows = {r.outcome: r for r in held_out_errors(fitted.validation, replace(OWN, policy=policy))}
        assert rows["unsafe passed"].families == fitted.validation.unsafe.sum()
        assert all(row.holds for row in rows.values())
    assert rows["unsafe passed"].limit == OWN.alpha


def test_conformal_is_described_though_another_policy_is_in_use(blurred: tuple) -> None:
    found = describe_conformal(fit_and_explain(*blurred, RULES, OWN), OWN)
    assert found["in use"] is False
    assert set(found["held out"]) == {"shares", "conformal"}
    assert found["point"]["band"]["alpha"] == OWN.alpha


def test_too_few_families_for_a_band_say_so(data: tuple) -> None:
    few = ({**data[0]}, {**data[1]})
    few[0][Split.VALIDATION], few[1][Split.VALIDATION] = data[0][Split.VALIDATION][:20], data[1][Split.VALIDATION][:20]
    with pytest.raises(CorpusError, match="conformal band with alpha"):
        fit(*few, RULES, replace(OWN, policy="conformal"))
    fitted = fit_and_explain(*few, RULES, OWN)
    found = describe_conformal(fitted, OWN)
    assert found["point"] is None
    assert "families" in found["why not"]


@pytest.mark.parametrize("policy", POLICIES)
def test_thresholds_come_with_intervals(blurred: tuple, policy: str) -> None:
    own = replace(OWN, policy=policy)
    fitted = fit_and_explain(*blurred, RULES, own)
    found = describe_point(fitted, own)
    assert found["unsafe from"]["value"] == round(fitted.classifier.unsafe, 4)
    for name in ("unsafe from", "review from", "unsafe flagged", "safe flagged", "safe in review"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["unsafe flagged"]["low"] < found["unsafe flagged"]["high"]
    assert str(policy) == found["policy"]


@pytest.mark.parametrize("change", [{"head": "knn"}, {"head": "forest"}, {"policy": "guess"}])
def test_a_setting_that_there_is_not_is_named(data: tuple, change: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(change.values()))):
        fit(*data, RULES, replace(OWN, **change))


@pytest.mark.parametrize("part", [Split.TRAIN, Split.VALIDATION])
@pytest.mark.parametrize("label", [Label.SAFE, Label.UNSAFE])
def test_a_split_without_a_label_says_so(data: tuple, part: Split, label: Label) -> None:
    keep = [i for i, e in enumerate(data[1][part]) if e.label is not label]
    vectors = {**data[0], part: data[0][part][keep]}
    examples = {**data[1], part: [data[1][part][i] for i in keep]}
    with pytest.raises(CorpusError, match=f"the {part} split"):
        fit(vectors, examples, RULES, OWN)


# Thresholds as tables


@pytest.mark.parametrize(
    ("scores", "share", "least", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.05, 0.5, 0.5),  # nothing near it
        ([0.1, 0.4, 0.7], 0.0, 0.5, 0.7001),  # above the highest
        ([0.1, 0.4, 0.7], 0.3, 0.5, 0.7001),  # three tenths of three statements are none
        ([0.1, 0.4, 0.7], 0.34, 0.05, 0.4001),  # one may reach it, the second may not
        ([0.1, 0.4, 0.7], 0.34, 0.5, 0.5),
        ([0.1, 0.4, 0.7], 1.0, 0.5, 0.5),  # all may
        ([0.7, 0.7, 0.7, 0.2], 0.5, 0.05, 0.7001),  # two may, but three tie
        ([0.6, 0.6, 0.6], 0.5, 0.05, 0.6001),  # all equal
        ([0.61234567, 0.8], 0.5, 0.05, 0.6124),  # four decimals, rounded up
        ([1.0, 1.0, 0.1], 0.05, 0.5, 0.99),  # where the promise ends
        ([0.001, 0.002], 0.0, 0.05, 0.05),
        ([], 0.05, 0.5, 0.5),  # no safe statement: nothing to keep a promise on
    ],
)
def test_threshold(scores: list[float], share: float, least: float, expected: float) -> None:
    assert threshold(np.array(scores), share, least) == pytest.approx(expected, abs=1e-9)


def test_threshold_on_many_statements_is_reached_by_the_share_that_was_allowed() -> None:
    p = np.linspace(0.5, 0.95, 1001)
    assert (p >= threshold(p, 0.05, 0.5)).mean() == pytest.approx(0.05, abs=0.002)


def test_threshold_does_not_depend_on_the_order_and_leaves_the_scores_alone() -> None:
    p = np.array([0.7, 0.1, 0.9, 0.4])
    assert threshold(p, 0.25, 0.05) == threshold(p[::-1], 0.25, 0.05) == threshold(np.sort(p), 0.25, 0.05)
    assert p.tolist() == [0.7, 0.1, 0.9, 0.4]


TIED = st.sampled_from([0.2, 0.55, 0.6, 0.7, 0.8, 0.9])


@hypothesis_settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.one_of(st.lists(TIED, max_size=30), st.lists(st.floats(0, 1), max_size=30), st.lists(TIED, max_size=3)),
    st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    st.sampled_from([0.05, 0.5]),
)
def test_threshold_keeps_its_promise_and_is_the_least_that_does(
    scores: list[float], share: float, least: float
) -> None:
    p = np.array(scores)
    found = threshold(p, share, least)
    assert least <= found <= 0.99
    assert found == pytest.approx(round(found, 4), abs=1e-12)
    if found < 0.99:
        assert (p >= found).sum() <= share * len(p)
    if found > least:
        assert (p >= found - 1e-4 - 1e-9).sum() > share * len(p)


@hypothesis_settings(deadline=None, max_examples=200, derandomize=True)
@given(st.one_of(st.lists(TIED, max_size=20), st.lists(st.floats(0, 1), max_size=20)), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_share_never_raises_the_threshold(scores: list[float], share: float, more: float) -> None:
    p = np.array(scores)
    assert threshold(p, share + more, 0.05) <= threshold(p, share, 0.05)
    assert threshold(p, share + more, 0.05) <= threshold(p, share, 0.5)  # review <= unsafe


def test_threshold_lies_above_scores_of_four_decimals() -> None:
    scores = np.arange(9899) / 1e4
    assert [x for x in scores if threshold(np.full(10, x), 0.1, 0.0) <= x] == []


def test_threshold_counts_the_allowed_share_exactly() -> None:
    p = np.linspace(0.5, 0.9, 100)
    assert (p >= threshold(p, 0.29, 0.05)).sum() == 29


def test_review_gets_no_more_than_its_own_share(data: tuple) -> None:
    own = replace(OWN, flagged_safe=0.4, reviewed_safe=0.1)
    found = fit(*data, RULES, own)
    p, unsafe = served(found, data[0][Split.VALIDATION], data[1][Split.VALIDATION])
    p = p[~unsafe]
    assert ((p >= found.review) & (p < found.unsafe)).mean() <= own.reviewed_safe


# The artefact


def test_saved_and_loaded_it_is_the_same(tmp_path: Path, fitted: Classifier) -> None:
    folder = RunFolder(tmp_path)
    save(fitted, folder)
    back = load(folder)
    np.testing.assert_array_equal(back.joint.weights, fitted.joint.weights)
    np.testing.assert_array_equal(back.joint.bias, fitted.joint.bias)
    assert replace(back, joint=fitted.joint) == fitted
    assert (back.joint.slope, back.joint.intercept) == (fitted.joint.slope, fitted.joint.intercept)


def test_a_hidden_layer_and_a_table_are_kept(tmp_path: Path, fitted: Classifier) -> None:
    rng = np.random.default_rng(3)
    joint = JointHead(rng.normal(size=(6, 4)), rng.normal(size=6), hidden=Hidden(rng.normal(size=(4, DIM)), np.ones(4)))
    point = OperatingPoint(Calibration(0.7, -0.3, ((-1.0, -2.0), (1.0, 1.5))), 0.8, 0.4, 0.02)
    before = replace(fitted, joint=joint).at(point)
    save(before, RunFolder(tmp_path))
    after = load(RunFolder(tmp_path))
    vectors, _ = cloud(20, 5)
    assert (after.unsafe, after.review, after.in_scope) == (0.8, 0.4, 0.02)
    assert after.joint.calibration == point.calibration
    np.testing.assert_array_equal(after.joint.p_unsafe(vectors), before.joint.p_unsafe(vectors))


def test_a_classifier_of_another_version_says_so(tmp_path: Path, fitted: Classifier) -> None:
    folder = RunFolder(tmp_path)
    save(fitted, folder)
    file = folder.classifier / "classifier.json"
    content = json.loads(file.read_text())
    del content["knots"]
    file.write_text(json.dumps(content))
    with pytest.raises(StageMissing, match="another version"):
        load(folder)


def test_the_stage_writes_what_its_choices_rest_on(tmp_path: Path, tiny_bert: Path) -> None:
    own = Embedder(*load_pretrained(str(tiny_bert)), max_length=32, sub_batch=64)
    examples = {Split.TRAIN: cloud(150, 1)[1], Split.VALIDATION: cloud(150, 2)[1], Split.TEST_ID: cloud(100, 3)[1]}
    folder = RunFolder(tmp_path)
    with Progress(disable=True) as progress:
        summary = run(own, examples, RULES, folder, ClassifierSettings(), progress)
    names = {"classifier.json", "joint.npz", "comparison.json", "calibration.json", "operating_point.json"}
    assert {p.name for p in folder.classifier.iterdir()} == names | {"conformal.json"}
    comparison = json.loads((folder.classifier / "comparison.json").read_text())
    assert {c["name"] for c in comparison["candidates"]} == {"joint", "plain", "svm", "mlp", "knn"}
    assert summary["head"].startswith(f"{comparison['chosen']} by cross-validation")
    assert summary["unsafe from"] == load(folder).unsafe
    rows = measure_coverage(folder, own.embed([e.text for e in examples[Split.TEST_ID]]), examples[Split.TEST_ID])
    assert [r.outcome for r in rows] == ["unsafe passed", "safe flagged"]
    assert sum(r.families for r in rows) == len(in_scope(examples[Split.TEST_ID]))
    assert measure_coverage(folder, np.zeros((0, 32), dtype=np.float32), []) == []


def test_a_run_without_a_classifier_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageMissing, match="guardline train classifier"):
        load(RunFolder(tmp_path))


def test_masks_of_labels() -> None:
    rows = [example(0, "dose", Label.SAFE), example(1, None, Label.OUT_OF_SCOPE), example(2, "dose", Label.UNSAFE)]
    assert is_unsafe(rows).tolist() == [False, False, True]
    assert in_scope(rows) == [0, 2]
    assert is_unsafe([]).dtype == bool


def test_embed_splits_gives_each_split_its_rows(tiny_bert: Path) -> None:
    own = Embedder(*load_pretrained(str(tiny_bert)), max_length=32, sub_batch=8)
    examples = {Split.TRAIN: cloud(7, 1)[1], Split.VALIDATION: cloud(3, 1)[1], Split.TEST_ID: cloud(5, 1)[1]}
    with Progress(disable=True) as progress:
        found = embed_splits(own, examples, (Split.TRAIN, Split.VALIDATION), progress, "x")
        assert progress.tasks[0].completed == progress.tasks[0].total == 10
    assert {part: v.shape for part, v in found.items()} == {Split.TRAIN: (7, 32), Split.VALIDATION: (3, 32)}
    np.testing.assert_allclose(found[Split.TRAIN][:3], found[Split.VALIDATION], atol=1e-5)
