"""Are fewer messages flagged than before? An exact test, with a stated rate of false alarms.

Messages are cut into windows, each long enough for `EXPECTED` flagged ones at the rate of the trailing windows: so a
window without any is never chance, whatever that rate is. At the end of a window its flagged messages are compared with
those of the trailing windows. If both come at one rate then, given their sum, those of the window are binomial with the
window's share of all messages (J. Przyborowski and H. Wilenski, "Homogeneity of results in testing samples from
Poisson series", Biometrika 31, 1940); the alarm goes off where so few have a probability below `ALPHA`.

False alarms: at most one in 1 / `ALPHA` = 100,000 windows, as long as messages are flagged independently and at one
rate. They are not quite (a day has hours, storms repeat one answer), so messages are counted and not flags, and a
storm's end may raise it. Found in one window, once there are fifty: a fall to a twentieth with a probability of 0.98,
to a tenth with 0.86; after the first window, none at all. Windows that raised the alarm are trailing windows too: a
lasting change becomes the rule after some fifty windows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import exp, lgamma, log, log1p

from pydantic import BaseModel, ConfigDict, Field

#: Flagged messages that a window should have.
EXPECTED = 20
#: Windows whose rate is the reference.
TRAILING = 50
#: Probability below which a window has too few.
ALPHA = 1e-5


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) of a binomial variable, summed exactly in logarithms; 0 < p < 1."""
    if k >= n:
        return 1.0
    terms = (
        exp(lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log1p(-p)) for i in range(k + 1)
    )
    return min(sum(terms), 1.0)


@dataclass(frozen=True, slots=True)
class Span:
    """Some messages, and how many of them were flagged."""

    messages: int
    flagged: int

    def __add__(self, other: Span) -> Span:
        return Span(self.messages + other.messages, self.flagged + other.flagged)

    @property
    def rate(self) -> float:
        """Flagged messages per message."""
        return self.flagged / self.messages if self.messages else 0.0


def probability_of_so_few(window: Span, reference: Span) -> float:
    """Return the probability of no more flagged messages in `window`, if both come at one rate; 1 without messages."""
    if not window.messages or not reference.messages:
        return 1.0
    share = window.messages / (window.messages + reference.messages)
    return binomial_cdf(window.flagged, window.flagged + reference.flagged, share)


class FlagRateState(BaseModel):
    """What a restart should not forget."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    windows: list[tuple[int, int]] = Field(default=[], max_length=TRAILING)
    current: tuple[int, int] = (0, 0)


class FlagRate:
    """Cuts a stream of counts into windows, and tests each against those before it."""

    def __init__(self, state: FlagRateState | None = None) -> None:
        state = state or FlagRateState()
        self._windows = deque((Span(*window) for window in state.windows), maxlen=TRAILING)
        self._current = Span(*state.current)
        #: Of the last window; 1 before there was one.
        self.probability = 1.0

    @property
    def state(self) -> FlagRateState:
        """What to go on with after a restart."""
        windows = [(window.messages, window.flagged) for window in self._windows]
        return FlagRateState(windows=windows, current=(self._current.messages, self._current.flagged))

    @property
    def reference(self) -> Span:
        """The trailing windows together."""
        return sum(self._windows, Span(0, 0))

    @property
    def too_few(self) -> bool:
        """Whether the last window had fewer flagged messages than chance explains."""
        return self.probability < ALPHA

    def add(self, messages: int, flagged: int) -> None:
        """Count messages that were done with, and how many were flagged."""
        self._current += Span(messages, flagged)
        reference = self.reference
        if not reference.flagged:
            # The first window ends by its flags, there being no rate to say how long it should be.
            if self._current.flagged >= EXPECTED:
                self._close()
        elif self._current.messages * reference.rate >= EXPECTED:
            self.probability = probability_of_so_few(self._current, reference)
            self._close()

    def _close(self) -> None:
        self._windows.append(self._current)
        self._current = Span(0, 0)
