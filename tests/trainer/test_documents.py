"""Readers: what each kind of file gives, that offsets hold, and what is said of each file that cannot be read."""

import gzip
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PageObject, PdfReader, PdfWriter

from trainer.errors import PackError
from trainer.guideline import documents, readers
from trainer.guideline.documents import Kind, blocks, fetch, read, read_file, readable_files, sections
from trainer.guideline.guidelines import DEFAULT_PACK

SHIPPED = DEFAULT_PACK.parent


def pdf(*pages: list[str], header: str = "", footer: str = "") -> bytes:
    """Return a PDF with these lines on its pages."""
    paper = FPDF(format="A4")
    paper.set_font("Helvetica", size=10)
    for number, lines in enumerate(pages, 1):
        paper.add_page()
        for line in [header, *lines, footer.format(page=number)]:
            if line:
                paper.cell(0, 5, line, new_x="LMARGIN", new_y="NEXT")
    return bytes(paper.output())


def text_of(content: str | bytes, suffix: str) -> str:
    return read("guideline", content.encode() if isinstance(content, str) else content, suffix).text


def refusal(content: bytes, suffix: str = ".md") -> str:
    with pytest.raises(PackError) as caught:
        read("guideline", content, suffix)
    assert "guideline" in str(caught.value)
    return str(caught.value)


# Sections and blocks


def test_sections_know_numbers_titles_levels_and_parents() -> None:
    document = "Preface.\n# Title\nA.\n## 2.1. Dose in children\nB\nC\n### Notes\nD\n## 2.2 Stop\nE\n"
    found = sections(document)
    assert [(s.number, s.title, s.level, s.parents) for s in found] == [
        ("0", "", 1, ()),
        ("h0", "Title", 1, ()),
        ("2.1", "Dose in children", 2, ("Title",)),
        ("h2", "Notes", 3, ("Title", "Dose in children")),
        ("2.2", "Stop", 2, ("Title",)),
    ]
    assert [s.body.strip() for s in found] == ["Preface.", "A.", "B\nC", "D", "E"]
    assert all(document[s.start : s.end] == s.body for s in found)


def test_underlined_headings_are_headings_and_code_holds_none() -> None:
    found = sections("Title\n=====\n\nDose\n----\nGive 5 mg.\n\n```\n# no heading\n```\n")
    assert [(s.title, s.level) for s in found] == [("Title", 1), ("Dose", 2)]


def test_a_heading_that_begins_with_a_quantity_keeps_it_and_marks_go() -> None:
    found = sections("## 12 weeks and later ##\n## 2.5 mg/kg daily\n## **2.1** eGFR\n## **3 Doses**\n")
    assert [(s.number, s.title) for s in found] == [
        ("h0", "12 weeks and later"), ("h1", "2.5 mg/kg daily"), ("2.1", "eGFR"), ("3", "Doses"),
    ]  # fmt: skip


def test_wrapped_lines_stay_together_and_items_rows_and_headings_apart() -> None:
    wide = "Consider stopping the medicine if the liver enzyme called ALT rises above"
    wrapped = f"{wide}\n10 times the upper limit. The maintenance dose must begin on day\n2. Then go on."
    body = f"{wrapped}\n- one\n- two\nShort.\nNew.\n"
    assert [body[a:b].replace("\n", " ") for a, b in blocks(body)] == [
        f"{wide} 10 times the upper limit. The maintenance dose must begin on day 2. Then go on.",
        "- one",
        "- two",
        "Short.",
        "New.",
    ]


