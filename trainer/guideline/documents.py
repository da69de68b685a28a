"""Read guideline documents: Markdown, plain text, HTML and PDF, from files, folders and the web.

Whatever the kind, a `Document` holds its text as Markdown: headings with `#`, list items with `-`, table rows with `|`.
Markdown and plain text are the file's own characters; of HTML and PDF the text is written here, without navigation,
scripts, running headers, page numbers and hyphenation at line ends. All offsets refer to `Document.text`.

A document that cannot be read whole is an error that says what to do, except for pages of a PDF without text, which
`Document.notes` counts. Sizes are bounded, so that no file can hang a run.
"""

from __future__ import annotations

import bisect
import hashlib
import ipaddress
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from trainer.errors import PackError
from trainer.guideline.quantities import quantities
from trainer.guideline.readers import ATX, NUMBERED, read_html, read_markdown, read_pdf, read_plain

#: Largest file that is read, in bytes. A PDF holds pictures; a text of 4 MB is a library, not a guideline.
MAX_TEXT_BYTES = 4_000_000
MAX_PDF_BYTES = 64_000_000
FETCH_TIMEOUT = 30.0  # seconds without a byte
FETCH_SECONDS = 300.0  # in all

_SUFFIXES = {
    ".md": "markdown", ".markdown": "markdown", ".txt": "text", ".text": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf",
}  # fmt: skip
_TYPES = {
    "text/markdown": ".md", "text/plain": ".txt", "text/html": ".html", "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
}  # fmt: skip
_IS_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,500}?-->\s*)?<(?:!doctype html|html)\b", re.I | re.S
)
_READ = "Markdown (.md), plain text (.txt), HTML (.html) and PDF (.pdf) are read"


class Kind(StrEnum):
    """Kind of a document."""

    MARKDOWN = "markdown"
    TEXT = "text"
    HTML = "html"
    PDF = "pdf"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under one heading: `document.text[start:end]` is its body.

    `number` is the heading's own ("2.1"), or `h` and the heading's ordinal from 0 where it has none. `level` is 1 for
    the outermost headings; `parents` are the titles of the headings above, outermost first.
    """

    number: str
    title: str
    body: str
    start: int
    end: int
    level: int = 1
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """One guideline document as text.

    `name` is its path relative to the pack, or its URL. `pages` are the offsets at which pages begin (PDF only, else
    empty). `notes` say what of the document could not be read.
    """

    name: str
    kind: Kind
    text: str
    pages: tuple[int, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def page_of(self, offset: int) -> int | None:
        """Return the page (from 1) of a character, or None where the document has no pages."""
        return max(bisect.bisect_right(self.pages, offset), 1) if self.pages else None


# Sections

_SETEXT = re.compile(r"(?:\A|(?<=\n\n))(?P<title>[^\s#>|*+-][^\n]{0,200})\n(?P<marks>={3,}|-{3,})[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?(?:^(?P=fence)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    end: int
    level: int
    title: str


def _title(text: str) -> str:
    """Return a heading's own text, without bold type and the `#` that may close it."""
    return re.sub(r"\*\*|__|[ \t]+#+$", "", text.rstrip()).strip()


def _number_of(title: str) -> re.Match[str] | None:
    """Return the number that a heading begins with; "12 weeks and later" begins with a quantity, which is none."""
    numbered = NUMBERED.match(title)
    if numbered and title[numbered.end()].islower():
        first = quantities(title)[:1]
        if first and first[0].unit and title.startswith(first[0].text):
            return None
    return numbered


def _headings(text: str) -> list[_Heading]:
    fenced = [m.span() for m in _FENCE.finditer(text)]
    starts = [start for start, _ in fenced]

    def in_code(offset: int) -> bool:
        i = bisect.bisect_right(starts, offset) - 1
        return i >= 0 and offset < fenced[i][1]

    found = [_Heading(m.start(), m.end(), len(m["marks"]), _title(m["title"])) for m in ATX.finditer(text)]
    found += [
        _Heading(m.start(), m.end(), 1 if m["marks"][0] == "=" else 2, m["title"].rstrip())
        for m in _SETEXT.finditer(text)
    ]
    return sorted((h for h in found if not in_code(h.start)), key=lambda h: h.start)


