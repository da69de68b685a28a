"""Normalise text: what training, evaluation and serving all show to the model.

A statement arrives as it was typed and leaves as the plain characters that a reader sees: compatibility forms folded
(NFKC, Unicode Standard Annex 15) where that joins no two numbers, invisible and control characters gone, Markdown
emphasis gone, white space single, and what hides words from a program undone (`monitor.disguise`).
Offsets are never computed on normalised text, so nothing here needs to keep lengths, except `well_formed`.
"""

from __future__ import annotations

import re
import unicodedata

from monitor import disguise

_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Runs go whole ("_**_"), so that what is left around them never makes a new one.
_EMPHASIS = re.compile(r"[*_`]{2,}|`|(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])")
# NFKC would make one number of these and the digits beside them: ten to the power of nine is not 109, nor one and
# a half 11/2. Beside letters it gives what is usually typed: m2, SpO2. Emphasis, which goes later, may stand between.
_RAISED = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079"
_LOWERED = "\u2080-\u2089"
_WHOLE = f"\u00bc-\u00be\u2150-\u215f\u2189\u2460-\u249b\u24ea{disguise.ENCLOSED}"  # fractions, enclosed numbers
_NUMERAL = re.compile(f"[{_RAISED}{_LOWERED}{_WHOLE}]")
_POWER = re.compile(rf"\d[*_`]*(?=[\u207a\u207b]?[{_RAISED}])")
_TWO_NUMBERS = re.compile(
    rf"\d[*_`]*(?=[{_LOWERED}{_WHOLE}])|[{_RAISED}][*_`]*(?=[\d{_LOWERED}{_WHOLE}])"
    rf"|[{_LOWERED}][*_`]*(?=[\d{_RAISED}{_WHOLE}])|[{_WHOLE}][*_`]*(?=[\d{_RAISED}{_LOWERED}{_WHOLE}])"
)
_WHITE = re.compile(r"\s+")
_NOT_PLAIN = re.compile(r"[^\x20-\x7e\u00a0-\u00ac\u00ae-\u02ff\u2010-\u2027\u2030-\u205e\u2200-\u22ff]")
# Dashes, quotes and fraction bars have many code points and one meaning; the encoder's vocabulary has the ASCII ones.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        "\u2044": "/",
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    }
)
# Disguises that may lie in each other, a spaced word in a reference in a reference. No one's text comes near.
_LAYERS = 8


def well_formed(text: str) -> str:
    """Replace lone surrogates, which no encoder of UTF-8 accepts, by U+FFFD; every offset stays valid."""
    return _SURROGATES.sub("\ufffd", text)


def _visible(match: re.Match[str]) -> str:
    char = match[0]
    category = unicodedata.category(char)
    if category == "Cf":  # zero-width, soft hyphen, bidirectional controls, tags
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else char


def _plain_characters(text: str) -> str:
    """Return a text that is not all ASCII with each character as a reader sees it."""
    text = disguise.grouped_numbers(disguise.shown_direction(text))
    # Invisible ones first: letters that they kept apart from their accents compose, digits meet their powers.
    text = _NOT_PLAIN.sub(_visible, text)
    if _NUMERAL.search(text):
        text = _TWO_NUMBERS.sub(r"\g<0> ", _POWER.sub(r"\g<0>^", text))
    text = text.replace("\u00b4", "'")  # to NFKC it is a space with an accent, to people who type it an apostrophe
    text = unicodedata.normalize("NFKC", disguise.plain_characters(unicodedata.normalize("NFKC", text)))
    return disguise.decimal_points(disguise.without_lookalikes(disguise.without_stray_marks(text)))


def _without_emphasis(text: str) -> str:
    return _EMPHASIS.sub("", text) if "*" in text or "_" in text or "`" in text else text


def normalise(text: str) -> str:
    """Return the text as the model reads it.

    Idempotent, except where more than eight disguises lie in each other; linear in the length.
    """
    text = well_formed(text)
    for _ in range(_LAYERS):
        if not text.isascii():
            text = _plain_characters(text)
        elif not text.isprintable():
            text = _NOT_PLAIN.sub(_visible, text)
        rendered = disguise.without_markup(text)
        if rendered != text:
            text = rendered  # which may hold any character
            continue
        spread = _without_emphasis(text.translate(_PLAIN))
        joined = disguise.joined_letters(spread)  # before the wide gaps between spaced words go
        plain = unicodedata.normalize("NFKC", _WHITE.sub(" ", joined)).strip()
        text = disguise.cut_numbers(disguise.joined_letters(plain))
        text = disguise.unstretched_words(disguise.letters_for_digits(text))
        if text == plain and joined == spread:
            break
    return _WHITE.sub(" ", text).strip()
