"""Render the shipped guideline as HTML and PDF: `python -m trainer.guideline.rendering`.

So the readers meet real files, and a pack may start from either. Both outputs are reproducible to the byte (with one
version of the libraries): no dates but the guideline's own, no random ids.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from trainer.artifacts import write_text
from trainer.errors import PackError
from trainer.guideline.guidelines import DEFAULT_PACK, Pack

_SIZES = {"h1": 16, "h2": 13, "h3": 11}  # points
_BODY = 10.5
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ max-width: 42em; margin: 2em auto; font-family: serif; line-height: 1.4 }}</style>
</head>
<body>
<nav><a href="#main">Skip to the recommendations</a></nav>
<main id="main">
{body}</main>
<footer>Rendered from the Markdown document of version {version}.</footer>
</body>
</html>
"""


def to_html(markdown: str, title: str, version: str) -> str:
    """Return the guideline as one HTML page."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return _PAGE.format(title=html.escape(title), body=body, version=html.escape(version))


def _paragraphs(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """Yield tag (`h1` to `h6`, `p`, `li`) and text of each block of a Markdown document.

    Raises:
        PackError: it holds something else, which would be lost.
    """
    items = 0
    tag = "p"
    for token in tokens:
        if token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        elif token.type in ("heading_open", "paragraph_open"):
            tag = token.tag if token.type == "heading_open" else "li" if items else "p"
        elif token.type == "inline":
            # A wrapped line goes on; the PDF wraps by its own width.
            children = token.children or []
            yield tag, "".join(" " if c.type in ("softbreak", "hardbreak") else c.content for c in children)
        elif not token.type.startswith(("bullet_list", "ordered_list", "heading_close", "paragraph_close")):
            raise PackError(f"{token.type}: only headings, paragraphs and lists are rendered as PDF")


def to_pdf(markdown: str, title: str, valid_from: date | None) -> bytes:
    """Return the guideline as a PDF of A4 pages, with a running header and page numbers, dated when it became valid.

    Raises:
        PackError: fpdf2 is not installed, or the document holds what is not rendered (code, letters beyond Latin-1).
    """
    try:
        from fpdf import FPDF
        from fpdf.errors import FPDFUnicodeEncodingException
    except ModuleNotFoundError as error:
        raise PackError("rendering a PDF needs fpdf2: pip install 'guardline[dev]'") from error

    class Paper(FPDF):
        """Pages with what real guidelines have around their text."""

        def header(self) -> None:
            self.set_font("Helvetica", "I", 8)
            self.cell(0, 8, title, align="R", new_x="LMARGIN", new_y="NEXT")

        def footer(self) -> None:
            self.set_y(-15)
            self.set_font("Helvetica", "", 8)
            self.cell(0, 8, f"Page {self.page_no()} of {{nb}}", align="C")

    paper = Paper(format="A4")
    day = valid_from or date(2000, 1, 1)
    paper.set_creation_date(datetime(day.year, day.month, day.day, tzinfo=UTC))
    paper.set_producer("guardline")
    paper.set_title(title)
    paper.set_margin(25)
    paper.set_auto_page_break(auto=True, margin=20)
    paper.add_page()
    for tag, text in _paragraphs(MarkdownIt("commonmark", {"html": False}).parse(markdown)):
        heading = tag.startswith("h")
        size = _SIZES.get(tag, _BODY)
        paper.set_font("Times", "B" if heading else "", size)
        if heading and paper.will_page_break(0.36 * size * 4):
            paper.add_page()
            paper.set_font("Times", "B", size)
        content = f"- {text}" if tag == "li" else text
        try:
            paper.multi_cell(0, 0.48 * size, content, align="L" if heading else "J", new_x="LMARGIN", new_y="NEXT")
        except FPDFUnicodeEncodingException as error:
            raise PackError(f"{content[:40]}...: {error}: write it in Latin-1 letters") from error
        paper.ln(1.5 if heading or tag == "li" else 3)
    return bytes(paper.output())


@click.command()
@click.option(
    "--pack",
    "pack_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DEFAULT_PACK,
    help="Guideline pack whose first source is Markdown.  [default: remdesivir for COVID-19]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the .html and .pdf file.  [default: beside the Markdown]",
)
def command(pack_: Path, output: Path | None) -> None:
    """Render a pack's Markdown guideline as HTML and PDF."""
    pack = Pack.load(pack_)
    source = pack.spec.sources[0]
    path = pack.resolve(source.name)
    if path.suffix != ".md":
        raise PackError(f"{pack_}: its first source is not Markdown: {source.name}")
    folder = output or path.parent
    markdown = path.read_text(encoding="utf-8")
    pdf = to_pdf(markdown, pack.spec.title, source.valid_from)
    write_text(folder / f"{path.stem}.html", to_html(markdown, pack.spec.title, source.version))
    (folder / f"{path.stem}.pdf").write_bytes(pdf)
    click.echo(f"{folder / path.stem}.html\n{folder / path.stem}.pdf")


if __name__ == "__main__":
    command()
