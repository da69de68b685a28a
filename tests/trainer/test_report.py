"""The HTML page and the tables of the terminal, from measured rows and from made-up ones."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from rich.console import Console

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder
from trainer.evaluation.measures import METRICS, Judged
from trainer.evaluation.models import CONTRASTIVE, FROZEN, FROZEN_BINARY, TESTS, VOICES
from trainer.evaluation.report import (
    comparison,
    difficulties,
    interval,
    load_styles,
    mistakes,
    reviewed,
    shares,
    side_by_side,
    summary,
    write_report,
)
from trainer.evaluation.stage import Measured, load_judged, load_metrics
from trainer.types import Difficulty, Example, Label, Metric, Split

MODELS = [FROZEN_BINARY, FROZEN, CONTRASTIVE]
MINUS = f"{CONTRASTIVE} minus {FROZEN}"


def row(
    model: str = CONTRASTIVE, split: str = "test_ood", stratum: str = "all", metric: str = "AUC", value: float = 0.75,
    suite: str = "statements",
) -> Metric:  # fmt: skip
    return Metric(suite, model, split, stratum, metric, value, value - 0.05, value + 0.1, 40)


def judged(i: int, label: Label, p: float, text: str = "Text.", named: str = "1-dose", meant: str = "1-dose") -> Judged:
    own = Difficulty.HARD if label is Label.UNSAFE else None
    example = Example(f"e-{i}", text, label, meant, "dose", own, f"f{i}", "g")
    return Judged(example, Split.TEST_OOD, dict.fromkeys(MODELS, p), named)


@pytest.fixture(autouse=True)
def _no_figure_is_left_open() -> Iterator[None]:
    yield
    assert plt.get_fignums() == []


@pytest.fixture
def folder(tmp_path: Path, toy_run: SimpleNamespace) -> RunFolder:
    """A run that has a package and no evaluation."""
    root = Path(shutil.copytree(toy_run.folder.root, tmp_path / "run"))
    shutil.rmtree(root / "evaluation")
    return RunFolder(root)


def measured(*rows: Metric, statements: list[Judged] | None = None) -> Measured:
    return Measured(list(rows), [], statements or [], {})


def page_of(folder: RunFolder, found: Measured) -> str:
    return write_report(folder, found).read_text(encoding="utf-8")


def words(page: str) -> str:
    """Return what a reader sees, white space single."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.fixture(scope="module")
def page(toy_run: SimpleNamespace) -> str:
    return (toy_run.folder.evaluation / "report.html").read_text(encoding="utf-8")


# The page


