"""SupCon against the formula written out as loops, and its edges."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from trainer.model.losses import joint_cross_entropy, supervised_contrastive


def by_the_formula(z: torch.Tensor, classes: list[int], tau: float) -> float:
    total, anchors = 0.0, 0
    for i in range(len(classes)):
        positives = [p for p in range(len(classes)) if p != i and classes[p] == classes[i]]
        if not positives:
            continue
        anchors += 1
        below = sum(math.exp(float(z[i] @ z[a]) / tau) for a in range(len(classes)) if a != i)
        total += -sum(math.log(math.exp(float(z[i] @ z[p]) / tau) / below) for p in positives) / len(positives)
    return total / anchors


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
def test_equals_the_formula(seed: int, tau: float) -> None:
    z = unit(14, seed)
    classes = torch.randint(0, 4, (14,), generator=torch.Generator().manual_seed(100 + seed))
    loss = supervised_contrastive(z, classes, tau)
    assert loss.item() == pytest.approx(by_the_formula(z, classes.tolist(), tau), rel=1e-9)


def test_order_does_not_matter() -> None:
    z, classes = unit(20, 1), torch.arange(20) % 5
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    one, other = supervised_contrastive(z, classes, 0.1), supervised_contrastive(z[order], classes[order], 0.1)
    torch.testing.assert_close(one, other)


def test_names_of_classes_do_not_matter() -> None:
    z, classes = unit(12, 1), torch.arange(12) % 3
    torch.testing.assert_close(
        supervised_contrastive(z, classes, 0.1), supervised_contrastive(z, 40 - 7 * classes, 0.1)
    )


def test_anchors_without_a_positive_are_left_out_but_stay_negatives() -> None:
    z = unit(7, 3)
    classes = [0, 0, 1, 1, 2, 3, 4]
    loss = supervised_contrastive(z, torch.tensor(classes), 0.2)
    assert loss.item() == pytest.approx(by_the_formula(z, classes, 0.2), rel=1e-9)
    without = supervised_contrastive(z[:4], torch.tensor(classes[:4]), 0.2)
    assert loss.item() > without.item()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_positive_at_all_gives_zero_that_can_be_differentiated(n: int) -> None:
    z = unit(n, 4).requires_grad_()
    loss = supervised_contrastive(z, torch.arange(n), 0.1)
    assert loss.item() == 0
    loss.backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_the_gradient_is_finite_and_right() -> None:
    classes = torch.tensor([0, 0, 1, 1, 2])
    z = unit(5, 5).requires_grad_()
    supervised_contrastive(z, classes, 0.1).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    step = 1e-6
    moved = z.detach().clone()
    moved[0, 0] += step
    up = supervised_contrastive(moved, classes, 0.1)
    moved[0, 0] -= 2 * step
    down = supervised_contrastive(moved, classes, 0.1)
    assert z.grad[0, 0].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4, abs=1e-6)


def test_small_temperatures_do_not_overflow_in_fp32() -> None:
    z = unit(8, 6).float().requires_grad_()
    loss = supervised_contrastive(z, torch.arange(8) % 2, 0.001)
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_tight_classes_far_apart_cost_less_than_mixed_ones() -> None:
    z = F.normalize(torch.tensor([[1.0, 0.01], [1.0, 0.0], [-1.0, 0.01], [-1.0, 0.0]]), dim=1)
    apart = supervised_contrastive(z, torch.tensor([0, 0, 1, 1]), 0.1)
    mixed = supervised_contrastive(z, torch.tensor([0, 1, 0, 1]), 0.1)
    assert apart.item() < 0.01 < 1 < mixed.item()


def test_cross_entropy_of_equal_logits_is_log_of_classes() -> None:
    loss = joint_cross_entropy(torch.zeros(3, 8), torch.tensor([0, 5, 7]))
    assert loss.item() == pytest.approx(math.log(8))
