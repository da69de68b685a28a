"""Calibration: a head's margin -> the probability that the statement is unsafe.

Platt's line first (Platt 1999), slope x margin + intercept in the log-odds. Where the validation split is large enough
and whole held-out families say that it pays, a monotone table bends the line: centred isotonic regression (Oron and
Flournoy 2017), so each block that pool-adjacent-violators finds is one knot at its mean, joined by straight pieces in
the log-odds, and unit slope beyond the ends. Plain isotonic regression would tie all scores of a block, and a threshold
could not pass between them. Both are strictly increasing for a positive slope, are evaluated in the ONNX graph by
`CalibrationModule`, and stand in the manifest for the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Knots = tuple[tuple[float, float], ...]

#: A table this fine follows any curve that a validation split can show.
MAX_KNOTS = 64
#: Least statements of a bin.
_BIN = 25
#: Least distance of two knots, in log-odds: fp32 sums in the graph differ in the sixth digit, and a steeper piece would
#: multiply that beyond what the parity gate of the export allows.
_LEAST_GAP = 0.05


@dataclass(frozen=True)
class Calibration:
    """Margin -> log-odds: Platt's line, then the table `knots` of (log-odds before, after), if any."""

    slope: float = 1.0
    intercept: float = 0.0
    knots: Knots = ()

    @property
    def method(self) -> str:
        """The name that the manifest states."""
        return "isotonic" if self.knots else "platt"

    def log_odds(self, margins: Doubles) -> Doubles:
        """Return calibrated log-odds of unsafe, fp64 [n]."""
        line = self.slope * margins + self.intercept
        if not self.knots:
            return line
        before, after = np.array(self.knots).T
        beyond = np.minimum(line - before[0], 0) + np.maximum(line - before[-1], 0)
        return np.asarray(np.interp(line, before, after) + beyond)

    def probabilities(self, margins: Doubles) -> Doubles:
        """Return calibrated probabilities of unsafe, fp64 [n]."""
        return np.asarray(expit(self.log_odds(margins)))


class CalibrationModule(nn.Module):
    """The same in torch, for the graph: the table is a sum of ramps, one clamp and one product."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.slope, self.intercept = calibration.slope, calibration.intercept
        self.first = self.last = self.lowest = 0.0
        self.bent = bool(calibration.knots)
        self.start: Tensor
        self.width: Tensor
        self.rise: Tensor
        if self.bent:
            before, after = torch.tensor(calibration.knots, dtype=torch.float64).T
            self.first, self.last, self.lowest = float(before[0]), float(before[-1]), float(after[0])
            for name, values in (("start", before[:-1]), ("width", before.diff()), ("rise", after.diff())):
                self.register_buffer(name, values.float())

    def forward(self, margins: Tensor) -> Tensor:
        """Return probabilities, fp32 [n], for margins, fp32 [n]."""
        line = self.slope * margins + self.intercept
        if not self.bent:
            return torch.sigmoid(line)
        ramps = ((line.unsqueeze(1) - self.start) / self.width).clamp(0, 1)
        beyond = (line - self.first).clamp(max=0) + (line - self.last).clamp(min=0)
        return torch.sigmoid(self.lowest + (ramps * self.rise).sum(dim=1) + beyond)


@dataclass(frozen=True)
class CalibrationReport:
    """How the calibration was chosen; by method, figures of families that its fit had not seen. `raw`: none at all."""

    method: str
    reason: str
    statements: int
    log_loss: dict[str, float]
    brier: dict[str, float]
    expected_calibration_error: dict[str, float]


def calibrate(margins: Doubles, unsafe: Bools) -> tuple[float, float]:
    """Return slope and intercept of Platt scaling: p = sigmoid(slope * margin + intercept)."""
    n_unsafe, n_safe = int(unsafe.sum()), int((~unsafe).sum())
    # Platt's targets: short of 0 and 1, so that the slope stays finite where the classes are apart.
    target = np.where(unsafe, (n_unsafe + 1) / (n_unsafe + 2), 1 / (n_safe + 2))
    # A row counts for both labels, with the share of each.
    model = LogisticRegression(C=1e6).fit(
        np.concatenate([margins, margins])[:, None],
        np.repeat([True, False], len(margins)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def platt(margins: Doubles, unsafe: Bools) -> Calibration:
    """Fit Platt's line."""
    return Calibration(*calibrate(margins, unsafe))


