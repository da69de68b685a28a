"""Cut a message into statements: sentences, list items, table rows, headings.

In: the text as received. Out: spans of it, in order, without list markers, block tags and surrounding white space, so
that `text[start:end]` is the statement to the character. A full stop ends a statement only where a reader would agree:
not in "2.5 mg", "e.g." or "Dr. Brandt", and in doubt two sentences stay together rather than a dose be cut. A table row
is one statement; what the model reads of it names the columns ("Population: adults; Dose: 200 mg"), as the cells
alone claim nothing. Rules rather than a trained splitter: they must be linear in the length (a 10 MB message is input,
not an attack to die of) and never lose a character that carries meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from monitor.disguise import BLOCK_ELEMENTS, TAG_END
from monitor.text import normalise
from monitor.types import Statement


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Longer statements are cut at white space. About 150 tokens of English; the encoder reads 256.
MAX_STATEMENT_CHARS = 600
#: In statements longer than this, clauses between semicolons are statements of their own, if none is shorter than...
_LONG_STATEMENT = 320
_SHORTEST_CLAUSE = 40
_COLUMN_NAME_CHARS = 60
#: Lines shorter than this were not wrapped, but ended.
_WRAPPED_CHARS = 50

# No check marks: they say yes or no.
_BULLETS = "\u2022\u2023\u25e6\u25aa\u25cf\u25cb\u25a0\u25a1\u25b6\u25ba\u2043\u27a2\u27a4"
_NUMBER = r"\(?(?:\d{1,3}(?:\.\d{1,2}){0,3}|[A-Za-z]|[ivx]{2,4})[.)]"
_LINE = re.compile(r"[^\n\r\v\f\u0085\u2028\u2029]+")
_MARKER = re.compile(
    r"[ \t\u00a0]*(?:>[ \t]*){0,8}(?:#{1,6}[ \t]+)?"
    rf"(?:(?:[-*+{_BULLETS}\u2013\u2014][ \t\u00a0]+|{_NUMBER}[ \t]+)"
    r"(?:\[[ xX]\][ \t]+)?)?"
)
_RULE = re.compile(r"[\s|:=*_~`\-\u2013\u2014+#>]*")
_NEW_BLOCK = re.compile(rf"[ \t\u00a0]*(?:[#>|<]|[-*+{_BULLETS}][ \t\u00a0]|{_NUMBER}[ \t])")
_BLOCK_TAG = re.compile(rf"</?(?:{BLOCK_ELEMENTS}){TAG_END}", re.IGNORECASE)
_STOP = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026\uff0e]++[\"'\u2019\u201d)\]*_`\u00bb\u200b-\u200f\u2060\ufeff]*+(?:</[a-z]{1,6}>)?"
    r"(?=\s|&nbsp;|&#160;)"
    rf"|[\u3002\uff01\uff1f\uff61\u0964\u0965\u06d4\u061f\u1362\u0589]|\s[{_BULLETS}]\s"
)
_STARTS_SENTENCE = re.compile(
    r"(?:[\"'\u2018\u201c(\[*_`\u00ab\u00bf\u00a1]|&nbsp;|&#160;|<[a-z]{1,6}>)*(?:[^\W_a-z]|[a-z]{1,3}[A-Z])"
)
_VISIBLE = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c*_]+$")
_EDGE = re.compile(rf"(?:[\s|{_BULLETS}]|&nbsp;|&#160;|{_BLOCK_TAG.pattern}|</?t[dh]{TAG_END})+", re.IGNORECASE)
_LAST_EDGE = re.compile(rf"(?:&nbsp;|&#160;|</?(?:{BLOCK_ELEMENTS}|t[dh])\s?/?>)$", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    {
        "approx", "avg", "ca", "cf", "ch", "chap", "dept", "dr", "e.g", "eg", "ed", "eds", "eq", "esp", "est", "excl",
        "fig", "figs", "gen", "i.e", "ie", "inc", "incl", "ltd", "mr", "mrs", "ms", "nos", "p", "par", "pp", "prof",
        "ref", "refs", "resp", "sec", "sect", "spp", "ssp", "st",
        "subsp", "suppl", "tab", "v", "var", "viz", "vol", "vs",
        "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    }
)  # fmt: skip
# These end sentences too ("given i.v. The dose"), so a capital after them decides.
_MAY_END = frozenset(
    [
        "i.v", "iv", "i.m", "im", "s.c", "sc", "s.q", "p.o", "po", "p.r", "b.i.d", "bid", "t.i.d", "tid", "q.i.d",
        "qid", "q.d", "o.d", "b.d", "t.d.s", "q.h.s", "q.o.d", "p.r.n", "a.m", "p.m", "max", "min", "no", "nr", "al",
        "subcut", "inj", "tabs", "caps", "hr", "hrs", "wk", "wks", "mo", "pt", "pts", "wt",
    ]
)  # fmt: skip
# After these a capital is mostly another name ("U.S. Food and Drug Administration").
_BEFORE_NAMES = frozenset(["u.s", "u.k", "e.u", "u.n", "ph.d", "m.d", "d.o", "r.n"])
_OPENERS = _words(
    "a after all although an and any as at both but do each every for from give he her however i if in is it"
    " its many most never no not now of on one only she since so some such that the their then there these they"
    " this those to under until use we when where while with you your"
)
_WORDS_BEFORE_INITIALS = _words("and by dr et from of prof mr mrs ms with")
_INITIAL = re.compile(r"[A-Z]\.")
_ENUMERATOR = re.compile(r"\(?(?:\d{1,2}|[A-Za-z])")
# "Day 1. 200 mg", "Step 2. Dilute.", "Days 2-5. 100 mg": a label, no sentence.
_LABEL = re.compile(r"[*_\s(]*[A-Z][a-z]+\s(?:\d{1,3}|[A-Z])(?:\s?(?:-|\u2013|to|and|&)\s?\d{1,3})?")
_LABELS = _words(
    "box case cohort cycle day days dose figure grade group hour hours item level option part phase question"
    " section stage step table tier week weeks visit"
)
_BRACKETED = re.compile(r"\([!?.\u2026]+$")
_CONTINUES = re.compile(r"[)\]]")
_UNIT = re.compile(
    r"(?:mg|mcg|\u00b5g|\u03bcg|g|kg|ml|l|iu|units?|mmol|hours?|hrs?|h|days?|weeks?|months?|years?|minutes?|min|%)\b|%",
    re.IGNORECASE,
)
_LEFT_OPEN = re.compile(
    r"(?:[,(\u2013/]|\b(?:and|or|of|to|than|with|by|over|for|at|in|on|the|an?|is|be|every|then|least|day|from|until"
    r"|plus|about|under|above|below|dose|exceed|receive|give))$",
    re.IGNORECASE,
)
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_TABLE_RULE = re.compile(r"[ \t>]*\|?(?:[ \t]*:?-{1,200}:?[ \t]*\|){1,200}(?:[ \t]*:?-{1,200}:?)?[ \t]*")
_CLAUSE_END = re.compile(r"[;()\[\]]")


@dataclass(frozen=True, slots=True)
class _Block:
    """Span of a line, of hard-wrapped lines that go on with the same sentence, or of a table row with its columns."""

    start: int
    end: int
    columns: tuple[str, ...] | None = None  # None outside of tables


def _is_abbreviation(text: str, start: int, stop: int, following: str) -> bool:
    """Tell whether the full stop at `stop` belongs to the word before it rather than to the sentence from `start`."""
    word = _LAST_WORD.search(text, max(start, stop - 16), stop)
    if word is None:
        return False
    if stop - start < 24 and _LABEL.fullmatch(text, start, stop) and text[start:stop].split()[0].lower() in _LABELS:
        return True
    bare = word.group().lower()
    before = text[max(start, word.start() - 12) : word.start()].split()
    if bare in _MAY_END:
        return not following[:1].isupper()
    if bare in _BEFORE_NAMES:
        return not following[:1].isupper() or following.split(maxsplit=1)[0].lower() not in _OPENERS
    if bare == "0" or (_ENUMERATOR.fullmatch(bare) and (before[-1][-1] in ":;" if before else bare != "i")):
        return True  # "0. 9%"; "2. Then stop.", "In two steps: 1. Dilute."; "J. Brandt" at the start
    if bare in _ABBREVIATIONS:
        return True
    # A single capital elsewhere is an initial in a name, not in "vitamin C." or "group A."
    return (
        len(bare) == 1
        and word.group().isupper()
        and bool(before)
        and (
            before[-1].lower().rstrip(".") in _WORDS_BEFORE_INITIALS
            or _INITIAL.fullmatch(before[-1]) is not None
            or (_INITIAL.match(following) is not None and before[-1][:1].isupper())
        )
    )


def _goes_on(text: str, begin: int, last: int, end: int, line: re.Match[str]) -> bool:
    """Tell whether a line goes on with the sentence of the block before it: text that was wrapped."""
    content = line.group()
    if text.count("\n", end, line.start()) > 1 or text[end - 1] in ".!?:;|>" or _NEW_BLOCK.match(content):
        return False
    first = content.lstrip()[:8]
    if text[end - 1].isdigit() and _UNIT.match(first) and first[0].islower():
        return True
    if first[:1].isdigit() and _LEFT_OPEN.search(text, max(begin, end - 12), end):
        return True
    return end - last >= _WRAPPED_CHARS and first[:1].islower()


def _blocks(text: str) -> Iterator[_Block]:
    """Yield the blocks of a text in order."""
    begin = last = end = -1  # of the block, of its last line, of both
    columns: tuple[str, ...] | None = None  # of the table that the line is in
    for line in _LINE.finditer(text):
        content = line.group()
        rule = _RULE.fullmatch(content)
        adjacent = begin >= 0 and text.count("\n", end, line.start()) <= 1
        if rule:
            if adjacent and "|" in content and len(content) < MAX_STATEMENT_CHARS and _TABLE_RULE.fullmatch(content):
                columns = tuple(normalise(c)[:_COLUMN_NAME_CHARS] for c in _cells(text[last:end]))
                yield _Block(begin, end)
                begin, last, end = -1, -1, line.end()
                continue
            if begin >= 0:
                yield _Block(begin, end)
            begin, columns = -1, None
            continue
        if columns is not None:
            if "|" in content and text.count("\n", end, line.start()) <= 1:
                yield _Block(*line.span(), columns)
                begin, end = -1, line.end()
                continue
            columns = None
        if begin >= 0 and _goes_on(text, begin, last, end, line):
            last, end = line.span()
            continue
        if begin >= 0:
            yield _Block(begin, end)
        begin, end = line.span()
        last = begin
    if begin >= 0:
        yield _Block(begin, end)


def _cells(row: str) -> list[str]:
    inner = row.strip().lstrip("> ").strip("|")
    return [cell.strip() for cell in _CELL_BORDER.split(inner)]


def _parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans between block tags."""
    begin = start
    for tag in _BLOCK_TAG.finditer(text, start, end):
        if tag.start() > begin:
            yield begin, tag.start()
        begin = tag.end()
    yield begin, end


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span of each sentence of a block."""
    begin = start
    for stop in _STOP.finditer(text, start, end):
        begins = _VISIBLE.search(text, stop.end(), end)
        if begins is None:
            break
        following = text[begins.start() : min(begins.start() + 24, end)]
        if stop.group()[0] == "." and (
            not (_STARTS_SENTENCE.match(following) or following[0].isdigit())
            or _is_abbreviation(text, begin, stop.start(), following)
        ):
            continue
        if stop.group()[0] in "!?" and (
            _BRACKETED.search(text, max(begin, stop.start() - 1), stop.start() + 1)  # "200 mg (!) daily"
            or (following[0].islower() and _CONTINUES.search(stop.group()))  # "mild (or moderate?) disease"
        ):
            continue
        yield begin, stop.end()
        begin = stop.end()
    yield begin, end


def _clauses(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a statement, or the clauses that semicolons outside of brackets divide a long one into."""
    if end - start <= _LONG_STATEMENT:
        yield start, end
        return
    depth, cuts = 0, [start]
    for sign in _CLAUSE_END.finditer(text, start, end):
        if sign.group() in "([":
            depth += 1
        elif sign.group() in ")]":
            depth = max(0, depth - 1)
        elif depth == 0 and text[sign.end() : sign.end() + 1].isspace():
            cuts.append(sign.end())
    cuts.append(end)
    if min(b - a for a, b in pairwise(cuts)) < _SHORTEST_CLAUSE:
        yield start, end
        return
    yield from pairwise(cuts)


