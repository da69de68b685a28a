"""The scope gate: which messages could concern the guideline at all, and are in a language that it speaks.

Most of a platform's stream has nothing to do with one treatment. A message that holds none of the guideline's terms is
out of scope at the cost of one regular expression and a look at its long words; what passes is encoded, and the
encoder's alignment then says, statement by statement, whether a recommendation is spoken about. Terms are therefore
generous, and found when misspelt: a wrong pass costs an embedding, a wrong refusal costs an unseen error. Other drugs'
names, which may differ in little, are not misspellings: what people mistype are vowels, doubled and swapped letters
and letters that sound alike, and these cost less than a plain other consonant ("vekluri", "remdezevir", not
"nimodipine" for nifedipine).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import accumulate

from monitor.language import foreign_language

__all__ = ["ScopeGate", "compile_terms", "foreign_language"]

_FRAGMENT_WORDS = 4

_SEPARATOR = r"(?:\s+|-)?"


def compile_terms(terms: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the terms as whole words (a final `*` allows any ending), ignoring case.

    Where a term has a space or hyphen, the text may have either or none: "GS 5734", "covid19", "nonhospitalized".
    """
    alternatives = [
        re.sub(r"(?:\\[ -])+", lambda _: _SEPARATOR, re.escape(term.removesuffix("*")))
        + (r"\w*" if term.endswith("*") else "")
        for term in sorted(terms, key=lambda t: (-len(t), t))
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


# --- misspelt terms ---------------------------------------------------------------------------------------------

#: Only long names can be told from other words when misspelt.
_MISSPELT_LETTERS = 7
_LONG_NAME = 10
_LONGEST_WORD = 40
# Costs in halves of what a plain mistake costs; a long name may have two, a shorter one, or one costlier.
_BUDGET_LONG, _BUDGET = 4, 3
_DOUBLED, _SOFT, _CONSONANT, _OTHER_LETTER = 1, 2, 3, 4
_VOWELS = frozenset("aeiouy")
_ALIKE = [frozenset(group) for group in ("mn", "sz", "cs", "cks", "ckq", "vw", "vf", "bv", "dt", "gj", "pb", "xks")]
#: Endings of ordinary words, which lie too near to others ("loading", "minutes"); names of drugs and brands have none.
_ORDINARY_ENDING = re.compile(
    r".*(?:able|al|ance|ant|apy|ary|ed|ence|ent|ers?|es|ess|ible|ic|ing|ion|ism|ity|ive|ment|ory|ous|sis|ss|ts|ure)"
)
#: Letters and what stands for them; "-", "." and " " may cut a name ("rem desivir", "remdes-ivir").
_NAME = re.compile(r"[^\W_]+")
_JOINT = re.compile(r"[\s\-._/']{1,2}")
_LONGEST_DIFFERENCE = 2  # in letters, within any budget but for doubled ones
_PARTS = 4  # that a name may be cut into
_DIGIT_LETTERS = str.maketrans("013457", "oieast")


@cache
def _substitution(a: str, b: str) -> int:
    if a in _VOWELS and b in _VOWELS:
        return _SOFT
    return _SOFT if any(a in group and b in group for group in _ALIKE) else _OTHER_LETTER


def _insertions(word: str) -> list[int]:
    """Return what each letter costs where the other word has none: little if it doubles the one before, or a vowel."""
    return [
        _DOUBLED if i and word[i - 1] == letter else _SOFT if letter in _VOWELS else _CONSONANT
        for i, letter in enumerate(word)
    ]


def misspelling_cost(word: str, term: str, budget: int) -> int:
    """Return the weighted edit distance of two words, or more than `budget` as soon as it is sure to be above.

    Optimal string alignment (a swap of neighbours is one mistake), O(len(word) * len(term)).
    """
    missing = _insertions(term)
    before: list[int] = []
    row = [0, *accumulate(missing)]
    for i, (letter, added) in enumerate(zip(word, _insertions(word), strict=True)):
        last, row = row, [row[0] + added]
        for j, wanted in enumerate(term):
            if letter == wanted:
                row.append(last[j])
                continue
            cost = min(last[j] + _substitution(letter, wanted), last[j + 1] + added, row[j] + missing[j])
            if i and j and letter == term[j - 1] and word[i - 1] == wanted:
                cost = min(cost, before[j - 1] + _SOFT)
            row.append(cost)
        if min(row) > budget and min(last) > budget:
            return budget + 1
        before = last
    return row[-1]


class _Names:
    """Long one-word terms, found when misspelt, cut in parts, run together with other words or written with digits."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._names = {
            term: frozenset(term)
            for term in map(str.lower, terms)
            if len(term) >= _MISSPELT_LETTERS
            and term.isalpha()
            and term.isascii()
            and not _ORDINARY_ENDING.fullmatch(term)
        }
        self._longest = max(map(len, self._names), default=0)
        # Streams repeat their words; what a word is does not change.
        self._is_name = lru_cache(maxsize=1 << 16)(self._compare)

    def _compare(self, word: str) -> bool:
        letters = frozenset(word)
        for name, own in self._names.items():
            if len(name) > _MISSPELT_LETTERS and word.startswith(name):
                return True
            if abs(len(name) - len(word)) > _LONGEST_DIFFERENCE or len(own ^ letters) > _LONGEST_DIFFERENCE * 2:
                continue
            long = len(name) >= _LONG_NAME
            if long and word[0] == name[0] and len(word) == len(name) and sorted(word) == sorted(name):
                return True  # "redemsivir"
            budget = _BUDGET_LONG if long else _BUDGET
            if misspelling_cost(word, name, budget) <= budget:
                return True
        return False

    def found_in(self, text: str) -> bool:
        """Tell whether the text, in lower case, holds a name; linear in its length."""
        if not self._names:
            return False
        parts: list[tuple[str, int]] = []  # words that directly follow each other, with their ends
        for match in _NAME.finditer(text):
            word = match[0]
            if not word.isalpha():
                word = word.strip("0123456789").translate(_DIGIT_LETTERS)
            if parts and not _JOINT.fullmatch(text, parts[-1][1], match.start()):
                parts.clear()
            parts.append((word, match.end()))
            del parts[:-_PARTS]
            if _MISSPELT_LETTERS - 1 <= len(word) <= _LONGEST_WORD and self._is_name(word):
                return True
            if len(parts) > 1 and self._ends_cut_name(parts):
                return True
        return False

    def _ends_cut_name(self, parts: list[tuple[str, int]]) -> bool:
        joined = parts[-1][0]
        for word, _ in reversed(parts[:-1]):
            joined = word + joined
            if len(joined) > self._longest:
                return False
            if joined in self._names:
                return True
        return False


class ScopeGate:
    """Decides before anything is encoded. Cheap; fails open (when in doubt, encode)."""

    def __init__(self, terms: Iterable[str], language: str) -> None:
        terms = list(terms)
        self._terms = compile_terms(terms)
        self._names = _Names(terms)
        self._language = language

    def concerns(self, normalised: str) -> bool:
        """Tell whether the text holds any term of the guideline, be it misspelt."""
        return self._terms.search(normalised) is not None or self._names.found_in(normalised.lower())

    def is_fragment(self, normalised: str) -> bool:
        """Tell whether a statement is too short to claim anything: four words, no term of the guideline, no number.

        "Take care.", "Hello!", "My view:" - an encoder that has learnt to place every claim somewhere places these too.
        No statement of the shipped corpus is one.
        """
        words = normalised.split(maxsplit=_FRAGMENT_WORDS)
        return len(words) <= _FRAGMENT_WORDS and not any(map(str.isdigit, normalised)) and not self.concerns(normalised)

    def foreign(self, normalised: str) -> bool:
        """Tell whether a statement or message is surely in another language than the guideline, or a clause of it is.

        Takes some 20 microseconds for a statement in the guideline's own language, 100 for another.
        """
        return foreign_language(normalised, self._language) is not None