@given(st.text(alphabet="ab.- |#1\n\u00e9", max_size=80))
def test_blocks_hold_all_that_is_visible_in_order(text: str) -> None:
    spans = list(blocks(text))
    assert all(a < b for a, b in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    outside = "".join(text[i] for i in range(len(text)) if not any(a <= i < b for a, b in spans))
    assert not outside.strip()


# Markdown and plain text


def test_markdown_is_the_files_own_text() -> None:
    assert text_of(b"\xef\xbb\xbf# Dose\r\nGive 20 \xc2\xb5g.\r\n", ".md") == "# Dose\nGive 20 \u00b5g.\n"


def test_numbered_headings_of_plain_text_are_found_and_numbered_items_are_not() -> None:
    document = read(
        "g", b"1 Who\nAdults.\n1.1 Dose\nGive:\n1. Start low.\n4 weeks later stop\n2 Safety\nWatch.\n", ".txt"
    )
    assert [(s.number, s.title) for s in document.sections] == [("1", "Who"), ("1.1", "Dose"), ("2", "Safety")]


def test_a_table_of_contents_is_no_heading() -> None:
    listed = "1 Who 3\n1.1 Dose 4\n2 Safety 9\n"
    document = read("g", f"{listed}\n1 Who\nAdults.\n1.1 Dose\nGive 5 mg.\n2 Safety\nWatch.\n".encode(), ".txt")
    assert [s.body.strip() for s in document.sections[1:]] == ["Adults.", "Give 5 mg.", "Watch."]


# HTML


def test_html_gives_headings_items_and_rows_and_leaves_out_what_is_not_the_document() -> None:
    page = """<!DOCTYPE html><html><head><title>T</title><style>p {}</style></head><body><nav>Home</nav>
    <h1>Zolamide</h1><script>give("90 mg")</script><h2>2.1 Dose &amp; route</h2>
    <p>Give <b>20&nbsp;mg</b><sup><a href="#r">12</a></sup> once
    daily.<!-- no --></p><ul><li>by mouth</li><li>never <i>crushed</i></li></ul>
    <table><tr><th>Age</th><th>Dose</th></tr><tr><td>Adults</td><td><p>20 mg</p></td></tr></table>
    <p hidden>secret</p><p># is no heading</p><footer>Imprint</footer></body></html>"""
    assert text_of(page, ".html").split("\n") == [
        "# Zolamide", "", "## 2.1 Dose & route", "", "Give 20 mg once daily.", "", "- by mouth", "- never crushed", "",
        "| Age | Dose |", "| --- | --- |", "| Adults | 20 mg |", "", "\\# is no heading", "",
    ]  # fmt: skip


def test_html_takes_the_main_part_and_reads_tables_that_only_lay_out_a_page() -> None:
    page = (
        "<html><body>Menu<main><table><tr><td><h2>1 Dose</h2><p>Give 5 mg.</p></td></tr></table></main></body></html>"
    )
    assert text_of(page, ".html") == "## 1 Dose\n\nGive 5 mg.\n"


def test_an_empty_cell_keeps_its_place() -> None:
    page = "<html><table><tr><th><th>Adults<th>Children</tr><tr><td>IV</td><td></td><td>5 mg</td></tr></table>"
    assert text_of(page, ".html").split("\n") == [
        "|  | Adults | Children |",
        "| --- | --- | --- |",
        "| IV |  | 5 mg |",
        "",
    ]


def test_an_exponent_does_not_join_its_number() -> None:
    assert (
        text_of("<html><p>Below 50 x 10<sup>9</sup>/L, or 9 m<sup>2</sup>", ".html") == "Below 50 x 10^9/L, or 9 m2\n"
    )


def test_html_is_read_in_the_encoding_that_it_names() -> None:
    page = "<html><head><meta charset='windows-1252'></head><body><p>20 \u00b5g \u2013 daily</p></body></html>"
    assert text_of(page.encode("windows-1252"), ".htm") == "20 \u00b5g \u2013 daily\n"


@pytest.mark.parametrize("nested", ["<div>", "<table><tr><td>", "<ul><li>", "<b>"])
def test_deeply_nested_html_is_read(nested: str) -> None:
    assert text_of("<html>" + nested * 3000 + "Give 5 mg.", ".html").strip("-| \n") == "Give 5 mg."


# PDF


def test_pdf_gives_headings_by_numbering_without_running_lines_and_knows_pages() -> None:
    content = pdf(
        ["1 Who", "Give zolamide to adults.", "2 Dose", "Give 20 mg once", "daily for"],
        ["5 days.", "3 Safety", "Watch the pulse."],
        header="Zolamide guideline 2026",
        footer="Page {page} of 2",
    )
    document = read("g", content, ".pdf")
    assert document.kind is Kind.PDF
    assert [(s.number, s.title) for s in document.sections] == [("1", "Who"), ("2", "Dose"), ("3", "Safety")]
    assert "Page" not in document.text
    assert "guideline 2026" not in document.text
    assert [document.page_of(document.text.index(word)) for word in ("Who", "20 mg", "5 days", "pulse")] == [1, 1, 2, 2]


def test_a_dose_at_the_edge_of_every_page_is_not_taken_for_a_page_number() -> None:
    document = read("g", pdf(["Adults take", "20 mg"], ["Children take", "5 mg"], ["Infants take", "20 mg"]), ".pdf")
    assert [line for line in document.text.split("\n") if "mg" in line] == ["20 mg", "5 mg", "20 mg"]


def test_words_broken_at_line_ends_are_whole_again() -> None:
    lines = [
        "Zolamide is recom-", "mended for non-", "hospitalized adults who had a long-",
        "term illness; a long-term ill-", "ness, and a 3-", "day course. Never for non-hospi-", "talized children.",
    ]  # fmt: skip
    text = " ".join(read("g", pdf(lines), ".pdf").text.split())
    assert text == (
        "Zolamide is recommended for non-hospitalized adults who had a long-term illness; a long-term illness, and a "
        "3-day course. Never for non-hospitalized children."
    )


def test_half_a_character_of_a_broken_font_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageObject, "extract_text", lambda _: "Give \ud83d zolamide to adults.")
    assert read("g", pdf(["x"]), ".pdf").text == "Give \ufffd zolamide to adults.\n"