def sections(text: str) -> list[Section]:
    """Cut a Markdown text at its headings (`#` or underlined).

    What stands before the first heading is section "0", a text without headings section "1", both without a title.
    """
    headings = _headings(text)
    if not headings:
        return [Section("1", "", text, 0, len(text))]
    result: list[Section] = []
    if any(map(str.isalnum, text[: headings[0].start])):
        result.append(Section("0", "", text[: headings[0].start], 0, headings[0].start))
    above: list[tuple[int, str]] = []  # level and title of the headings that contain this one
    for ordinal, heading in enumerate(headings):
        numbered = _number_of(heading.title)
        title = heading.title[numbered.end() :] if numbered else heading.title
        end = headings[ordinal + 1].start if ordinal + 1 < len(headings) else len(text)
        while above and above[-1][0] >= heading.level:
            above.pop()
        result.append(
            Section(
                numbered["number"] if numbered else f"h{ordinal}",
                title,
                text[heading.end : end],
                heading.end,
                end,
                heading.level,
                tuple(name for _, name in above),
            )
        )
        above.append((heading.level, title))
    return result


# Blocks

_MARK = re.compile(r"[ \t]*(?:[#>|]|[-*+•‣◦▪●⁃–][ \t])")
#: A number or letter with a stop is an item's, or the end of a sentence that was wrapped before it.
_ORDINAL_MARK = re.compile(r"[ \t]*\(?(?:\d{1,3}|[A-Za-z])[.)][ \t]")
#: A line that had room for the next word, at this share of the widest line, was ended on purpose.
_FULL_LINE = 0.8
#: No line was ended on purpose after one of these.
_UNFINISHED = re.compile(
    r"\b(?:a|an|the|is|are|was|and|or|of|to|in|on|at|by|for|from|with|than|least|below|above|over|under|day)[ \t]*$",
    re.IGNORECASE,
)
_WRAPPED = 30  # characters; shorter lines are not wrapped text


def _goes_on(before: str, line: str, width: int) -> bool:
    """Tell whether a line goes on with the sentence or paragraph of the line before it."""
    first = line.split(maxsplit=1)[0]
    full = len(before) > _WRAPPED and len(before) + 1 + len(first) > _FULL_LINE * width
    if _MARK.match(line) or (_MARK.match(before) and before.lstrip()[0] in "#|"):
        return False
    if _ORDINAL_MARK.match(line):
        return full and before.rstrip()[-1] not in ".!?:;"
    return full or first[0].islower() or before.rstrip()[-1] in ",-(/" or _UNFINISHED.search(before) is not None


def blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of paragraphs, list items and table rows; lines that were only wrapped stay together.

    A line ends a block where the next one is empty, begins an item, a row or a heading, or where the next word would
    still have fitted beside it and begins like a sentence.
    """
    lines = [(m.start(), m.end()) for m in re.finditer(r"[^\n]+", text)]
    widths = sorted(end - start for start, end in lines)
    width = widths[int(0.9 * (len(widths) - 1))] if widths else 0
    begin = last_start = last_end = -1  # of the block; of the line before
    for start, end in lines:
        line = text[start:end]
        if not line.strip():
            if begin >= 0:
                yield begin, last_end
            begin = -1
            continue
        apart = begin >= 0 and (
            text.count("\n", last_end, start) > 1 or not _goes_on(text[last_start:last_end], line, width)
        )
        if apart:
            yield begin, last_end
        if apart or begin < 0:
            begin = start
        last_start, last_end = start, end
    if begin >= 0:
        yield begin, last_end


# By kind, from a file, a folder or the web


def _kind(name: str, content: bytes, suffix: str) -> Kind:
    """Return the kind of a document: by its first bytes, else by its suffix.

    Raises:
        PackError: neither says a kind that is read, or they contradict each other.
    """
    if b"%PDF-" in content[:1024]:
        return Kind.PDF
    named = _SUFFIXES.get(suffix.lower())
    if named == Kind.PDF:
        raise PackError(f"{name}: is not a PDF, whatever its name says. {_READ}")
    if _IS_HTML.match(content[:1024]):
        return Kind.HTML
    if named is None:
        raise PackError(f"{name}: cannot read {suffix or 'a file without suffix'}: save it as one of these. {_READ}")
    return Kind(named)


def read(name: str, content: bytes, suffix: str) -> Document:
    """Read a document from its bytes; `suffix` (".md") says its kind where the bytes do not.

    Raises:
        PackError: too large, of another kind, not UTF-8, encrypted, damaged, or without text.
    """
    kind = _kind(name, content, suffix)
    limit = MAX_PDF_BYTES if kind is Kind.PDF else MAX_TEXT_BYTES
    if len(content) > limit:
        raise PackError(
            f"{name}: has {len(content) / 1e6:.0f} MB, at most {limit / 1e6:.0f} MB of {kind} are read: cut out "
            "the part with the recommendations"
        )
    pages: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    if kind is Kind.PDF:
        text, pages, notes = read_pdf(name, content)
    else:
        text = {Kind.HTML: read_html, Kind.TEXT: read_plain, Kind.MARKDOWN: read_markdown}[kind](name, content)
    if not any(map(str.isalnum, text)):
        raise PackError(f"{name}: holds no text (a page that is written by scripts? save it from a browser)")
    return Document(name, kind, text, pages, tuple(sections(text)), notes)


def read_file(path: Path, name: str | None = None) -> Document:
    """Read a document from a file; `name` is what it is called in quotes and errors, by default its path.

    Raises:
        PackError: as `read`, or the file cannot be opened.
    """
    shown = name or str(path)
    try:
        if path.exists() and not path.is_file():  # reading a device or a pipe may never end
            raise PackError(f"{shown}: is no file: name a file, or a folder of files. {_READ}")
        if (size := path.stat().st_size) > MAX_PDF_BYTES:
            raise PackError(f"{shown}: has {size / 1e6:.0f} MB, at most {MAX_PDF_BYTES / 1e6:.0f} MB are read")
        content = path.read_bytes()
    except OSError as error:
        raise PackError(f"{shown}: cannot be read: {error}") from error
    return read(shown, content, path.suffix)


def readable_files(folder: Path) -> list[Path]:
    """Return the files below a folder whose suffix is of a kind that is read, sorted; hidden ones are left out.

    Raises:
        PackError: there is none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise PackError(f"{folder}: holds no document. {_READ}")
    return found


