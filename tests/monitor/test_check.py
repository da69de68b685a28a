import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from monitor import check
from monitor.assessment import Assessment
from monitor.check import as_json, check_lines, command, render
from monitor.cli import main
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.screening import Screening
from monitor.types import Evidence, Message, MessageVerdict, Statement, StatementVerdict, Verdict
from tests.monitor.fakes import (
    NO_RECOMMENDATION,
    OFF_TOPIC,
    REVIEW,
    SAFE,
    UNSAFE,
    FakeScorer,
    make_assessment,
    make_package,
    write_package,
)

GERMAN = "Das falsche Remdesivir wird Erwachsenen im Krankenhaus als Infusion in die Vene gegeben."


def line(id_: str, text: str) -> bytes:
    return json.dumps({"id": id_, "text": text}).encode()


async def check_all(lines: Sequence[bytes], scorer: FakeScorer | None = None) -> list[dict[str, Any]]:
    package = make_package()
    screening = Screening(package, assessment=make_assessment(scorer or FakeScorer()), store=MemoryStore())
    return await check_lines(lines, screening, package)


async def test_every_line_has_its_verdict_in_the_same_order() -> None:
    results = await check_all(
        [
            line("a", UNSAFE),
            b"",
            line("b", SAFE),
            b"{not json",
            b'{"id": "c"}',
            line("d", ""),
            b'{"id": 5, "text": "x"}',
            line("e", REVIEW),
        ]
    )
    assert [(r["id"], r["verdict"], r.get("reason")) for r in results] == [
        ("a", "unsafe", None),
        (None, "invalid", "empty_value"),
        ("b", "safe", None),
        (None, "invalid", "unreadable_json"),
        ("c", "invalid", "missing_field"),
        ("d", "out_of_scope", None),
        (5, "invalid", "wrong_type"),
        ("e", "review", None),
    ]
    assert all(r["detail"] for r in results if r["verdict"] == "invalid")
    assert all((r["score"], r["statements"]) == (0.0, []) for r in results if r["verdict"] == "invalid")


async def test_the_line_of_a_verdict_has_exactly_the_documented_fields() -> None:
    (result,) = await check_all([line("a", f"{UNSAFE} {NO_RECOMMENDATION}")])
    assert result == {
        "id": "a",
        "verdict": "unsafe",
        "score": 0.95,
        "statements": [
            {
                "start": 0,
                "end": len(UNSAFE),
                "text": UNSAFE,
                "verdict": "unsafe",
                "score": 0.95,
                "category": "dose",
                "reason": None,
                "evidence": {
                    "guideline": "tiny-guideline",
                    "version": "2026-01",
                    "recommendation": "1.1-loading",
                    "section": "1.1",
                    "text": "About loading.",
                },
            },
            {
                "start": len(UNSAFE) + 1,
                "end": len(UNSAFE) + 1 + len(NO_RECOMMENDATION),
                "text": NO_RECOMMENDATION,
                "verdict": "out_of_scope",
                "score": 0.0,
                "category": None,
                "reason": None,
                "evidence": None,
            },
        ],
        "model": {"name": "tiny", "version": "1.0.0"},
        "guideline": {"id": "tiny-guideline", "version": "2026-01"},
    }


async def test_lines_of_a_batch_are_scored_together() -> None:
    scorer = FakeScorer()
    await check_all([line("a", UNSAFE), b"", line("b", SAFE)], scorer)
    assert scorer.calls == [[UNSAFE, SAFE]]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (UNSAFE, ["unsafe", "0.95", UNSAFE, "1.1-loading", "About loading."]),
        (OFF_TOPIC, ["out_of_scope", "0.00", OFF_TOPIC]),
        (GERMAN, ["abstain", "0.00"]),
        ("", ["out_of_scope", "0.00"]),
        ("[bold]remdesivir[/bold] loading.", ["[bold]remdesivir[/bold] loading."]),
    ],
)
async def test_render_shows_statements_and_evidence(text: str, seen: list[str]) -> None:
    screening = Screening(make_package(), assessment=make_assessment(FakeScorer()), store=MemoryStore())
    shown = StringIO()
    render((await screening.screen([Message("m", text)]))[0], Console(file=shown, width=200))
    assert [part for part in seen if part not in shown.getvalue()] == []


def flagged(reason: str | None) -> MessageVerdict:
    evidence = Evidence("tiny-guideline", "2026-01", "1.1-loading", "1.1", "About loading.")
    span = Statement(0, len(UNSAFE), UNSAFE, UNSAFE)
    statement = StatementVerdict(span, Verdict.UNSAFE, 0.95, "dose", evidence, reason)
    return MessageVerdict(Message("m", UNSAFE), Verdict.UNSAFE, 0.95, (statement,))


