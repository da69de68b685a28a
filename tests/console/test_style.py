"""The style sheet: contrast of text (WCAG 2.2, 1.4.3: 4.5:1) and of marks that carry meaning (1.4.11: 3:1)."""

from __future__ import annotations

import re

import pytest

from monitor.console.pages import STATIC, TEMPLATES

_COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(
        r"--([\w-]+): light-dark\(#(\w+), #(\w+)\)", (STATIC / "console.css").read_text()
    )
}
_TEXT = [
    *((ink, ground) for ink in ("text", "muted") for ground in ("ground", "surface", "sunken")),
    *(("accent", ground) for ground in ("ground", "surface", "sunken")),
    ("on-accent", "accent"),
    *((kind, f"{kind}-ground") for kind in ("bad", "warn", "good")),
    *((kind, ground) for kind in ("warn", "good") for ground in ("surface", "sunken")),
    ("text", "mark"),
]
_MARKS = [("strong-line", "surface"), ("bad", "surface"), *((f"s{n}", "surface") for n in range(7))]


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as WCAG defines it."""
    full = colour if len(colour) == 6 else "".join(2 * c for c in colour)
    channels = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_the_extremes() -> None:
    assert contrast("fff", "000000") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_can_be_told_from_their_ground(theme: int) -> None:
    found = {
        (ink, ground): round(contrast(_COLOURS[ink][theme], _COLOURS[ground][theme]), 2)
        for ink, ground in [*_TEXT, *_MARKS]
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < (3 if pair in _MARKS else 4.5)} == {}


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for path in TEMPLATES.glob("*.html"):
        template = path.read_text()
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=\"/static/)|javascript:", template), path.name
        assert "//" not in re.sub(r"\{#.*?#\}", "", template), path.name