def test_pages_without_text_are_told() -> None:
    document = read("g", pdf(["Give zolamide to adults."], []), ".pdf")
    assert document.notes == ("g: 1 of 2 pages have no text (pictures?)",)


# What cannot be read


def test_a_scanned_pdf_is_refused() -> None:
    assert "OCR" in refusal(pdf([]), ".pdf")


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open.pdf").write_bytes(pdf(["Give zolamide to adults."]))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "open.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "closed.pdf")
    with pytest.raises(PackError, match=r"closed\.pdf: is encrypted: save a copy without a password"):
        read_file(tmp_path / "closed.pdf")


@pytest.mark.parametrize("cut", [60, 400])
def test_a_damaged_pdf_is_refused(cut: int) -> None:
    assert "PDF" in refusal(pdf(["Give zolamide to adults."])[:cut], ".pdf")


@pytest.mark.parametrize(
    ("content", "suffix", "says"),
    [
        (b"Give 20 \xb5g.", ".md", "not UTF-8"),
        (b"\x89PNG\0\0\0", ".txt", "not text"),
        (b"Give 5 mg.", ".pdf", "not a PDF"),
        (b"PK\x03\x04", ".docx", ".docx"),
        (b"Give 5 mg.", "", "without suffix"),
        (b" \n", ".md", "holds no text"),
        (gzip.compress(b"<html><p>Give 5 mg."), ".html", "not text"),
        (b"<html><body><script>x()</script></body></html>", ".html", "holds no text"),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, suffix: str, says: str) -> None:
    assert says in refusal(content, suffix)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 3000), st.sampled_from([".md", ".txt", ".html", ".pdf"]))
def test_whatever_the_bytes_are_a_document_or_a_refusal_comes_back(noise: bytes, at: int, suffix: str) -> None:
    whole = pdf(["1 Dose", "Give zolamide to adults."]) if suffix == ".pdf" else b"<html><table><tr><td>1 Dose</html>"
    for content in (noise, whole[:at] + noise + whole[at + len(noise) :]):
        try:
            document = read("g", content, suffix)
        except PackError:
            continue
        assert all(document.text[s.start : s.end] == s.body for s in document.sections)


def test_the_bytes_decide_before_the_name() -> None:
    assert read("g", pdf(["Give zolamide to adults."]), ".txt").kind is Kind.PDF
    assert read("g", b"<!doctype html><p>Give 5 mg.", ".txt").kind is Kind.HTML
    assert read("g", b"<!doctype html><p>Give 5 mg.", "").kind is Kind.HTML


