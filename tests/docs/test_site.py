"""The site builds strictly, and asks nothing of other people's servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.console.browser import browsing

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'guardline[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return path


def test_every_page_is_there_and_no_source(site: Path) -> None:
    pages = {p.relative_to(ROOT / "docs").with_suffix(".html") for p in (ROOT / "docs").rglob("*.md")}
    assert pages <= {p.relative_to(site) for p in site.rglob("*.html")}
    assert not list(site.rglob("*.py"))


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|link(?![^>]*rel="?canonical))[^>]*(?:src|href)="?(https?:)?//[^>]*""")
    found = {m[0] for page in site.rglob("*.html") for m in loads.finditer(page.read_text(encoding="utf-8"))}
    assert found == set()


def test_the_search_finds_a_setting_in_a_browser(site: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browsing(f"http://127.0.0.1:{server.server_port}", tmp_path / "profile") as browser:
            browser.open("/index.html")
            browser.find(".md-search__input").send_keys("GUARDLINE_KAFKA_BOOTSTRAP")
            browser.find('a.md-search-result__link[href*="settings.html"]')
            assert browser.complaints() == []
    finally:
        server.shutdown()
        server.server_close()
