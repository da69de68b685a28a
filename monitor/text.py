"""Normalise text: what training, evaluation and serving all show to the model.

A statement arrives as it was typed and leaves as the plain characters that a reader sees: compatibility forms folded
(NFKC, Unicode Standard Annex 15) where that joins no two numbers, invisible and control characters gone, Markdown
emphasis gone, white space single.
Offsets are never computed on normalised text, so nothing here needs to keep lengths, except `well_formed`.
"""

from __future__ import annotations

import re
import unicodedata

_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Runs go whole ("_**_"), so that what is left around them never makes a new one.
_EMPHASIS = re.compile(r"[*_`]{2,}|`|(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])")
# NFKC would make one number of these and the digits beside them: ten to the power of nine is not 109, nor one and
# a half 11/2. Beside letters it gives what is usually typed: m2, SpO2. Emphasis, which goes later, may stand between.
_RAISED = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079"
_LOWERED = "\u2080-\u2089"
_WHOLE = "\u00bc-\u00be\u2150-\u215f\u2189\u2460-\u249b\u24ea"  # fractions, enclosed numbers
_NUMERAL = re.compile(f"[{_RAISED}{_LOWERED}{_WHOLE}]")
_POWER = re.compile(rf"\d[*_`]*(?=[\u207a\u207b]?[{_RAISED}])")
_TWO_NUMBERS = re.compile(
    rf"\d[*_`]*(?=[{_LOWERED}{_WHOLE}])|[{_RAISED}][*_`]*(?=[\d{_LOWERED}{_WHOLE}])"
    rf"|[{_LOWERED}][*_`]*(?=[\d{_RAISED}{_WHOLE}])|[{_WHOLE}][*_`]*(?=[\d{_RAISED}{_LOWERED}{_WHOLE}])"
)
_WHITE = re.compile(r"\s+")
# Dashes, quotes and fraction bars have many code points and one meaning; the encoder's vocabulary has the ASCII ones.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        "\u2044": "/",
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    }
)


def well_formed(text: str) -> str:
    """Replace lone surrogates, which no encoder of UTF-8 accepts, by U+FFFD; every offset stays valid."""
    return _SURROGATES.sub("\ufffd", text)


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":  # zero-width, soft hyphen, bidirectional controls, tags
        return ""
    return " " if category in ("Cc", "Zl", "Zp") else char


def normalise(text: str) -> str:
    """Return the text as the model reads it. Idempotent; linear in the length."""
    text = well_formed(text)
    if not text.isascii():
        # Invisible ones first: letters that they kept apart from their accents compose, digits meet their powers.
        text = "".join(map(_visible, text))
        if _NUMERAL.search(text):
            text = _TWO_NUMBERS.sub(r"\g<0> ", _POWER.sub(r"\g<0>^", text))
        text = unicodedata.normalize("NFKC", text)
    elif not text.isprintable():
        text = "".join(char if char.isprintable() else _visible(char) for char in text)
    text = _EMPHASIS.sub("", text.translate(_PLAIN))
    return unicodedata.normalize("NFKC", _WHITE.sub(" ", text)).strip()
