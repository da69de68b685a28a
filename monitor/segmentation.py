"""Cut a message into statements: sentences, list items, table rows, headings.

In: the text as received. Out: spans of it, in order, without list markers and surrounding white space, so that
`text[start:end]` is the statement to the character. A full stop ends a statement only where a reader would agree:
not in "2.5 mg", "e.g." or "Dr. Brandt". Rules rather than a trained splitter: they must be linear in the length (a
10 MB message is input, not an attack to die of) and never lose a character that carries meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitor.text import normalise
from monitor.types import Statement

#: Longer statements are cut at white space. About 150 tokens of English; the encoder reads 256.
MAX_STATEMENT_CHARS = 600

_LINE = re.compile(r"[^\n\r\v\f\u0085\u2028\u2029]+")
_MARKER = re.compile(
    r"[ \t\u00a0]*(?:>[ \t]*){0,8}(?:#{1,6}[ \t]+)?"
    r"(?:(?:[-*+\u2022\u2023\u25e6\u25aa\u25cf\u2043\u2013\u2014][ \t\u00a0]+|\(?(?:\d{1,3}|[A-Za-z])[.)][ \t]+)"
    r"(?:\[[ xX]\][ \t]+)?)?"
)
_RULE = re.compile(r"[\s|:=*_~`\-\u2013\u2014+#>]*")
_NEW_BLOCK = re.compile(
    r"[ \t\u00a0]*(?:[#>|]|[-*+\u2022\u2023\u25e6\u25aa\u25cf\u2043][ \t\u00a0]|\(?(?:\d{1,3}|[A-Za-z])[.)][ \t])"
)
_STOP = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u2019\u201d)\]*_`\u00bb]*+(?=\s)|[\u3002\uff01\uff1f]|\s\u2022\s"
)
_STARTS_SENTENCE = re.compile(r"[\"'\u2018\u201c(\[*_`\u00ab\u00bf\u00a1]*(?:[^\W_a-z]|[a-z]{1,3}[A-Z])")
_VISIBLE = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c*_]+$")
_ABBREVIATIONS = frozenset(
    {
        "approx", "avg", "ca", "cf", "dr", "e.g", "ed", "eds", "est", "excl", "fig", "figs", "i.e", "inc", "incl",
        "ltd", "mr", "mrs", "ms", "nos", "p", "pp", "prof", "ref", "refs", "resp", "sec", "st",
        "tab", "v", "vol", "vs", "jan", "feb",
        "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    }
)  # fmt: skip
# These end sentences too ("in the U.S. It is...", "given i.v. The dose"), so a capital after them decides.
_MAY_END = frozenset(
    ["i.v", "iv", "i.m", "s.c", "p.o", "b.i.d", "t.i.d", "q.d", "u.s", "u.k", "max", "min", "no", "al"]
)


def _is_abbreviation(text: str, start: int, stop: int, following: str) -> bool:
    """Tell whether the full stop at `stop` belongs to the word before it rather than to the sentence."""
    word = _LAST_WORD.search(text, max(start, stop - 16), stop)
    if word is None:
        return False
    bare = word.group().lower()
    if bare in _MAY_END:
        return not following[:1].isupper()
    # A single capital is an initial ("J. Brandt"), except "I" and a letter after a number ("vitamin C.").
    return bare in _ABBREVIATIONS or (
        len(bare) == 1
        and bare.isalpha()
        and word.group().isupper()
        and bare != "i"
        and not text[start : word.start()].strip()
    )


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each block: a line, or hard-wrapped lines that go on with the same sentence."""
    begin = last = end = -1  # of the block, of its last line, of both
    for line in _LINE.finditer(text):
        content = line.group()
        if _RULE.fullmatch(content):
            if begin >= 0:
                yield begin, end
            begin = -1
            continue
        wrapped = (
            begin >= 0
            and text.count("\n", end, line.start()) <= 1
            and end - last >= 50
            and text[end - 1] not in ".!?:;|"
            and not _NEW_BLOCK.match(content)
            and content.lstrip()[:1].islower()
        )
        if wrapped:
            last, end = line.span()
            continue
        if begin >= 0:
            yield begin, end
        begin, end = line.span()
        last = begin
    if begin >= 0:
        yield begin, end


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span of each sentence of a block."""
    begin = start
    for stop in _STOP.finditer(text, start, end):
        begins = _VISIBLE.search(text, stop.end(), end)
        if begins is None:
            break
        following = text[begins.start() : min(begins.start() + 16, end)]
        plain_stop = stop.group()[0] == "."
        if plain_stop and (
            not (_STARTS_SENTENCE.match(following) or following[0].isdigit())
            or _is_abbreviation(text, begin, stop.start(), following)
        ):
            continue
        yield begin, stop.end()
        begin = stop.end()
    yield begin, end


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield spans of at most MAX_STATEMENT_CHARS, cut at white space where there is some in the second half."""
    while end - start > MAX_STATEMENT_CHARS:
        cut = start + MAX_STATEMENT_CHARS
        for i in range(cut, start + MAX_STATEMENT_CHARS // 2, -1):
            if text[i].isspace():
                cut = i
                break
        yield start, cut
        start = cut
    yield start, end


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and (text[start].isspace() or text[start] in "|\u2022"):
        start += 1
    while end > start and (text[end - 1].isspace() or text[end - 1] in "|\u2022"):
        end -= 1
    return start, end


def segment(text: str) -> list[Statement]:
    """Return the statements of a message in text order.

    Spans do not overlap, `text[s.start:s.end] == s.text` for each, and every letter and digit that is not part of a
    list marker lies in exactly one of them.
    """
    statements = []
    for block_start, block_end in _blocks(text):
        marker = _MARKER.match(text, block_start, block_end)
        content_start = marker.end() if marker else block_start
        for sentence in _sentences(text, content_start, block_end):
            for window in _windows(text, *sentence):
                start, end = _trim(text, *window)
                normalised = normalise(text[start:end])
                if any(map(str.isalnum, normalised)):
                    statements.append(Statement(start, end, text[start:end], normalised))
    return statements