def isotonic(margins: Doubles, unsafe: Bools) -> Calibration:
    """Fit Platt's line and the table over it; at most `MAX_KNOTS` knots.

    Frequencies are taken in bins of equal size, with one statement of each label added: a lone statement at either end
    would otherwise be a block of its own whose log-odds are as far out as the sample is large.
    """
    line = platt(margins, unsafe)
    before = line.log_odds(margins)
    bins = np.array_split(np.argsort(before, kind="stable"), max(min(len(margins) // _BIN, MAX_KNOTS), 1))
    sizes = np.array([len(rows) for rows in bins], dtype=np.float64)
    centres = np.array([before[rows].mean() for rows in bins])
    shares = np.array([(unsafe[rows].sum() + 1) / (len(rows) + 2) for rows in bins])
    fitted = IsotonicRegression().fit_transform(np.arange(len(bins)), shares, sample_weight=sizes)
    values, block = np.unique(fitted.round(12), return_inverse=True)  # sums of equal blocks differ in the last digits
    middles = np.bincount(block, centres * sizes) / np.bincount(block, sizes)
    knots: list[tuple[float, float]] = []
    for middle, value in zip(middles.tolist(), logit(values).tolist(), strict=True):
        if not knots or middle - knots[-1][0] >= _LEAST_GAP:
            knots.append((middle, value))
    return Calibration(line.slope, line.intercept, tuple(knots))


def expected_calibration_error(p: Doubles, unsafe: Bools, bins: int = 15) -> float:
    """Return the mean distance of probability and frequency over bins of equal size (Naeini et al. 2015)."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(i) * abs(p[i].mean() - unsafe[i].mean()) for i in parts) / max(len(p), 1))


def log_loss(p: Doubles, unsafe: Bools) -> float:
    """Return the mean negative log-likelihood in nats."""
    return float(-np.log(np.clip(np.where(unsafe, p, 1 - p), 1e-12, 1)).mean())


def brier(p: Doubles, unsafe: Bools) -> float:
    """Return the mean squared error of the probabilities (Brier 1950)."""
    return float(np.mean((p - unsafe) ** 2))


def choose_calibration(
    margins: Doubles, unsafe: Bools, folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], *, isotonic_from: int
) -> tuple[Calibration, CalibrationReport]:
    """Fit the calibration that has the lower log loss on held-out families, and say how the choice fell.

    Isotonic must be ahead by more than a standard error over the folds, (rest, part) indices; with fewer than
    `isotonic_from` statements it is not tried (Niculescu-Mizil and Caruana 2005: it then follows the noise).
    """
    fits: dict[str, Callable[[Doubles, Bools], Calibration]] = {"platt": platt}
    if len(margins) >= isotonic_from and len(folds) > 1:
        fits["isotonic"] = isotonic
    held_out = {"raw": np.asarray(expit(margins))} | {name: np.zeros(len(margins)) for name in fits}
    for rest, part in folds:
        for name, fit in fits.items():
            held_out[name][part] = fit(margins[rest], unsafe[rest]).probabilities(margins[part])
    method, reason = "platt", f"isotonic is tried from {isotonic_from} statements and two folds"
    if "isotonic" in fits:
        gains = [
            log_loss(held_out["platt"][part], unsafe[part]) - log_loss(held_out["isotonic"][part], unsafe[part])
            for _, part in folds
        ]
        gain, error = float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
        method = "isotonic" if gain > error else "platt"
        reason = f"isotonic changes the log loss of held-out families by {-gain:+.4f}, standard error {error:.4f}"
    seen = np.concatenate([part for _, part in folds]) if folds else np.zeros(0, dtype=np.int64)

    def figures(metric: Callable[[Doubles, Bools], float]) -> dict[str, float]:
        return {name: round(metric(p[seen], unsafe[seen]), 4) for name, p in held_out.items() if len(seen)}

    report = CalibrationReport(
        method=method,
        reason=reason,
        statements=len(margins),
        log_loss=figures(log_loss),
        brier=figures(brier),
        expected_calibration_error=figures(expected_calibration_error),
    )
    return fits[method](margins, unsafe), report