def _windows(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield spans of at most MAX_STATEMENT_CHARS, cut at white space where there is some in the second half."""
    while end - start > MAX_STATEMENT_CHARS:
        cut = start + MAX_STATEMENT_CHARS
        for i in range(cut, start + MAX_STATEMENT_CHARS // 2, -1):
            # Not between a number and its unit.
            if text[i].isspace() and not (text[i - 1].isdigit() and i + 1 < end and _UNIT.match(text, i + 1)):
                cut = i
                break
        yield start, cut
        start = cut
    yield start, end


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without white space, cell borders, bullets and block tags at its edges."""
    leading = _EDGE.match(text, start, end)
    start = leading.end() if leading else start
    while end > start:
        if text[end - 1].isspace() or text[end - 1] in "|" + _BULLETS:
            end -= 1
        elif text[end - 1] in ">;" and (tag := _LAST_EDGE.search(text, max(start, end - 12), end)):
            end = tag.start()
        else:
            break
    return start, end


def _row(columns: tuple[str, ...], row: str) -> str:
    """Return a table row as a sentence: "Population: adults; Dose: 200 mg"."""
    cells = [normalise(cell.replace("\\|", "|")) for cell in _cells(row)]
    named = columns if len(columns) >= len(cells) else columns + ("",) * (len(cells) - len(columns))
    # Normalised together, as what stands in two cells may be a disguise only together.
    return normalise(
        "; ".join(
            f"{column}: {cell}" if column and column != cell else cell
            for column, cell in zip(named, cells, strict=False)
            if cell
        )
    )


def _spans(text: str, block: _Block) -> Iterator[tuple[int, int]]:
    marker = _MARKER.match(text, block.start, block.end)
    start = marker.end() if marker else block.start
    if block.columns is not None or text.startswith("|", start):
        yield from _windows(text, start, block.end)
        return
    for part in _parts(text, start, block.end):
        for sentence in _sentences(text, *part):
            for clause in _clauses(text, *sentence):
                yield from _windows(text, *clause)


def segment(text: str) -> list[Statement]:
    """Return the statements of a message in text order.

    Spans do not overlap, `text[s.start:s.end] == s.text` for each, and every letter and digit that is not part of a
    list marker or a block tag lies in exactly one of them. `normalised` is `normalise(s.text)`, but in the rows of a
    table with a head, where it names the columns.
    """
    statements = []
    for block in _blocks(text):
        whole_row = block.columns is not None and block.end - block.start <= MAX_STATEMENT_CHARS
        for span in _spans(text, block):
            start, end = _trim(text, *span)
            content = text[start:end]
            normalised = _row(block.columns, content) if whole_row and block.columns else normalise(content)
            if any(map(str.isalnum, normalised)):
                statements.append(Statement(start, end, content, normalised))
    return statements
