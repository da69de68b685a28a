"""Tokens of a text, and what single words are: shared by the readers of quantities and of polarity."""

from __future__ import annotations

import re
from functools import lru_cache

from monitor.claims import lexicon as lex

_DOTTED = re.compile(r"\b([a-z])\.\s?([a-z])\.(?:\s?([a-z])\.)?(?=\W|$)")
_TOKEN = re.compile(
    r"\d\d?:\d\d(?!\d)|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+|-?\d\w*)?"
    r"|(?<=\d)-(?=\d)| - |[%<>\u2264\u2265+\u00d7\u2192^/.,;:!?()|\u2022\"=]"
)
#: Tokens that end a clause, and those that end a sentence.
BOUNDARIES = frozenset({".", ";", ":", "!", "?", "|", "\u2192", ",", "(", ")", " - ", "\u2022", "="})
SENTENCE_ENDS = frozenset(".!?\u2022")
_DRUG = re.compile(rf"\w{{3,}}(?:{'|'.join(lex.DRUG_ENDINGS)})")


def tokenise(text: str) -> list[str]:
    """Split a text into lower-case words, numbers and the signs that matter. Hyphens within words vanish."""
    lowered = text.lower()
    if "." in lowered:
        lowered = _DOTTED.sub(lambda m: m[1] + m[2] + (m[3] or ""), lowered)
    return _TOKEN.findall(lowered)


def stem(word: str) -> str:
    """Cut a word to six letters, so that "monitored" meets "monitoring" (truncation stemming)."""
    return word[:6] if len(word) > 6 else word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word


@lru_cache(maxsize=16384)
def is_drug(word: str) -> bool:
    """Tell whether a word ends like an international non-proprietary name."""
    return len(word) > 5 and _DRUG.fullmatch(word) is not None
