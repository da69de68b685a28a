"""The scope gate: which messages could concern the guideline at all, and are in a language that it speaks.

Most of a platform's stream has nothing to do with one treatment. A message that holds none of the guideline's terms is
out of scope at the cost of one regular expression; what passes is encoded, and the encoder's alignment then says,
statement by statement, whether a recommendation is spoken about. Terms are therefore generous: a wrong pass costs an
embedding, a wrong refusal costs an unseen error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# The languages that medical chat most often comes in. A closed list makes the identifier surer of each.
_LANGUAGES = (
    "en", "ar", "cs", "da", "de", "el", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl",
    "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
#: Below this probability a foreign language is not believed. No false alarm on the 8,180 English corpus rows.
_LANGUAGE_CONFIDENCE = 0.9
#: Shorter texts are too short to tell ("RDV 200 mg IV").
_LANGUAGE_MIN_CHARS = 24
_LANGUAGE_MAX_CHARS = 2000
_FRAGMENT_WORDS = 4


def compile_terms(terms: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the terms as whole words (a final `*` allows any ending), ignoring case."""
    alternatives = [
        re.escape(term.removesuffix("*")).replace(r"\ ", r"\s+") + (r"\w*" if term.endswith("*") else "")
        for term in sorted(terms, key=lambda t: (-len(t), t))
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(_LANGUAGES))
    return identifier


def foreign_language(text: str, expected: str) -> str | None:
    """Return the ISO 639-1 code of the language of `text` when it is surely not the expected one, else None."""
    if len(text) < _LANGUAGE_MIN_CHARS:
        return None
    language, probability = _identifier().classify(text[:_LANGUAGE_MAX_CHARS])
    return str(language) if language != expected and probability >= _LANGUAGE_CONFIDENCE else None


class ScopeGate:
    """Decides before anything is encoded. Pure and cheap; fails open (when in doubt, encode)."""

    def __init__(self, terms: Iterable[str], language: str) -> None:
        self._terms = compile_terms(terms)
        self._language = language

    def concerns(self, normalised: str) -> bool:
        """Tell whether the text holds any term of the guideline."""
        return self._terms.search(normalised) is not None

    def is_fragment(self, normalised: str) -> bool:
        """Tell whether a statement is too short to claim anything: four words, no term of the guideline, no number.

        "Take care.", "Hello!", "My view:" - an encoder that has learnt to place every claim somewhere places these too.
        No statement of the shipped corpus is one.
        """
        words = normalised.split()
        return len(words) <= _FRAGMENT_WORDS and not any(map(str.isdigit, normalised)) and not self.concerns(normalised)

    def foreign(self, normalised: str) -> bool:
        """Tell whether the text is surely in another language than the guideline."""
        return foreign_language(normalised, self._language) is not None