def _is_private(host: str) -> bool:
    """Tell whether a host is of this machine or network; one that no name server knows here is not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but from no public host to a private one: that only the pack's author may name."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        host, own = urlsplit(newurl).hostname or "", urlsplit(req.full_url).hostname or ""
        if host != own and _is_private(host) and not _is_private(own):
            raise URLError(f"it leads to {host}, which is not a public host")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> tuple[bytes, str]:
    """Fetch a URL; return its bytes and the suffix that its content type stands for.

    The opener has handlers for http and https only, so that no redirect leads to a file either.
    """
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(), HTTPHandler(), HTTPSHandler(), _Redirects(), HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(), UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    request = Request(url, headers={"User-Agent": "guardline", "Accept": "text/html, application/pdf, text/*;q=0.9"})  # noqa: S310
    with opener.open(request, timeout=FETCH_TIMEOUT) as response:
        content = bytearray()
        deadline = time.monotonic() + FETCH_SECONDS
        # `read1` returns what is there: `read` would wait for the whole chunk, past the deadline.
        while len(content) <= MAX_PDF_BYTES and (chunk := response.read1(1 << 16)):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took more than {FETCH_SECONDS:.0f} s")
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and len(content) < min(int(announced), MAX_PDF_BYTES):
            raise HTTPException(f"it ended after {len(content):,} of {int(announced):,} bytes")
        return bytes(content), _TYPES.get(response.headers.get_content_type(), "")


def fetch(url: str, cache: Path | None = None) -> Document:
    """Read a document from the web; with `cache`, a folder, from there once it was fetched.

    A cached document is not fetched again: delete it there to get a newer one.

    Raises:
        PackError: not an http or https address, not reachable, too large, or as `read`.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PackError(f"{url}: is no web address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PackError(f"{url}: only http and https are fetched: give a file as `path`")
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    cached = [path for path in sorted(cache.glob(f"{key}.*")) if path.suffix != ".partial"] if cache else []
    if cached:
        return read_file(cached[0], url)
    try:
        content, suffix = _open(url)
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise PackError(f"{url}: cannot be fetched: {reason}: save it to a file and give that as `path`") from error
    if len(content) > MAX_PDF_BYTES:
        raise PackError(f"{url}: has more than {MAX_PDF_BYTES / 1e6:.0f} MB: save the part that is needed as a file")
    own = Path(parts.path).suffix.lower()
    suffix = own if own in _SUFFIXES else suffix or own
    document = read(url, content, suffix)
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f"{key}.partial"
        partial.write_bytes(content)
        partial.replace(cache / f"{key}{suffix if suffix in _SUFFIXES else '.' + document.kind}")
    return document
