"""From pack to recommendations: the shipped pack in full, and what is said of each mistake in a pack."""

import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainer.artifacts import RunFolder, read_json_lines, read_rows
from trainer.errors import PackError
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract, read_sources, run, scope_terms
from trainer.types import Recommendation

SHIPPED = DEFAULT_PACK.parent


@pytest.fixture
def pack(tmp_path: Path, make_pack: Callable[[Path], Path]) -> Path:
    return make_pack(tmp_path / "pack")


def curate(pack: Path, *rows: dict) -> Path:
    file = pack.parent / "recommendations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def edit(pack: Path, old: str, new: str) -> None:
    text = pack.read_text()
    assert old in text
    pack.write_text(text.replace(old, new))


def refusal(pack: Path) -> str:
    with pytest.raises(PackError) as caught:
        extract(Pack.load(pack))
    return str(caught.value)


# The pack that is shipped


def test_shipped_pack_gives_its_fifty_recommendations() -> None:
    rows = list(read_json_lines(SHIPPED / "covid19-remdesivir.recommendations.jsonl"))
    found = extract(Pack.load(DEFAULT_PACK))
    assert len(found) == 50
    assert [(r.id, r.section, r.text) for r in found] == [(r["id"], r["section"], r["text"]) for r in rows]


def test_shipped_quotes_stand_in_the_document_and_in_their_section() -> None:
    ((_, read),) = read_sources(Pack.load(DEFAULT_PACK))
    document = read.text
    by_number = {s.number: s for s in read.sections}
    for r in extract(Pack.load(DEFAULT_PACK)):
        assert r.quote, r.id
        assert document[r.start : r.end] == r.quote, r.id
        section = by_number[r.section]
        assert section.start <= r.start < r.end <= section.end, r.id
        assert r.heading == section.title
        assert (r.source, r.version) == ("covid19-remdesivir.md", "2024-02-29")


def test_shipped_pack_has_a_corpus_and_its_own_scope_terms() -> None:
    pack = Pack.load(DEFAULT_PACK)
    assert (pack.corpus / "llm_style_a.jsonl").is_file()
    terms = scope_terms(pack, extract(pack))
    assert terms[:2] == ["covid-19", "remdesivir"]
    assert {"veklury", "breastfe*", "mg/kg"} <= set(terms)
    assert len(terms) == len(set(terms))
    assert terms == [t.lower() for t in terms]


