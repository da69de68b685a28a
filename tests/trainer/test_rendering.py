"""The renderings that are shipped are those that the script makes of the Markdown today."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.errors import PackError
from trainer.guideline.documents import read
from trainer.guideline.guidelines import DEFAULT_PACK
from trainer.guideline.rendering import command, to_pdf

SHIPPED = DEFAULT_PACK.parent


def test_shipped_renderings_are_up_to_date(tmp_path: Path) -> None:
    ran = CliRunner().invoke(command, ["--output", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    made = {suffix: (tmp_path / f"covid19-remdesivir.{suffix}").read_bytes() for suffix in ("html", "pdf")}
    shipped = {suffix: (SHIPPED / f"covid19-remdesivir.{suffix}").read_bytes() for suffix in ("html", "pdf")}
    again = "run `python -m trainer.guideline.rendering` and commit what it writes"
    assert made["html"] == shipped["html"], again
    assert read("g", made["pdf"], ".pdf") == read("g", shipped["pdf"], ".pdf"), again


def test_a_pdf_is_the_same_to_the_byte_each_time_and_keeps_lists() -> None:
    text = "# Guide\n\n- first item\n- second item\n"
    assert to_pdf(text, "Guide", None) == to_pdf(text, "Guide", None)
    assert "- first item\n- second item" in read("g", to_pdf(text, "Title", None), ".pdf").text


def test_what_is_not_rendered_is_refused() -> None:
    with pytest.raises(PackError, match="write it in Latin-1 letters"):
        to_pdf("# Guide\n\nAge \u2265 12 years.\n", "Guide", None)
    with pytest.raises(PackError, match="code_block: only headings"):
        to_pdf("# Guide\n\n    code\n", "Guide", None)
