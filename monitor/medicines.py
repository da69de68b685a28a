"""Medicines in a text: the guideline's own treatment, and others, by the endings of nonproprietary names.

What a message is about shows in the medicines that it names. One that never names the treatment and speaks of
medicines that the guideline does not know (or of a sister of the treatment, which shares its ending) gives doses and
rules of those; judged by this guideline, each of them would look like an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from monitor.claims.lexicon import COMMON_MEDICINES, DRUG_ENDINGS
from monitor.scope import ScopeGate, compile_terms

_NO_MEDICINES = frozenset(
    {"april", "cholesterol", "peptide", "peptides", "nucleotide", "nucleotides", "amide", "azole", "statin", "elixir"}
)
_WORD = re.compile(r"[^\W\d_]{5,}", re.UNICODE)
#: How a treatment is given: an answer that never names it may speak of "the infusions" throughout.
_GIVEN = re.compile(r"\b(?:infus\w+|drips?|iv|i\.v\.|intravenous\w*|vials?)\b", re.IGNORECASE)
#: What else may stand for it. In a text of one or two statements it may be all that does.
_REFERS = re.compile(
    r"\b(?:antivirals?|(?:the|this|that|our|second|additional|outpatient) "
    r"(?:drug|medicine|medication|agent|treatment|course))\b",
    re.IGNORECASE,
)
#: From so many statements on a message is an answer, which names what it is about.
_ANSWER = 3


@dataclass(frozen=True, slots=True)
class Mention:
    """A medicine in a text: what it is called there, and which it is."""

    written: str
    identity: str
    start: int
    end: int


@lru_cache(maxsize=64)
def compiled_terms(terms: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of the terms, compiled once; see `scope.compile_terms`."""
    return compile_terms(terms)


class Medicines:
    """Finds the treatment by its names and other medicines by the endings of nonproprietary names."""

    def __init__(self, name: str, synonyms: Iterable[str]) -> None:
        self._name = name.lower()
        names = tuple(sorted({name, *synonyms} - {""}))
        self._own = compiled_terms(names) if names else None

    def mentions(self, text: str) -> list[Mention]:
        """Return the medicines of a text, in order."""
        found = [Mention(m.group(), self._name, *m.span()) for m in self._own.finditer(text)] if self._own else []
        taken = {m.start for m in found}
        for word in _WORD.finditer(text):
            lower = word.group().lower()
            if lower.endswith(DRUG_ENDINGS) and lower not in _NO_MEDICINES and word.start() not in taken:
                found.append(Mention(word.group(), lower, *word.span()))
        return sorted(found, key=lambda m: m.start)


class Topic:
    """Tells messages about other medicines. Fails open: where the treatment may be meant, the message is judged."""

    def __init__(self, name: str, synonyms: Sequence[str], language: str, guideline: Iterable[str]) -> None:
        """Take the treatment's name, its other names, and the guideline's own words: recommendations, scope terms."""
        self._medicines = Medicines(name, synonyms)
        self._name = name.lower()
        self._own = ScopeGate([name, *synonyms], language)
        self._known = frozenset(
            word.lower() for text in guideline for word in _WORD.findall(text) if not self._sister(word.lower())
        )

    def _sister(self, medicine: str) -> bool:
        """Tell whether a medicine shares the treatment's stem."""
        return any(
            self._name.endswith(ending) and medicine.endswith(ending) and medicine != self._name
            for ending in DRUG_ENDINGS
        )

    def _others(self, text: str) -> bool:
        """Tell whether a text names a medicine that the guideline is not about."""
        lower = {word.lower() for word in _WORD.findall(text)}
        named = {m.identity for m in self._medicines.mentions(text)}
        named |= {COMMON_MEDICINES[word] for word in lower & COMMON_MEDICINES.keys()}
        return any(medicine not in self._known for medicine in named - {self._name})

    def elsewhere(self, texts: Sequence[str]) -> bool:
        """Tell whether the message, given as its statements, is about other medicines only; linear in its length."""
        # Most messages that pass the scope gate name the treatment, and are done with here.
        if any(map(self._own.concerns, texts)) or not any(map(self._others, texts)):
            return False
        return not any(_GIVEN.search(text) or (len(texts) < _ANSWER and _REFERS.search(text)) for text in texts)