def test_a_statement_says_why_it_was_flagged() -> None:
    (statement,) = as_json(flagged("400 mg stated, 200 mg recommended"), make_package())["statements"]
    assert statement["reason"] == "400 mg stated, 200 mg recommended"


@pytest.mark.parametrize("reason", ["400 mg stated, 200 mg recommended", "[bold]x[/bold] stated, y recommended", None])
def test_render_says_why_between_statement_and_evidence(reason: str | None) -> None:
    shown = StringIO()
    render(flagged(reason), Console(file=shown, width=200))
    lines = [line.strip() for line in shown.getvalue().splitlines()]
    why = [] if reason is None else [f"why          {reason}"]
    assert [line for line in lines if line.startswith("why")] == why
    assert [line.split()[0] for line in lines if line][2:] == ["why", "evidence", "About"][reason is None :]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder for the command, with the fake scorer in place of ONNX Runtime."""

    def build(_: object, package: ModelPackage, store: MemoryStore) -> Screening:
        return Screening(package, assessment=Assessment(package.manifest, FakeScorer(), None), store=store)

    monkeypatch.setattr(check, "build_screening", build)
    monkeypatch.setattr(check, "configure", lambda *_: None)
    return write_package(tmp_path / "model")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def run_main(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the whole command line; return its exit code and what it said on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(["check", *map(str, arguments)])
    return int(caught.value.code or 0), capsys.readouterr().err


def test_a_text_is_checked(model: Path) -> None:
    result = run(UNSAFE, "--model", model)
    assert result.exit_code == 0
    assert "verdict: unsafe" in result.output
    assert "1.1-loading" in result.output


def test_a_text_is_checked_as_json(model: Path) -> None:
    result = run(UNSAFE, "--model", model, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["verdict"] == "unsafe"


@pytest.mark.parametrize(("text", "code"), [(UNSAFE, 1), (REVIEW, 0), (SAFE, 0), (OFF_TOPIC, 0), ("", 0)])
def test_fail_on_unsafe(model: Path, text: str, code: int) -> None:
    assert run(text, "--model", model, "--fail-on-unsafe").exit_code == code


def test_text_of_the_command_line_may_hold_surrogates(model: Path) -> None:
    result = run("\udcff " + UNSAFE, "--model", model, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["statements"][0]["text"].endswith(UNSAFE)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_file_is_checked_line_by_line(model: Path, tmp_path: Path, end: bytes) -> None:
    lines = [line(f"m-{i}", (UNSAFE, SAFE, OFF_TOPIC)[i % 3]) for i in range(150)]
    lines[70] = b""
    lines[149] = b"{"
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes((end or b"\n").join(lines) + end)
    assert run("--input", source, "--output", target, "--model", model).exit_code == 0
    results = [json.loads(written) for written in target.read_text().splitlines()]
    expected = [("unsafe", "safe", "out_of_scope")[i % 3] for i in range(150)]
    expected[70] = expected[149] = "invalid"
    assert [r["verdict"] for r in results] == expected
    assert [r["id"] for r in results if r["id"]] == [f"m-{i}" for i in range(150) if i not in (70, 149)]


def test_an_empty_file_gives_an_empty_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    assert run("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", model).exit_code == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_wrong_usage_exits_with_two(model: Path, tmp_path: Path) -> None:
    existing = tmp_path / "in"
    existing.write_bytes(line("a", SAFE))
    for arguments in (
        [],
        ["--input", existing],
        ["--output", tmp_path / "out"],
        ["text", "--input", existing, "--output", tmp_path / "out"],
        ["text", "--output", tmp_path / "out"],
        ["--input", tmp_path / "none", "--output", tmp_path / "out"],
        ["--input", tmp_path, "--output", tmp_path / "out"],
        ["text", "--nonsense"],
    ):
        result = run(*arguments, "--model", model)
        assert result.exit_code == 2, arguments
        assert "Usage:" in result.output
    assert not (tmp_path / "out").exists()


def test_the_input_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(line("a", SAFE))
    result = run("--input", source, "--output", source, "--model", model)
    assert source.read_bytes() == line("a", SAFE)
    assert result.exit_code == 2


def test_an_output_that_cannot_be_written_exits_with_two(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_bytes(line("a", SAFE))
    code, said = run_main(capsys, "--input", tmp_path / "in", "--output", tmp_path / "no" / "out", "--model", model)
    assert code == 2
    assert str(tmp_path / "no") in said


@pytest.mark.usefixtures("model")
def test_a_missing_model_exits_with_two_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run_main(capsys, "text", "--model", tmp_path / "none")
    assert code == 2
    assert "guardline train" in said
    assert "--model" in said


def test_a_model_that_does_not_fit_exits_with_three(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_package(model, schema_version=99)
    code, said = run_main(capsys, "text", "--model", model)
    assert code == 3
    assert "schema 99" in said
    assert said.count("\n") == 1
