"""Readers behind `documents`: bytes of one kind of file -> text with Markdown headings, items and rows.

Markdown and plain text stay the file's own characters, but for numbered headings of plain text, which get their `#`. Of
HTML and PDF the text is written here, without what is not the document: navigation, scripts, running headers, page
numbers, hyphenation at line ends.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PageElement, PreformattedString
from pypdf import PdfReader
from pypdf.errors import DependencyError

from monitor.text import well_formed
from trainer.errors import PackError

#: A dense page takes pypdf up to half a second.
MAX_PDF_PAGES = 1_000
#: Largest text of a PDF, in characters; its streams are compressed, so the size of the file bounds nothing.
MAX_CHARS = 4_000_000

#: A Markdown heading.
ATX = re.compile(r"^(?P<marks>#{1,6})[ \t]+(?P<title>\S[^\n]*)$", re.MULTILINE)
#: The number that a heading begins with.
NUMBERED = re.compile(r"(?P<number>\d{1,3}(?:\.\d{1,3}){0,5})\.?[ \t]+(?=\S)")

# Markdown and plain text


def read_markdown(name: str, content: bytes) -> str:
    """Return the file's own text, with single line feeds and without a byte order mark.

    Raises:
        PackError: not text, or not UTF-8.
    """
    if b"\0" in content[:4096]:
        raise PackError(f"{name}: cannot be read: it is not text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PackError(f"{name}: cannot be read: it is not UTF-8 ({error}): save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _number(title: str) -> tuple[int, ...] | None:
    match = NUMBERED.match(title)
    return tuple(map(int, match["number"].split("."))) if match else None


def _follows(number: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """Tell whether a section number may come after another: 1 -> 1.1 -> 1.2 -> 2."""
    if not last:
        return number in ((0,), (1,), (1, 0), (1, 1))
    deeper = number in ((*last, 1), (*last, 0))
    return deeper or any(number == (*last[: i - 1], last[i - 1] + 1) for i in range(1, len(last) + 1))


def _is_title(line: str) -> bool:
    """Tell a numbered heading from a sentence or list item that begins with a number."""
    match = NUMBERED.match(line)
    rest = line[match.end() :] if match else ""
    return rest[:1].isupper() and len(line) <= 120 and rest[-1] not in ".;:,…" and "...." not in rest


def _is_entry(line: str) -> bool:
    """Tell whether a line looks like one of a table of contents: number, title, page."""
    return NUMBERED.match(line) is not None and re.search(r"[\s.]\d{1,4}$", line) is not None


def _with_headings(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines with `#` before those that the numbering shows to be headings; a table of contents is none."""
    last: tuple[int, ...] = ()
    bare = [line.strip() for line in lines]
    for i, line in enumerate(bare):
        number = _number(line)
        listed = _is_entry(line) and any(
            _is_entry(beside) for beside in [*bare[max(i - 1, 0) : i], *bare[i + 1 : i + 2]]
        )
        if number and _follows(number, last) and _is_title(line) and not listed:
            last = number
            yield f"{'#' * min(len(number) + 1, 6)} {line}"
        else:
            yield lines[i]


def read_plain(name: str, content: bytes) -> str:
    """Return plain text with its numbered headings marked; one that has `#` headings is taken as it is.

    Raises:
        PackError: not text, or not UTF-8.
    """
    text = read_markdown(name, content)
    return text if ATX.search(text) else "\n".join(_with_headings(text.split("\n")))


# HTML

