"""The step of the heads: towards decisions, and no further than they ask for."""

import numpy as np
from scipy.special import softmax

from monitor.package import OUT_OF_SCOPE, LinearHead
from trainer.model.classifier import Classifier
from trainer.model.heads import JointHead
from trainer.retraining import heads
from trainer.types import Example, Label

WIDTH, RULES = 8, ["r0", "r1", "r2"]


def unit(n: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def classifier(joint: JointHead | None = None) -> Classifier:
    rng = np.random.default_rng(2)
    classes = [*RULES, OUT_OF_SCOPE]
    return Classifier(
        joint or JointHead(4 * rng.normal(size=(6, WIDTH)), np.zeros(6)),
        LinearHead(classes=classes, weights=(4 * rng.normal(size=(4, WIDTH))).tolist(), bias=[0.0] * 4),
        LinearHead(classes=["dose"], weights=[[0.0] * WIDTH], bias=[0.0]),
        0.7,
        0.5,
        0.3,
    )


def example(label: Label, recommendation: str | None) -> Example:
    return Example("d", "text", label, recommendation, "dose", None, "d", "review")


def test_nothing_to_learn_leaves_the_weights_as_they_are() -> None:
    weights, bias = np.ones((4, WIDTH)), np.zeros(4)
    after = heads.step(weights, bias, np.zeros((0, WIDTH), dtype=np.float32), np.zeros(0, dtype=np.int64), 1.0)
    assert (after[0] == weights).all()


def test_the_step_ends_where_loss_and_attraction_balance() -> None:
    rng = np.random.default_rng(1)
    weights, bias, x = rng.normal(size=(4, WIDTH)), rng.normal(size=4), unit(20)
    y = rng.integers(0, 4, 20)
    after, after_bias = heads.step(weights, bias, x, y, 0.7)
    p = softmax(x @ after.T + after_bias, axis=1)
    p[np.arange(20), y] -= 1
    assert np.abs(p.T @ x + 0.7 * (after - weights)).max() < 1e-3
    assert np.abs(p.sum(axis=0) + 0.7 * (after_bias - bias)).max() < 1e-3


def test_a_rejected_statement_looks_safe_afterwards_and_its_recommendation_stays() -> None:
    champion, x = classifier(), unit(1)
    margin = champion.joint.margin(x)[0]
    wanted = Label.SAFE if margin > 0 else Label.UNSAFE
    decided = [example(wanted, "r1")] * 16
    after = heads.update(champion, np.repeat(x, 16, axis=0), decided, RULES, 0.5)
    assert after is not None
    assert np.sign(after.joint.margin(x)[0]) == -np.sign(margin)
    assert after.alignment.classes[int(after.alignment.probabilities(x).argmax())] == "r1"
    # What is at right angles to it, the bias apart, keeps its score.
    other = unit(1, seed=9)
    other -= (other @ x.T) * x
    moved = (after.joint.weights - champion.joint.weights) @ other[0]
    assert np.abs(moved).max() < 1e-6


def test_a_strong_attraction_moves_nothing() -> None:
    champion, x = classifier(), unit(1)
    after = heads.update(champion, x, [example(Label.SAFE, "r0")], RULES, 1e6)
    assert after is not None
    assert np.allclose(after.joint.weights, champion.joint.weights, atol=1e-4)


def test_heads_of_another_kind_are_left_to_be_fitted_anew() -> None:
    plain = classifier(JointHead(np.zeros((2, WIDTH)), np.zeros(2)))
    assert heads.update(plain, unit(1), [example(Label.SAFE, "r0")], RULES, 1.0) is None
