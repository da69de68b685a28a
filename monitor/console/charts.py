"""Where the marks of a chart go, in units of its SVG's view box; templates draw them, the style sheet colours them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from monitor.console.trends import Daily

WIDTH, HEIGHT = 1160, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 20, 10, 24
_MOST_LABELS = 15


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle; `series` numbers its colour, `title` is what a pointer or a screen reader is told."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label and where it belongs on its axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A bar chart."""

    bars: list[Bar]
    x: list[Tick]
    y: list[Tick]
    series: list[str]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    base: int = HEIGHT - _BOTTOM
    top: int = _TOP


def _scale(most: int) -> list[int]:
    """Return round values from 0 to at least `most`, four or five of them."""
    if most <= 4:
        return list(range(max(most, 1) + 1))
    rough = most / 4
    unit = 10 ** floor(log10(rough))
    step = next(int(unit * m) for m in (1, 2, 2.5, 5, 10) if unit * m >= rough and float(unit * m).is_integer())
    return [step * i for i in range(ceil(most / step) + 1)]


def stacked(figures: Daily) -> Chart:
    """Return a chart of a bar for each day, the series on top of each other."""
    scale = _scale(max(figures.totals, default=0))
    base, height = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    pitch = (WIDTH - _LEFT - _RIGHT) / len(figures.days)
    width = min(pitch * 0.78, 36.0)
    bars = []
    for i, day in enumerate(figures.days):
        x, y = _LEFT + i * pitch + (pitch - width) / 2, float(base)
        for number, (name, counts) in enumerate(figures.counts.items()):
            if counts[i]:
                tall = counts[i] / scale[-1] * height
                y -= tall
                bars.append(
                    Bar(
                        round(x, 2),
                        round(y, 2),
                        round(width, 2),
                        round(tall, 2),
                        number,
                        f"{day:%d %b}, {name}: {counts[i]}",
                    )
                )
    every = ceil(len(figures.days) / _MOST_LABELS)
    last = len(figures.days) - 1
    return Chart(
        bars,
        [
            Tick(round(_LEFT + (i + 0.5) * pitch, 2), f"{day:%d %b}")
            for i, day in enumerate(figures.days)
            if (last - i) % every == 0
        ],
        [Tick(round(base - value / scale[-1] * height, 2), str(value)) for value in scale],
        list(figures.counts),
    )


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores by how many have them; `threshold` and `current` are places on the axis."""

    chart: Chart
    threshold: float
    current: float


def histogram(bins: Sequence[int], *, lowest: float, threshold: float, current: float) -> Histogram:
    """Return a histogram of scores from `lowest` to 1; bars at or above `threshold` are of series 0, others of 1."""
    scale = _scale(max(bins, default=0))
    height = HEIGHT - _BOTTOM - _TOP
    across = WIDTH - _LEFT - _RIGHT
    span = max(1 - lowest, 1e-9)

    def place(score: float) -> float:
        return round(_LEFT + (min(max(score, lowest), 1.0) - lowest) / span * across, 2)

    pitch = across / len(bins)
    bars = []
    for i, count in enumerate(bins):
        low, high = (lowest + j / len(bins) * span for j in (i, i + 1))
        tall = count / scale[-1] * height
        if count:
            flagged = (low + high) / 2 >= threshold
            title = f"{low:.2f} to {high:.2f}: {count}"
            bars.append(
                Bar(
                    round(_LEFT + i * pitch + 0.5, 2),
                    round(HEIGHT - _BOTTOM - tall, 2),
                    round(pitch - 1, 2),
                    round(tall, 2),
                    0 if flagged else 1,
                    title,
                )
            )
    chart = Chart(
        bars,
        [Tick(place(lowest + i / 5 * span), f"{lowest + i / 5 * span:.2f}") for i in range(6)],
        [Tick(round(HEIGHT - _BOTTOM - value / scale[-1] * height, 2), str(value)) for value in scale],
        ["flagged", "not flagged"],
    )
    return Histogram(chart, place(threshold), place(current))