_DROPPED = frozenset(
    ["script", "style", "noscript", "template", "nav", "footer", "aside", "form", "button", "svg", "iframe", "head"]
)
_BLOCKS = frozenset([
    "address", "article", "blockquote", "body", "br", "caption", "center", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main",
    "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "td", "th", "tr", "ul",
])  # fmt: skip
_HEADING_TAGS = frozenset(f"h{level}" for level in range(1, 7))
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def _clean(text: str) -> str:
    """Return text on one line without what no reader sees."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def _is_dropped(tag: Tag) -> bool:
    if tag.name in _DROPPED or tag.get("hidden") is not None or tag.get("aria-hidden") == "true":
        return True
    # A superscript link is a reference mark; glued to a number it would change it ("200 mg" and 12).
    return tag.name == "sup" and tag.find("a") is not None


class _Blocks:
    """Collects the blocks of a page while `_html_blocks` walks it; `done` are those that are finished.

    A table row is one block, its cells apart by `|`, empty ones too, and below a row of column headings stands one of
    dashes, as in Markdown; unless a heading or a table lies in the row: then the table only lays out a page, and what
    is in the row are blocks of their own.
    """

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self._buffer: list[str] = []
        self._kinds = ["p"]
        self._rows: list[list[str] | None] = []  # the cells of each row that is open; None where it lays out
        self._in_cell = False  # of the innermost row
        self._heads = False  # that row has column headings only

    def add(self, text: str) -> None:
        self._buffer.append(text)

    def enter(self, tag: str) -> None:
        cells = self._rows[-1] if self._rows else None
        if cells is None:
            self._flush()
        elif tag == "table" or tag in _HEADING_TAGS:
            self._end_cell()
            self.done += [(cell, "p") for cell in cells if cell]
            self._rows[-1] = None
        elif tag == "tr":  # the row before was not closed, which HTML allows
            self._end_row(cells)
        elif tag in ("td", "th"):
            self._end_cell()
            self._in_cell = True
            self._heads = self._heads and tag == "th"
        else:
            self.add(" ")
        if tag == "tr":
            self._rows.append([])
            self._in_cell, self._heads = False, True
        self._kinds.append(tag if tag in _HEADING_TAGS | {"li"} else "p")

    def leave(self, tag: str) -> None:
        if tag == "tr":
            self._end_row(self._rows[-1])
            self._rows.pop()
        elif not self._rows or self._rows[-1] is None:
            self._flush()
        elif tag in ("td", "th"):
            self._end_cell()
        else:
            self.add(" ")
        self._kinds.pop()

    def finish(self) -> None:
        self._flush()

    def superscript(self) -> None:
        """Keep an exponent apart from its number: 10<sup>9</sup> is not 109."""
        if self._buffer and self._buffer[-1][-1:].isdigit():
            self.add("^")

    def _end_row(self, cells: list[str] | None) -> None:
        self._end_cell()
        if cells and any(cells):
            self.done.append((" | ".join(cells), "tr"))
            if self._heads:
                self.done.append((" | ".join("---" for _ in cells), "tr"))
        if cells:
            cells.clear()

    def _end_cell(self) -> None:
        """Finish the cell that is open; one without text keeps its place, so that the next stay in their columns."""
        self._flush(keep_empty=self._in_cell)
        self._in_cell = False

    def _flush(self, *, keep_empty: bool = False) -> None:
        text = _clean("".join(self._buffer))
        self._buffer.clear()
        cells = self._rows[-1] if self._rows else None
        if cells is not None:
            if text or keep_empty:
                cells.append(text.replace("|", "\\|"))
        elif text:
            self.done.append((text, self._kinds[-1]))
            if self._kinds[-1] == "li":
                self._kinds[-1] = "p"  # what follows is a second paragraph of the item


def _html_blocks(root: Tag) -> list[tuple[str, str]]:
    """Return text and tag (`h2`, `li`, `tr`, `p` for the rest) of each block, in document order.

    Walks with a stack of its own, each element once: how deep a page nests its elements is not ours to trust.
    """
    blocks = _Blocks()
    stack: list[tuple[PageElement, bool]] = [(child, True) for child in reversed(root.contents)]
    while stack:
        node, entering = stack.pop()
        if isinstance(node, NavigableString):
            if not isinstance(node, PreformattedString):  # comments, declarations
                blocks.add(str(node))
        elif isinstance(node, Tag) and not entering:
            blocks.leave(node.name)
        elif isinstance(node, Tag) and not _is_dropped(node):
            if node.name == "sup":
                blocks.superscript()
            if node.name in _BLOCKS:
                blocks.enter(node.name)
                stack.append((node, False))
            stack.extend((child, True) for child in reversed(node.contents))
    blocks.finish()
    return blocks.done


def read_html(name: str, content: bytes) -> str:
    """Return the text of a page: of its `main` element where it has one.

    Raises:
        PackError: not text (compressed?), or its bytes are not in the encoding that it names.
    """
    if b"\0" in content[:4096] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 has zeros
        raise PackError(f"{name}: cannot be read: it is not text")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "looks like XML", "looks like a file name": it is what the pack names
        soup = BeautifulSoup(content, "html.parser")
    if soup.contains_replacement_characters:
        raise PackError(
            f"{name}: cannot be read: its characters are not in the encoding that it names: save it as UTF-8"
        )
    mains = soup.find_all("main")
    root = mains[0] if len(mains) == 1 and isinstance(mains[0], Tag) else soup
    lines: list[str] = []
    before = "p"
    for text, kind in _html_blocks(root):
        if kind in _HEADING_TAGS:
            line = f"{'#' * int(kind[1])} {text}"
        elif kind == "li":
            line = f"- {text}"
        elif kind == "tr":
            line = f"| {text} |"
        else:
            line = f"\\{text}" if text.startswith("#") else text
        lines.append(("\n" if kind == before and kind in ("li", "tr") else "\n\n") + line)
        before = kind
    return "".join(lines).strip("\n") + "\n"


# PDF

_COMPOUND = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_BROKEN = re.compile(r"(?P<head>[^\W_]+)-$")
#: The letters that complete a broken word, and the punctuation after them.
_REST = re.compile(r"(?P<tail>[^\W\d_]+)\S*")
#: A PDF with less text has none: what a scanner's software adds is shorter.
_LEAST_CHARS = 20
#: What stays hyphenated where a line ends after it, if the document itself does not decide.
_PREFIXES = frozenset([
    "all", "anti", "co", "cross", "ex", "extra", "high", "half", "intra", "long", "low", "mid", "multi", "non",
    "post", "pre", "self", "semi", "short", "sub",
])  # fmt: skip
_EDGE = 3  # lines at the top and bottom of a page among which running headers and footers are looked for


_TELLING = re.compile(r"[^\W\d_]{4}")  # a cell of a table ("10 mg") may repeat without being a header


def _edges(lines: Sequence[str]) -> set[int]:
    return {i for i in range(len(lines)) if i < _EDGE or i >= len(lines) - _EDGE}


def _counting(line: str, page: int) -> tuple[str, int]:
    """Return a line without its numbers, and how far the first or only one is from the page's own number."""
    numbers = re.findall(r"\d+", line)
    return re.sub(r"\d+", "0", line.lower()), int(numbers[0][:9]) - page if numbers else 0


