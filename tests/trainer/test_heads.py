"""Heads: the same margins in scikit-learn, numpy, torch and ONNX; a comparison that holds whole families out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from trainer.model.calibration import Calibration, CalibrationModule
from trainer.model.heads import (
    CANDIDATES,
    EXPORTABLE,
    CandidateScore,
    HeadModule,
    Hidden,
    JointHead,
    Rows,
    choose,
    compare,
    held_out_folds,
)
from trainer.settings import ClassifierSettings
from trainer.types import Example, Label

DIM, RULES = 8, ["dose", "days"]
OWN = ClassifierSettings()


def crossed(n: int, seed: int) -> tuple[NDArray, list[Example]]:
    """Two rules, apart in the first dimension; unsafe is up in the second for one of them and down for the other.

    Families are of two statements, both of a label of its own.
    """
    rng = np.random.default_rng(seed)
    rule, unsafe = rng.integers(0, 2, n), rng.integers(0, 2, n)
    vectors = 0.4 * rng.normal(size=(n, DIM))
    vectors[:, 0] += 2 * rule - 1
    vectors[:, 1] += (2 * unsafe - 1) * (2 * rule - 1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = [Label.UNSAFE if u else Label.SAFE for u in unsafe]
    examples = [
        Example(f"e-{i}", f"text {i}", label, RULES[r], "dose", None, f"f-{i // 2}", "a")
        for i, (label, r) in enumerate(zip(labels, rule, strict=True))
    ]
    return vectors.astype(np.float32), examples


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows.of(*crossed(300, 1), RULES)


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> dict[str, object]:
    return {name: fit(rows, OWN) for name, fit in CANDIDATES.items()}


# What each can do


@pytest.mark.parametrize(("name", "least"), [("joint", 0.95), ("mlp", 0.95), ("knn", 0.9)])
def test_a_rule_of_its_own_for_each_recommendation_is_learned(fitted: dict, name: str, least: float) -> None:
    vectors, examples = crossed(300, 2)
    assert roc_auc_score([e.label is Label.UNSAFE for e in examples], fitted[name].margin(vectors)) > least


@pytest.mark.parametrize("name", ["plain", "svm"])
def test_one_hyperplane_cannot(fitted: dict, name: str) -> None:
    vectors, examples = crossed(300, 2)
    assert roc_auc_score([e.label is Label.UNSAFE for e in examples], fitted[name].margin(vectors)) < 0.7


# One formula for all that is exported


def test_the_plain_margin_is_scikit_learns(rows: Rows, fitted: dict) -> None:
    model = LogisticRegression(C=OWN.joint_c, max_iter=500).fit(rows.embeddings, rows.unsafe)
    vectors, _ = crossed(50, 3)
    np.testing.assert_allclose(fitted["plain"].margin(vectors), model.decision_function(vectors), atol=1e-5)


def test_a_margin_with_a_hidden_layer_by_hand() -> None:
    head = JointHead(
        np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.5, 0.0]), hidden=Hidden(np.array([[1.0], [-1.0]]), np.zeros(2))
    )
    # relu gives (x, 0) for x > 0 and (0, -x) else; unsafe minus safe is 2 h1 - h0 - 1/2
    np.testing.assert_allclose(head.margin(np.array([[2.0], [-3.0]], dtype=np.float32)), [-2.5, 5.5])


def test_neighbours_give_log_odds_of_their_share() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 1]]
    own = Rows(vectors, np.array([1, 1, 1, 0, 0]), 1)
    head = CANDIDATES["knn"](own, OWN)
    assert head.margin(np.eye(4, dtype=np.float32)[:1]) == pytest.approx(logit(0.75), abs=1e-6)


@pytest.mark.parametrize("name", list(EXPORTABLE))
def test_the_module_gives_the_same_margins(fitted: dict, name: str) -> None:
    vectors, _ = crossed(40, 4)
    with torch.inference_mode():
        found = HeadModule(fitted[name])(torch.from_numpy(vectors))
    np.testing.assert_allclose(found.numpy(), fitted[name].margin(vectors), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own use of torch
@pytest.mark.parametrize(("name", "knots"), [("joint", ()), ("mlp", ((-2.0, -3.0), (0.0, 0.2), (1.5, 4.0)))])
def test_the_graph_gives_the_same_probabilities(fitted: dict, tmp_path: Path, name: str, knots: tuple) -> None:
    head = replace(fitted[name], slope=0.8, intercept=-0.1, knots=knots)
    module = torch.nn.Sequential(HeadModule(head), CalibrationModule(head.calibration)).eval()
    vectors, _ = crossed(40, 4)
    program = torch.onnx.export(
        module,
        (torch.from_numpy(vectors),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    program.save(str(tmp_path / "head.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"), providers=["CPUExecutionProvider"])
    for part in (vectors, vectors[:1]):
        (p,) = session.run(None, {session.get_inputs()[0].name: part})
        np.testing.assert_allclose(p, head.p_unsafe(part), atol=1e-5)


def test_calibration_of_a_head_is_its_own() -> None:
    head = JointHead(np.zeros((2, 1)), np.zeros(2), 0.5, 1.0, ((0.0, 1.0),))
    assert head.calibration == Calibration(0.5, 1.0, ((0.0, 1.0),))


# The comparison


@pytest.fixture(scope="module")
def scores() -> list[CandidateScore]:
    return compare(*crossed(200, 5), RULES, OWN)


def test_all_are_compared_and_the_best_that_can_be_exported_is_chosen(scores: list[CandidateScore]) -> None:
    assert {s.name for s in scores} == set(CANDIDATES)
    assert [s.auc for s in scores] == sorted((s.auc for s in scores), reverse=True)
    assert {s.name for s in scores if not s.exportable} == {"knn"}
    assert choose(scores) == "joint"
    assert {s.folds for s in scores} == {OWN.folds}


def test_the_comparison_is_the_same_each_time(scores: list[CandidateScore]) -> None:
    again = compare(*crossed(200, 5), RULES, OWN)
    assert [replace(s, seconds=0) for s in again] == [replace(s, seconds=0) for s in scores]


def test_families_are_held_out_whole() -> None:
    """Twins with one embedding and a label by chance: who meets a twin in training knows all, who does not, nothing."""
    rng = np.random.default_rng(6)
    family = np.repeat(np.arange(100), 2)
    vectors = rng.normal(size=(100, DIM))[family].astype(np.float32)
    unsafe = rng.integers(0, 2, 100)[family]
    examples = [
        Example(f"e-{i}", f"text {i}", Label.UNSAFE if u else Label.SAFE, "dose", "dose", None, f"f-{f}", "a")
        for i, (u, f) in enumerate(zip(unsafe, family, strict=True))
    ]
    by_name = {s.name: s for s in compare(vectors, examples, RULES, OWN)}
    assert by_name["knn"].auc < 0.7


def test_families_that_share_a_text_are_held_out_together() -> None:
    vectors, examples = crossed(4, 1)
    labels = (Label.SAFE, Label.UNSAFE, Label.SAFE, Label.UNSAFE)
    apart = [replace(e, label=label) for e, label in zip(examples, labels, strict=True)]
    assert len(compare(vectors, apart, RULES, OWN)) == len(CANDIDATES)
    joined = [*apart[:3], replace(apart[3], text=apart[0].text)]
    assert compare(vectors, joined, RULES, OWN) == []  # one group is left: nothing to hold out


def test_out_of_scope_statements_are_left_out(scores: list[CandidateScore]) -> None:
    vectors, examples = crossed(200, 5)
    outside = [Example(f"o-{i}", f"outside {i}", Label.OUT_OF_SCOPE, None, None, None, f"o-{i}", "a") for i in range(9)]
    more = np.vstack([vectors, np.ones((9, DIM), dtype=np.float32)])
    again = compare(more, [*examples, *outside], RULES, OWN)
    assert [replace(s, seconds=0) for s in again] == [replace(s, seconds=0) for s in scores]


@hypothesis_settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=60))
def test_folds_never_split_a_group_and_have_both_labels(rows: list[tuple[int, bool]]) -> None:
    groups, unsafe = [str(g) for g, _ in rows], np.array([u for _, u in rows])
    for rest, part in held_out_folds(unsafe, groups, 5, 0):
        assert not {groups[i] for i in rest} & {groups[i] for i in part}
        assert sorted([*rest, *part]) == list(range(len(rows)))
        assert 0 < unsafe[rest].sum() < len(rest)
        assert 0 < unsafe[part].sum() < len(part)


def score(name: str, auc: float, std: float = 0.02) -> CandidateScore:
    return CandidateScore(name, auc, std, 0.5, 4, 1.0, name in EXPORTABLE)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([score("joint", 0.9), score("mlp", 0.95)], "mlp"),
        ([score("joint", 0.9), score("mlp", 0.905)], "joint"),  # within a standard error, 0.01
        ([score("joint", 0.8), score("knn", 0.99), score("svm", 0.9)], "svm"),  # the graph cannot hold neighbours
        ([score("joint", 0.8), score("plain", 0.95), score("mlp", 0.951)], "plain"),
        ([], "joint"),
        ([score("knn", 0.9)], "joint"),
    ],
)
def test_choose(scores: list[CandidateScore], expected: str) -> None:
    assert choose(scores) == expected