def test_a_file_of_a_hundred_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pdf"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(PackError, match=r"large\.pdf: has 100 MB, at most 64 MB are read"):
        read_file(path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    with pytest.raises(PackError, match=r"pipe\.md: is no file"):
        read_file(tmp_path / "pipe.md")


def test_a_text_of_fifty_megabytes_is_refused() -> None:
    assert "has 50 MB, at most 4 MB of markdown are read" in refusal(b"a" * 50_000_000)


def test_a_pdf_of_too_many_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_PDF_PAGES", 2)
    assert "has 3 pages, at most 2 are read" in refusal(pdf(["1"], ["2"], ["3"]), ".pdf")


def test_a_pdf_with_more_text_than_a_guideline_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_CHARS", 100)
    assert "more than 100 characters" in refusal(pdf(["Give zolamide to adults."] * 9), ".pdf")


# Folders and the web


def test_a_folder_gives_its_readable_files_in_order(tmp_path: Path) -> None:
    for name in ("b.md", "a/c.html", "picture.png", ".hidden/d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in readable_files(tmp_path)] == ["a/c.html", "b.md"]
    with pytest.raises(PackError, match="holds no document"):
        readable_files(tmp_path / "a" / "none")


class _Site(BaseHTTPRequestHandler):
    hits: list[str]
    released: threading.Event

    def do_GET(self) -> None:
        self.hits.append(self.path)
        if self.path == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/inside":
            self.send_response(302)
            self.send_header("Location", self.headers["Host"].replace("localhost", "http://127.0.0.1") + "/guideline")
            self.end_headers()
        elif self.path in ("/short", "/slow"):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"Give 5 mg.")
            if self.path == "/slow":
                self.released.wait()
        elif self.path == "/none":
            self.send_error(404)
        else:
            content = b"## 1 Dose\nGive 5 mg.\n" if self.path == "/plain" else b"<html><h2>1 Dose</h2><p>Give 5 mg."
            self.send_response(200)
            self.send_header("Content-Type", "text/plain" if self.path == "/plain" else "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def site() -> Iterator[str]:
    _Site.hits = []
    _Site.released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    _Site.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_address_is_read_by_its_content_type_and_fetched_once(site: str, tmp_path: Path) -> None:
    for _ in range(2):
        document = fetch(f"{site}/guideline", tmp_path / "sources")
        assert (document.name, document.kind) == (f"{site}/guideline", Kind.HTML)
        assert [s.number for s in document.sections] == ["1"]
    assert _Site.hits == ["/guideline"]
    assert fetch(f"{site}/plain").kind is Kind.TEXT


@pytest.mark.parametrize("path", ["/none", "/file"])
def test_a_web_address_that_gives_nothing_or_leads_to_a_file_is_refused(site: str, path: str) -> None:
    with pytest.raises(PackError, match="cannot be fetched"):
        fetch(site + path)


def test_half_a_web_document_is_refused_and_not_kept(site: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="cannot be fetched: it ended after 10 of 1,000 bytes"):
        fetch(f"{site}/short", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_web_document_that_trickles_in_is_given_up(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "FETCH_SECONDS", 0.0)
    with pytest.raises(PackError, match="it took more than 0 s"):
        fetch(f"{site}/slow")


def test_a_redirect_leads_from_no_public_host_to_a_private_one(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public = site.replace("127.0.0.1", "localhost")
    assert fetch(f"{public}/inside").kind is Kind.HTML  # within one network
    own = documents._is_private
    monkeypatch.setattr(documents, "_is_private", lambda host: host != "localhost" and own(host))
    with pytest.raises(PackError, match=r"it leads to 127\.0\.0\.1, which is not a public host"):
        fetch(f"{public}/inside")


def test_a_web_document_that_is_too_large_is_refused(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PDF_BYTES", 10)
    with pytest.raises(PackError, match="has more than"):
        fetch(f"{site}/guideline")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/x", "http://", "guideline.html"])
def test_only_http_is_fetched(url: str) -> None:
    with pytest.raises(PackError, match="only http and https are fetched"):
        fetch(url)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(PackError, match=r"http://\[bad: is no web address"):
        fetch("http://[bad")


def test_a_host_that_does_not_answer_is_told(site: str) -> None:
    port = int(site.rsplit(":", 1)[1])
    with pytest.raises(PackError, match="cannot be fetched"):
        fetch(f"http://127.0.0.1:{port}0/x" if port < 6554 else "http://127.0.0.1:1/x")


# The shipped guideline in its three kinds


@pytest.mark.parametrize("suffix", [".html", ".pdf"])
def test_shipped_renderings_say_what_the_markdown_says(suffix: str) -> None:
    markdown = read_file(SHIPPED / "covid19-remdesivir.md")
    other = read_file(SHIPPED / f"covid19-remdesivir{suffix}")
    # The title is the running header of the PDF, so what stands under it stands before the first heading there.
    assert [s.title for s in markdown.sections[1:]] == [s.title for s in other.sections[1:]]
    assert [s.number for s in markdown.sections[1:]] == [s.number for s in other.sections[1:]]
    assert [s.body.split() for s in markdown.sections] == [s.body.split() for s in other.sections]