def _body(pages: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
    """Yield page (from 0) and text of each line that is neither running header nor footer nor page number.

    Those repeat at the edges of pages: on a third of them, and on two at least. A number in them may differ only as the
    page's own number does, so that no dose at the edge of a page is taken for one.
    """
    seen = Counter(
        key for page, lines in enumerate(pages) for key in {_counting(lines[i], page) for i in _edges(lines)}
    )
    fixed = Counter(key for lines in pages for key in {lines[i].lower() for i in _edges(lines)})
    least = max(2, len(pages) // 3)
    for page, lines in enumerate(pages):
        edges = _edges(lines)
        for i, line in enumerate(lines):
            titled = _TELLING.search(line) is not None and fixed[line.lower()] >= least
            numbered = any(map(str.isdigit, line)) and seen[_counting(line, page)] >= least
            repeats = titled or numbered
            if i not in edges or not repeats:
                yield page, line


def _joined(head: str, tail: str, words: Counter[str]) -> str:
    """Return how a word that was broken after a hyphen is written, by what the rest of the document does."""
    plain, hyphenated = (head + tail).lower(), f"{head}-{tail}".lower()
    if words[plain] != words[hyphenated]:
        return head + tail if words[plain] > words[hyphenated] else f"{head}-{tail}"
    compound = head.lower() in _PREFIXES or tail[0].isupper() or head[-1].isdigit()
    return f"{head}-{tail}" if compound else head + tail


def _dehyphenated(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield lines (page, text) whose broken words are whole again; the rest of a word moves up to where it begins."""
    words: Counter[str] = Counter()
    for _, line in lines:
        for word in _COMPOUND.findall(line.lower()):
            words.update({word, *word.split("-")})
    moved = 0  # characters of this line that went up
    for i, (page, line) in enumerate(lines):
        current = line[moved:].lstrip()
        moved = 0
        broken = _BROKEN.search(current)
        following = lines[i + 1][1] if i + 1 < len(lines) else ""
        rest = _REST.match(following)
        if broken and rest:
            moved = rest.end()
            whole = _joined(broken["head"], rest["tail"], words)
            current = current[: broken.start("head")] + whole + following[rest.end("tail") : moved]
        if current:
            yield page, current


def _pdf_lines(name: str, content: bytes) -> list[list[str]]:
    """Return the lines of each page.

    Raises:
        PackError: broken, encrypted, too long, or without text.
    """
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise PackError(f"{name}: is encrypted: save a copy without a password")
        if len(reader.pages) > MAX_PDF_PAGES:
            raise PackError(
                f"{name}: has {len(reader.pages):,} pages, at most {MAX_PDF_PAGES:,} are read: cut out the part "
                "with the recommendations"
            )
        pages: list[list[str]] = []
        total = 0
        for page in reader.pages:
            # NFKC: typesetters' ligatures become letters again. A soft hyphen at a line end is a hyphen.
            text = well_formed(page.extract_text()).replace("\u00ad\n", "-\n")
            lines = unicodedata.normalize("NFKC", text).split("\n")
            pages.append([clean for line in lines if (clean := _clean(line))])
            total += sum(map(len, pages[-1]))
            if total > MAX_CHARS:
                raise PackError(f"{name}: holds more than {MAX_CHARS:,} characters: cut out the part that is needed")
    except PackError:
        raise
    except DependencyError as error:
        raise PackError(f"{name}: is encrypted ({error}): save a copy without a password") from error
    except Exception as error:  # whatever a damaged file makes pypdf stumble over
        raise PackError(f"{name}: is a damaged PDF ({error or type(error).__name__}): save it anew") from error
    if total < _LEAST_CHARS:
        raise PackError(f"{name}: has no text: it was scanned; make it searchable first (OCR, for example ocrmypdf)")
    return pages


def read_pdf(name: str, content: bytes) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """Return the text of a PDF, the offsets where its pages begin, and what could not be read.

    Raises:
        PackError: broken, encrypted, too long, or without text.
    """
    pages = _pdf_lines(name, content)
    lines = list(_dehyphenated(list(_body(pages))))
    pieces: list[str] = []
    position = 0
    starts: dict[int, int] = {}  # page -> offset of its first line
    for (page, bare), line in zip(lines, _with_headings([line for _, line in lines]), strict=True):
        if line != bare:
            piece = f"\n{line}\n\n" if pieces else f"{line}\n\n"
        else:
            piece = f"\\{line}\n" if line.startswith("#") else f"{line}\n"
        starts.setdefault(page, position + len(piece) - len(piece.lstrip("\n")))
        pieces.append(piece)
        position += len(piece)
    offsets = [position] * len(pages)
    for page in reversed(range(len(pages))):
        # A page without text begins, and ends, where the next one does.
        offsets[page] = starts.get(page, offsets[page + 1] if page + 1 < len(pages) else position)
    empty = sum(not page for page in pages)
    notes = (f"{name}: {empty} of {len(pages)} pages have no text (pictures?)",) if empty else ()
    return "".join(pieces), tuple(offsets), notes