class Balance(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def test_the_report_is_one_file_that_needs_nothing_else(page: str) -> None:
    assert not re.search(r"https?:|<script|<link|@import|<iframe|\bsrc=", page)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    targets = re.findall(r' id="([^"]+)"', page)
    assert set(re.findall(r'<a href="#([^"]+)"', page)) <= set(targets)
    sections = [t for t in targets if re.fullmatch(r"s\d+|errors|method", t)]
    assert len(sections) == len(set(sections))


def test_the_report_of_a_run_has_all_that_was_measured(toy_run: SimpleNamespace, page: str) -> None:
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    for title in (
        "Frozen against contrastive", "By difficulty of the unsafe statement", "ROC, precision and recall, reliability",
        "Embeddings before and after", "Twins", "By category", "By recommendation", "By style",
        "Learning curve over the corpus", "At the package&#39;s thresholds: statements, out of scope, whole answers",
        "Worst errors", "Method",
    ):  # fmt: skip
        assert title in titles
    text = words(page)
    assert "Zolamide for mumbles" in text
    assert "version 2026-01, 3 recommendations" in text
    for r in load_metrics(toy_run.folder):
        plain = r.suite in ("statements", "twins", "learning curve") and ":" not in r.stratum
        if plain or r.suite in ("policy", "alignment", "out of scope", "messages"):
            assert interval(r) in text, r
    # Bars, curves, maps, strata, learning curves.
    assert page.count('<svg role="img" aria-label=') == 4 + 3 + 2 + 3 + 4


def test_tables_have_captions_and_whole_rows(page: str) -> None:
    tables = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    assert tables
    for table in tables:
        assert re.search(r"<caption><span>[^<]+</span></caption>", table)
        counts = {len(re.findall(r"<t[hd]\b", line)) for line in re.findall(r"<tr.*?</tr>", table)}
        assert len(counts) == 1, table


def test_the_report_names_the_package_it_is_about(folder: RunFolder) -> None:
    page = page_of(folder, measured(row()))
    manifest = ModelPackage.load(folder.package).manifest
    assert f"<title>Evaluation of {manifest.name} {manifest.version}</title>" in page
    assert f"unsafe from {manifest.thresholds.unsafe}, review from {manifest.thresholds.review}" in words(page)


def test_the_report_says_where_it_is_and_comes_with_a_model_card(folder: RunFolder) -> None:
    (folder.package / "MODEL_CARD.md").unlink()
    assert write_report(folder, measured(row())) == folder.evaluation / "report.html"
    assert [p.name for p in folder.evaluation.iterdir()] == ["report.html"]
    assert (folder.package / "MODEL_CARD.md").is_file()


def test_sections_without_anything_are_left_out(folder: RunFolder) -> None:
    page = page_of(folder, measured(row()))
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == ["Frozen against contrastive", "By difficulty of the unsafe statement", "Worst errors", "Method"]
    nothing = page_of(folder, measured())
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", nothing) == ["Worst errors", "Method"]
    assert nothing.rstrip().endswith("</html>")


@pytest.mark.parametrize("label", [Label.SAFE, Label.UNSAFE])
def test_held_out_voices_of_one_class_have_no_curves(folder: RunFolder, label: Label) -> None:
    page = page_of(folder, measured(row(), statements=[judged(i, label, 0.4) for i in range(3)]))
    assert "ROC" not in words(page)


def test_rows_of_a_suite_that_nobody_knows_are_shown(folder: RunFolder) -> None:
    page = words(page_of(folder, measured(row(suite="perturbation", stratum="negation", metric="flipped", value=0.3),
                                          row(suite="new suite", stratum="s", metric="m", value=0.4))))  # fmt: skip
    assert "Perturbations" in page
    assert "flipped negation 0.300 (0.25 to 0.40) 40" in page
    assert "New suite" in page
    assert "m s 0.400 (0.35 to 0.50) 40" in page


def test_the_report_escapes_what_packs_and_statements_say(folder: RunFolder) -> None:
    bad = '<script>alert("1")</script>'
    manifest = ModelPackage.load(folder.package).manifest
    guideline = manifest.guideline.model_copy(update={"title": bad})
    text = manifest.model_copy(update={"guideline": guideline}).model_dump_json()
    (folder.package / "manifest.json").write_text(text)
    statements = [judged(0, Label.SAFE, 0.9, bad), judged(1, Label.UNSAFE, 0.9, meant=bad, named=bad)]
    found = Measured([row(model=bad), row(stratum=f"category: {bad}")], [], statements, {})
    page = page_of(folder, found)
    assert "<script" not in page
    assert escape(bad).replace("&quot;", "&#34;") in page


# The summary


def test_the_summary_says_what_the_rows_say() -> None:
    rows = [
        row(metric="F1", value=0.7), row(metric="AUC", value=0.8),
        row(FROZEN, metric="F1", value=0.5), row(FROZEN, metric="AUC", value=0.6),
        row(MINUS, suite="difference", metric="F1", value=0.2),
        row(suite="twins", metric="both right", value=0.4),
        row(stratum="easy", value=0.9), row(stratum="hard", value=0.6),
        row(stratum="category: a", value=0.5), row(stratum="category: b", value=0.4),
        row(stratum="category: c", value=0.7), row(stratum="category: d", value=0.6),
    ]  # fmt: skip
    first, twins, difficulty, category = summary(rows)
    assert "F1 of 0.700 (0.65 to 0.80) and an AUC of 0.800" in first
    assert "reaches 0.500 (0.45 to 0.60) and 0.600" in first
    assert "difference in F1 is +0.200 (+0.15 to +0.30), an improvement." in first
    assert "Of 40 pairs" in twins
    assert "40% (35% to 50%)" in twins
    assert "hard variants apart worst, with an AUC of 0.600" in difficulty
    assert "easy ones best" in difficulty
    assert "b (0.40), a (0.50), d (0.60)" in category


@pytest.mark.parametrize(
    ("value", "says"),
    [(0.2, "an improvement"), (-0.2, "a loss"), (0.0, "no difference is shown"), (0.04, "no difference is shown")],
)
def test_the_summary_claims_no_more_than_the_interval(value: float, says: str) -> None:
    rows = [row(metric="F1"), row(metric="AUC"), row(MINUS, suite="difference", metric="F1", value=value)]
    assert says in summary(rows)[0]


def test_the_summary_of_nothing_is_empty() -> None:
    assert summary([]) == []
    assert summary([row(FROZEN), row(split="test_id", metric="F1")]) == []


# Wrong verdicts


def test_the_most_confident_mistakes_come_first(toy_run: SimpleNamespace) -> None:
    manifest = ModelPackage.load(toy_run.folder.package).manifest
    statements = [
        judged(0, Label.UNSAFE, 0.4), judged(1, Label.UNSAFE, 0.01, named="2-duration"), judged(2, Label.UNSAFE, 0.5),
        judged(3, Label.SAFE, 0.5), judged(4, Label.SAFE, 0.99), judged(5, Label.SAFE, 0.3),
    ]  # fmt: skip
    missed = mistakes(statements, manifest, Label.UNSAFE)
    assert [(m.example.id, m.score, m.aligned) for m in missed] == [("e-1", 0.01, False), ("e-0", 0.4, True)]
    assert (missed[0].named_text, missed[0].meant_text) == (
        "Adults receive zolamide for 5 days.",
        "The dose of zolamide is 20 mg once daily.",
    )
    assert [m.example.id for m in mistakes(statements, manifest, Label.SAFE)] == ["e-4", "e-3"]
    assert [m.example.id for m in mistakes(statements, manifest, Label.SAFE, n=1)] == ["e-4"]


def test_a_mistake_is_shown_with_what_was_cited_and_what_was_meant(folder: RunFolder) -> None:
    statements = [judged(0, Label.UNSAFE, 0.01, "Wrong.", named="2-duration"), judged(1, Label.SAFE, 0.9, "Right.")]
    page = words(page_of(folder, measured(statements=statements)))
    assert "Wrong. unsafe, hard, dose; style g, voices never heard; e-0 Probability of unsafe: 0.01" in page
    assert "Cites 2-duration , another one : Adults receive" in page
    assert "Meant was 1-dose : The dose of zolamide" in page
    assert "Cites 1-dose , the right one : The dose of zolamide" in page


# Leave one style out

STYLES = {"a", "b"}


def style(name: str, method: str = "frozen", **others: object) -> dict[str, object]:
    return {"method": method, "style": name, "n": 9, "F1": 0.5, "F1 low": 0.4, "F1 high": 0.6, "AUC": 0.7, **others}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the benchmark left in the folder that the command is called in."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "build" / "results" / "leave_one_style_out.json"
    file.parent.mkdir(parents=True)
    rows = [style("a"), style("b", "supcon", head="hyperplane"), style("all")]
    file.write_text(json.dumps({"name": "x", "commit": "abc", "rows": rows}))
    return file


def test_the_benchmarks_styles_are_taken_where_they_are_this_corpus(bench: Path, folder: RunFolder) -> None:
    rows, source = load_styles(folder, STYLES)
    assert [(r.model, r.stratum, r.metric, r.value, r.low, r.high, r.n) for r in rows] == [
        ("frozen", "style: a", "F1", 0.5, 0.4, 0.6, 9),  # AUC has no interval here
        ("supcon (hyperplane)", "style: b", "F1", 0.5, 0.4, 0.6, 9),
        ("frozen", "style: all", "F1", 0.5, 0.4, 0.6, 9),
    ]
    assert "make bench-styles" in source
    assert "commit abc" in source
    assert "not figures of this package" in source
    assert load_styles(folder, {"a"}) == ([], "")


def test_the_runs_own_styles_come_first(bench: Path, folder: RunFolder) -> None:
    folder.evaluation.mkdir()
    (folder.evaluation / "styles.json").write_text(json.dumps([style("z")]))
    rows, source = load_styles(folder, STYLES)
    assert [r.stratum for r in rows] == ["style: z"]
    assert source.startswith("Figures of this run")


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"rows": [{"style": "a"}]}', '[{"method": "m", "style": "a", "F1 low": 1}]']
)
def test_styles_of_another_form_are_left_out_and_the_page_says_so(bench: Path, folder: RunFolder, content: str) -> None:
    bench.write_text(content)
    rows, source = load_styles(folder, STYLES)
    assert rows == []
    assert "leave_one_style_out.json is not of the form" in source
    page = words(page_of(folder, measured(row())))
    assert "Out of distribution by provider" in page
    assert "was left out" in page