def test_run_writes_the_recommendations(tmp_path: Path, pack: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    own = Pack.load(pack)
    said = run(own, folder)
    assert said == {"recommendations": 3, "sections": 3, "precision of rules": 1.0, "recall of rules": 1.0}
    assert read_rows(folder.recommendations, Recommendation) == extract(own)


def test_run_measures_what_rules_extract_against_the_reference_and_reports_it(tmp_path: Path, pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl", "reference: recommendations.jsonl")
    curate(
        pack,
        {"id": "dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."},
        {"id": "unsaid", "section": "2", "text": "Children receive zolamide for 9 days."},
    )
    folder = RunFolder(tmp_path / "run")
    assert run(Pack.load(pack), folder) == {
        "recommendations": 3, "sections": 3, "precision of rules": 0.333, "recall of rules": 0.5,
    }  # fmt: skip
    report = json.loads((folder.root / "extraction.json").read_text())
    assert (report["extracted_by"], report["score"]["missed"]) == ("rules", ["unsaid"])
    assert len(report["score"]["spurious"]) == 2
    assert list(read_rows(folder.root / "rejected_recommendations.jsonl", Recommendation)) == []


def test_a_curated_recommendation_has_what_its_text_states(pack: Path) -> None:
    dose, duration, pregnancy = extract(Pack.load(pack))
    assert [(q.value, q.unit) for q in dose.numbers] == [(20, "mg"), (1, "per day")]
    assert (duration.population, duration.action) == ("Adults", "receive zolamide for 5 days")
    assert pregnancy.numbers == ()
    assert {r.valid_from for r in (dose, duration, pregnancy)} == {"2026-01-01"}


def test_shipped_pack_has_questions_brand_names_and_voices_held_out() -> None:
    spec = Pack.load(DEFAULT_PACK).spec
    assert (spec.brand_names, spec.held_out_styles) == (["Veklury"], ["g", "l"])
    assert len(spec.questions) >= 10
    assert all(q.endswith("?") for q in spec.questions)


@pytest.mark.parametrize("kind", ["rules", "html", "pdf"])
def test_shipped_packs_without_a_list_are_measured_against_it(kind: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    said = run(Pack.load(SHIPPED / f"covid19-remdesivir-{kind}.yaml"), folder)
    assert said["recall of rules"] >= 0.95
    assert said["precision of rules"] >= 0.95
    pages = {r.page for r in read_rows(folder.recommendations, Recommendation)}
    assert pages == ({1, 2, 3} if kind == "pdf" else {None})


# A curated list that its document does not bear out


def test_a_number_that_the_section_lacks_is_refused(pack: Path) -> None:
    file = curate(pack, {"id": "1-dose", "section": "1", "text": "The dose of zolamide is 40 mg once daily."})
    message = refusal(pack)
    assert str(file) in message
    assert "1-dose: section 1 does not say 40" in message


def test_a_section_that_is_not_there_is_refused(pack: Path) -> None:
    file = curate(pack, {"id": "9-x", "section": "9", "text": "The dose of zolamide is 20 mg once daily."})
    message = refusal(pack)
    assert str(file) in message
    assert "9-x: guideline.md has no section 9" in message


def test_a_text_that_the_section_does_not_support_is_refused(pack: Path) -> None:
    file = curate(pack, {"id": "2-x", "section": "2", "text": "Inhaled budesonide helps children with croup."})
    message = refusal(pack)
    assert str(file) in message
    assert "2-x: section 2 does not support it" in message


def test_an_id_that_occurs_twice_is_refused(pack: Path) -> None:
    row = {"id": "1-dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."}
    file = curate(pack, row, row)
    assert refusal(pack) == f"{file}: 1-dose: two recommendations have the same id"


@pytest.mark.parametrize("field", ["id", "section", "text"])
def test_a_field_that_is_missing_is_named(pack: Path, field: str) -> None:
    row = {"id": "1-dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."}
    del row[field]
    file = curate(pack, row)
    message = refusal(pack)
    assert str(file) in message
    assert f"'{field}'" in message


def test_the_quote_takes_the_sentence_that_says_it(pack: Path) -> None:
    document = pack.parent / "guideline.md"
    body = "Mumbles is common. The dose of zolamide is 20 mg once daily. Ask about allergies."
    document.write_text(f"## 1. Dose\n{body}\n")
    curate(pack, {"id": "1-dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."})
    (found,) = extract(Pack.load(pack))
    assert found.quote == "The dose of zolamide is 20 mg once daily."


# A pack that is wrong in itself


def test_a_pack_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"nowhere\.yaml: cannot be read"):
        Pack.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("content", ["id: [unclosed", "\tid: x", "id: \xff", "id: 2026-02-30"])
def test_a_pack_that_is_not_yaml(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pack.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(PackError) as caught:
        Pack.load(path)
    assert str(caught.value).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize(
    ("old", "new", "item"),
    [
        ("treatment: zolamide", "treatmnt: zolamide", "treatment: Field required"),
        ("treatment: zolamide", "treatment: zolamide\ncolour: red", "colour: "),
        ('    version: "2026-01"', '    version: "2026-01"\n    author: B', "sources.0.author: "),
        ("valid_from: 2026-01-01", "valid_from: last year", "sources.0.valid_from: "),
        ('version: "2026-01"', "version: 2026", "sources.0.version: Input should be a valid string: put it in quotes"),
        ("path: guideline.md", 'path: ""', "sources.0.path: "),
        ("id: mumbles-zolamide", "id: Mumbles Zolamide", "id: "),
        ("synonyms: [zolamide, ZLM]", "synonyms: []", "synonyms: "),
        ("condition: mumbles", "condition: [mumbles]", "condition: "),
    ],
)
def test_a_field_that_is_wrong_is_named(pack: Path, old: str, new: str, item: str) -> None:
    edit(pack, old, new)
    with pytest.raises(PackError) as caught:
        Pack.load(pack)
    assert str(caught.value).startswith(f"{pack}: {item}")


@pytest.mark.parametrize("content", ["", "- id\n", "id"])
def test_a_pack_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pack.yaml"
    path.write_text(content)
    with pytest.raises(PackError, match=r"pack\.yaml: is no guideline pack: write"):
        Pack.load(path)


@pytest.mark.parametrize("file", ["guideline.md", "recommendations.jsonl"])
def test_a_file_that_is_missing_is_named(pack: Path, file: str) -> None:
    (pack.parent / file).unlink()
    assert refusal(pack) == f"{pack}: {file}: no such file or folder: its place is relative to the pack"
    with pytest.raises(PackError, match=file):
        Pack.load(pack).fingerprint()


def test_a_corpus_that_is_missing_is_named(pack: Path) -> None:
    edit(pack, "corpus: corpus", "corpus: elsewhere")
    with pytest.raises(PackError, match=r"pack\.yaml: elsewhere: no such file or folder"):
        _ = Pack.load(pack).corpus
    edit(pack, "corpus: elsewhere\n", "")
    with pytest.raises(PackError, match=r"pack\.yaml: `corpus` is missing"):
        _ = Pack.load(pack).corpus


def test_a_kind_of_document_that_is_not_read_is_named(pack: Path) -> None:
    (pack.parent / "guideline.docx").write_bytes(b"PK")
    edit(pack, "path: guideline.md", "path: guideline.docx")
    message = refusal(pack)
    assert str(pack.parent / "guideline.docx") in message
    assert ".docx" in message


@pytest.mark.parametrize(("line", "says"), [('{"id": "1-dose",', "not JSON"), ("[]", "expected a JSON object")])
def test_a_curated_line_that_is_no_object_is_refused(pack: Path, line: str, says: str) -> None:
    (pack.parent / "recommendations.jsonl").write_text(f"{line}\n")
    message = refusal(pack)
    assert "recommendations.jsonl:1: " in message
    assert says in message


@pytest.mark.parametrize(("field", "value"), [("section", ["1"]), ("section", 1), ("text", None), ("text", 20)])
def test_a_curated_field_that_is_no_string_is_refused(pack: Path, field: str, value: object) -> None:
    row = {"id": "1-dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."}
    file = curate(pack, row | {field: value})
    assert refusal(pack) == f"{file}: 1-dose: {field} is not a string"


@pytest.mark.parametrize("value", [7, ["1-dose"], None])
def test_a_curated_id_that_is_no_string_is_refused(pack: Path, value: object) -> None:
    file = curate(pack, {"id": value, "section": "1", "text": "The dose of zolamide is 20 mg once daily."})
    assert refusal(pack) == f"{file}: {value}: id is not a string"


def test_an_empty_list_is_refused(pack: Path) -> None:
    curate(pack)
    assert refusal(pack).startswith(f"{pack}: no recommendation was found: look at the sources' text, or give")


def test_a_list_that_is_a_folder_is_refused(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl", "recommendations: corpus")
    assert refusal(pack) == f"{pack.parent / 'corpus'}: cannot be read: Is a directory: name a file of JSON lines"


def test_a_document_that_is_named_twice_is_refused(pack: Path) -> None:
    edit(pack, "sources:\n", "sources:\n  - {path: guideline.md, title: Again, version: '2'}\n")
    assert refusal(pack) == f"{pack}: sources: guideline.md is named twice: leave one out"


def test_a_document_that_is_no_utf8_is_refused(pack: Path) -> None:
    (pack.parent / "guideline.md").write_bytes("## 1. Dose\nGive 20 µg.".encode("latin-1"))
    assert f"{pack.parent / 'guideline.md'}: cannot be read: " in refusal(pack)


def test_a_folder_without_documents_is_refused(pack: Path) -> None:
    (pack.parent / "guideline.md").unlink()
    (pack.parent / "guideline.md").mkdir()
    assert "guideline.md: holds no document" in refusal(pack)


def test_a_folder_gives_all_its_documents(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    edit(pack, "path: guideline.md", "path: parts")
    (pack.parent / "parts" / "deep").mkdir(parents=True)
    (pack.parent / "parts" / "dose.md").write_text("## 1. Dose\nThe dose is 20 mg.\n")
    (pack.parent / "parts" / "deep" / "stop.html").write_text(
        "<html><h2>2 Stop</h2><p>Stop early if it hurts.</p></html>"
    )
    own = Pack.load(pack)
    found = extract(own)
    assert [(r.source, r.id, r.version) for r in found] == [
        ("parts/deep/stop.html", "stop-2-stop-early-hurts", "2026-01"),
        ("parts/dose.md", "dose-1-dose", "2026-01"),
    ]
    documents = {document.name: document for _, document in read_sources(own)}
    assert all(documents[r.source].text[r.start : r.end] == r.quote for r in found)


def test_a_source_of_the_web_is_kept_in_the_run_folder(pack: Path, tmp_path: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    served = partial(SimpleHTTPRequestHandler, directory=str(pack.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/guideline.md"
        edit(pack, "path: guideline.md", f"url: {url}")
        folder = RunFolder(tmp_path / "run")
        said = run(Pack.load(pack), folder)
        server.shutdown()
        thread.join()
    assert said["recommendations"] == 3
    assert {r.source for r in read_rows(folder.recommendations, Recommendation)} == {url}
    assert run(Pack.load(pack), folder) == said  # the server is gone
    with pytest.raises(PackError, match="cannot be fetched"):
        extract(Pack.load(pack))


def test_a_source_has_either_path_or_url(pack: Path) -> None:
    edit(pack, "path: guideline.md", "path: guideline.md\n    url: https://example.org/g.html")
    with pytest.raises(PackError, match="give either `path` or `url`"):
        Pack.load(pack)
    edit(pack, "path: guideline.md\n    url: https://example.org/g.html", "url: file:///etc/passwd")
    with pytest.raises(PackError, match=r"sources\.0\.url"):
        Pack.load(pack)


# Fingerprint


def test_the_fingerprint_sees_pack_document_and_list_but_not_the_corpus(pack: Path) -> None:
    prints = {Pack.load(pack).fingerprint()}
    (pack.parent / "corpus" / "llm_style_a.jsonl").write_text("")
    assert Pack.load(pack).fingerprint() in prints
    for name in ("pack.yaml", "guideline.md", "recommendations.jsonl"):
        path = pack.parent / name
        path.write_text(path.read_text() + "\n")
        prints.add(Pack.load(pack).fingerprint())
    assert len(prints) == 4


# Without a curated list


def test_without_a_list_the_sentences_that_direct_become_recommendations(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    document = "# Zolamide\nMumbles is common.\n\n## 4.2 Dose\nThe dose is\n20 mg. It is blue. Avoid cold **milk**.\n"
    (pack.parent / "guideline.md").write_text(document)
    found = extract(Pack.load(pack))
    assert [(r.id, r.section, r.heading, r.text) for r in found] == [
        ("4.2-dose", "4.2", "Dose", "The dose is 20 mg."),
        ("4.2-avoid-cold-milk", "4.2", "Dose", "Avoid cold milk."),
    ]
    assert all(document[r.start : r.end] == r.quote for r in found)


def test_a_document_that_directs_nothing_is_refused(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    (pack.parent / "guideline.md").write_text("# Mumbles\nMumbles is common.\n")
    assert refusal(pack).startswith(f"{pack}: no recommendation was found: ")


TWO_SOURCES = """sources:
  - path: second.md
    title: "Second"
    version: "2"
"""


def test_two_documents_without_a_list(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    edit(pack, "sources:\n", TWO_SOURCES)
    (pack.parent / "second.md").write_text("## 1. Route\nZolamide should be given by mouth.\n")
    found = extract(Pack.load(pack))
    assert [(r.id, r.source, r.version) for r in found] == [
        ("second-1-mouth", "second.md", "2"),
        ("guideline-1-dose-daily", "guideline.md", "2026-01"),
        ("guideline-2-days", "guideline.md", "2026-01"),
        ("guideline-3-withheld-pregnancy", "guideline.md", "2026-01"),
    ]
    for r in found:
        assert (pack.parent / r.source).read_text()[r.start : r.end] == r.quote


def test_two_documents_with_a_list(pack: Path) -> None:
    edit(pack, "sources:\n", TWO_SOURCES)
    (pack.parent / "second.md").write_text("## 7. Route\nZolamide should be given by mouth.\n")
    found = extract(Pack.load(pack))
    assert [(r.id, r.source) for r in found] == [
        ("1-dose", "guideline.md"), ("2-duration", "guideline.md"), ("3-pregnancy", "guideline.md"),
    ]  # fmt: skip


def test_of_two_documents_with_the_same_section_the_one_that_says_it_is_quoted(pack: Path) -> None:
    edit(pack, "sources:\n", TWO_SOURCES)
    second = "## 1. Route\nZolamide should be given by mouth, 3 times.\n"
    (pack.parent / "second.md").write_text(second)
    curate(
        pack,
        {"id": "route", "section": "1", "text": "Zolamide should be given by mouth."},
        {"id": "dose", "section": "1", "text": "The dose of zolamide is 20 mg once daily."},
    )
    route, dose = extract(Pack.load(pack))
    assert (route.source, route.version, route.heading) == ("second.md", "2", "Route")
    assert second[route.start : route.end] == route.quote
    assert (dose.source, dose.version, dose.heading) == ("guideline.md", "2026-01", "Dose")


def test_a_section_that_no_document_has_is_refused_with_all_their_names(pack: Path) -> None:
    edit(pack, "sources:\n", TWO_SOURCES)
    (pack.parent / "second.md").write_text("## 7. Route\nZolamide should be given by mouth.\n")
    file = curate(pack, {"id": "9-x", "section": "9", "text": "The dose of zolamide is 20 mg once daily."})
    assert refusal(pack) == f"{file}: 9-x: second.md, guideline.md has no section 9"


def test_headings_with_and_without_numbers(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    text = "# Zolamide\n## Summary\nStart as early as possible.\n## 1. Dose\nThe dose is 20 mg.\n"
    (pack.parent / "guideline.md").write_text(text)
    found = extract(Pack.load(pack))
    assert [(r.id, r.section, r.text) for r in found] == [
        ("h1-start-early-possible", "h1", "Start as early as possible."), ("1-dose", "1", "The dose is 20 mg."),
    ]  # fmt: skip


def test_a_curated_row_may_name_a_heading_without_a_number(pack: Path) -> None:
    (pack.parent / "guideline.md").write_text("# Zolamide\n## Dose\nThe dose of zolamide is 20 mg once daily.\n")
    curate(pack, {"id": "dose", "section": "h1", "text": "The dose of zolamide is 20 mg once daily."})
    (found,) = extract(Pack.load(pack))
    assert (found.section, found.heading) == ("h1", "Dose")


def test_rules_of_two_sections_with_one_number_have_ids_of_their_own(pack: Path) -> None:
    edit(pack, "recommendations: recommendations.jsonl\n", "")
    (pack.parent / "guideline.md").write_text("## 1. Dose\nThe dose is 20 mg.\n## 1. Again\nThe dose is 30 mg.\n")
    assert [r.id for r in extract(Pack.load(pack))] == ["1-dose", "1-dose-2"]


# Scope terms


def test_scope_terms_fall_back_on_the_long_words_of_the_recommendations(pack: Path) -> None:
    own = Pack.load(pack)
    terms = scope_terms(own, extract(own))
    assert terms == ["mumbles", "zolamide", "zlm", "adults", "pregnancy", "receive", "withheld"]


def test_scope_terms_of_the_pack_win(pack: Path) -> None:
    edit(pack, "corpus: corpus", "corpus: corpus\nscope_terms: [Dose*, ZLM]")
    own = Pack.load(pack)
    assert scope_terms(own, extract(own)) == ["mumbles", "zolamide", "zlm", "dose*"]
