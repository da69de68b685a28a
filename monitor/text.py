"""Normalise text: what training, evaluation and serving all show to the model.

A statement arrives as it was typed and leaves as the plain characters a reader sees: compatibility forms folded
(NFKC, Unicode Standard Annex 15), invisible and control characters gone, Markdown emphasis gone, white space single.
Offsets are never computed on normalised text, so nothing here needs to keep lengths, except `well_formed`.
"""

from __future__ import annotations

import re
import unicodedata

_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Runs go whole ("_**_"), so that what is left around them never makes a new one.
_EMPHASIS = re.compile(r"[*_`]{2,}|`|(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])")
_WHITE = re.compile(r"\s+")
# Dashes and quotes have many code points and one meaning; the encoder's vocabulary was learned on the ASCII ones.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
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
    text = unicodedata.normalize("NFKC", well_formed(text))
    if not text.isascii():
        # Letters that something invisible kept apart from their accents compose now.
        text = unicodedata.normalize("NFKC", "".join(map(_visible, text)))
    elif not text.isprintable():
        text = "".join(char if char.isprintable() else _visible(char) for char in text)
    text = _EMPHASIS.sub("", text.translate(_PLAIN))
    return unicodedata.normalize("NFKC", _WHITE.sub(" ", text)).strip()