def test_styles_are_shown_pooled_and_one_by_one(bench: Path, folder: RunFolder) -> None:
    page = words(page_of(folder, measured(row())))
    assert "Out of distribution by provider: leave one style out" in page
    assert "method F1 frozen 0.500 (0.40 to 0.60)" in page
    assert "a 0.500 (0.40 to 0.60)" in page


# The terminal


def render(*tables: object) -> str:
    console = Console(width=220, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_tables_show_every_model_side_by_side(toy_run: SimpleNamespace) -> None:
    rows = load_metrics(toy_run.folder)
    text = render(comparison(rows, Split.TEST_OOD), difficulties(rows, Split.TEST_OOD), shares(rows))
    for r in rows:
        overall = r.suite == "statements" and (r.split, r.stratum) == ("test_ood", "all")
        hard = r.suite in ("statements", "twins") and (r.split, r.stratum) == ("test_ood", "hard")
        if overall or r.suite in ("policy", "messages") or (hard and r.metric in ("AUC", "recall", "both right")):
            assert interval(r) in text, r
    assert text.index(FROZEN_BINARY) < text.index(CONTRASTIVE)


def test_a_comparison_has_a_line_for_every_metric_that_was_measured() -> None:
    rows = [row(value=0.7), row(FROZEN, metric="F1", value=0.4), row(split="test_id", value=0.1), row(suite="policy")]
    table = comparison(rows, Split.TEST_OOD)
    assert [list(c.cells) for c in table.columns] == [
        ["F1", "AUC"], ["", "0.700 (0.65 to 0.80)"], ["0.400 (0.35 to 0.50)", ""], ["", ""],
    ]  # fmt: skip
    assert comparison([], Split.TEST_OOD).row_count == 0
    assert list(METRICS).index("F1") < list(METRICS).index("AUC")


def test_runs_side_by_side() -> None:
    one = [row(FROZEN, value=0.5), row(value=0.6), row(suite="twins", metric="both right", value=0.3)]
    table = side_by_side({"x": one, "y": [row(value=0.7)], "z": [row(split="test_id")]}, Split.TEST_OOD)
    cells = [list(c.cells) for c in table.columns]
    assert cells[0] == ["x", "", "y"]
    assert cells[1] == [FROZEN, CONTRASTIVE, CONTRASTIVE]
    assert [c[:5] for c in cells[3]] == ["0.500", "0.600", "0.700"]
    assert [c[:5] for c in cells[-2]] == ["", "0.300", ""]


def test_reviewers_tables() -> None:
    rows = [row("ann, corpus", "all", metric="agreement", suite="reviews"), row(suite="reviewed", metric="F1")]
    text = render(*reviewed(rows))
    assert "ann, corpus" in text
    assert re.search(r"voices never heard +│ F1 +│ 0\.750 \(0\.70 to 0\.85\)", text)


def test_every_test_split_has_a_name_for_people() -> None:
    assert tuple(VOICES) == TESTS
    assert len(set(VOICES.values())) == len(VOICES)


def test_the_page_can_be_made_again_from_what_a_run_keeps(toy_run: SimpleNamespace, folder: RunFolder) -> None:
    found = Measured(load_metrics(toy_run.folder), [], load_judged(toy_run.folder), {})
    again = page_of(folder, found)
    assert "ROC" in again
    assert "Embeddings before and after" not in again  # the run keeps no embeddings
    assert not np.isnan(found.rows[0].value)
