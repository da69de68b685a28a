"""A package without a recorded corpus: a language model extracts, summarises, writes, and another one judges.

The model is a local server that speaks OpenAI's API and keeps its own account of what it would have billed; the
commands are those of a user. One run is killed in the middle of writing, started again, and shared by the tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import cli
from monitor.package import ModelPackage
from tests.trainer.conftest import tiny_bert  # noqa: F401 - a fixture
from tests.trainer.openai_server import KEY, Fault, OpenAIServer, local
from trainer.artifacts import RunFolder, digest, read_json_lines, read_rows
from trainer.guideline.guidelines import Pack
from trainer.llm.completions import ANSWERS
from trainer.llm.costs import LEDGER
from trainer.pipeline import STAGES, Pipeline, evaluate_again
from trainer.settings import CorpusSettings
from trainer.statements.assembly import split_settings
from trainer.statements.corpus import SplitSettings, load_split
from trainer.statements.generation import BRIEFS
from trainer.types import Example, Label, Recommendation, Split

CHECKOUT = Path(__file__).resolve().parents[2]
WRITER, JUDGE = "gpt-4o-mini", "deepseek-flash"
#: How many requests the server has been paid for when the first process is killed: while unsafe statements are written.
KILLED_AFTER = 26
ASKING = STAGES[: STAGES.index("encoder")]

_GUIDELINE = """# Zolamide for mumbles

## 1. Dose
Adults should receive zolamide 20 mg once daily.

## 2. Duration
Zolamide should be given for 5 days in adults.

## 3. Pregnancy
Zolamide should not be withheld from pregnant patients.
"""
_PACK = """id: mumbles
condition: mumbles
treatment: zolamide
synonyms: [zolamide]
sources: [{path: guideline.md, title: Zolamide for mumbles, version: "1"}]
"""


# What the models answer


#: Makes sentences of their own out of one rule; none of these changes what is said.
_FILLERS = [
    "ward", "clinic", "morning", "handover", "chart", "pharmacy", "nurse", "consultant", "protocol", "evening",
    "round", "table", "leaflet", "summary", "note", "team", "visit", "letter", "record", "form", "unit", "department",
    "corridor", "desk", "folder", "binder", "memo", "board", "review", "meeting", "office", "screen", "page", "line",
    "paragraph", "guide", "booklet", "poster", "card", "label", "drawer", "shelf", "cabinet", "trolley", "room",
    "lobby", "garden", "window", "kettle", "lamp",
]  # fmt: skip


def _statement(rule: str, voice: str, number: int) -> str:
    words = random.Random(f"{rule}{voice}{number}").sample(_FILLERS, 14)
    before, after = " ".join(words[:7]), " ".join(words[7:])
    return f"{before.capitalize()}: {rule[0].lower()}{rule[1:].rstrip('.')}, {after}."


def _contradiction(original: str) -> str:
    if "should not be" in original:
        return original.replace("should not be", "should be")
    return re.sub(r"\d+", lambda found: str(int(found[0]) * 2), original)


def _judgement(user: str) -> dict[str, str]:
    """Right about all statements but every eighth, which it finds beside the point."""
    rule = re.search(r"<recommendation .*>\n(.+)\n", user)[1].rstrip(".")
    statement = re.search(r"<statement>\n(.+)\n", user)[1]
    if int(hashlib.sha256(statement.encode()).hexdigest(), 16) % 8 == 0:
        return {"reason": "beside the point", "relation": "unrelated"}
    agrees = f"{rule[0].lower()}{rule[1:]}" in statement
    return {"reason": "as stated", "relation": "consistent" if agrees else "contradicts"}


def answer(body: dict[str, Any]) -> str:
    """Answer each kind of request from its prompt alone."""
    user = body["messages"][1]["content"]
    found: Any
    match body["response_format"]["json_schema"]["schema"]["title"]:
        case "Extraction":
            lines = re.search(r"<section>\n(.*)\n</section>", user, re.DOTALL)[1].splitlines()
            nothing = {"population": None, "action": None, "strength": None, "grade": None, "numbers": []}
            found = {"recommendations": [{"text": x, "quote": x, **nothing} for x in lines if x and x[0] != "#"]}
        case "SummaryAnswer":
            passages = re.findall(r"^\[(.+?)\] \(section .*\)\n(.+)$", user, re.MULTILINE)
            found = {"sentences": [{"text": text, "passages": [name]} for name, text in passages[:1]]}
        case "SafeStatements":
            rule = re.search(r"^Recommendation .*:\n(.*)$", user, re.MULTILINE)[1]
            voice = re.search(r"^Voice: (.*?)\.", user, re.MULTILINE)[1]
            number = int(re.search(r"^Write (\d+) statements", user, re.MULTILINE)[1])
            found = {
                "statements": [{"category": "dose", "text": _statement(rule, voice, i)} for i in range(number)],
            }
        case "UnsafeStatements":
            originals = re.findall(r"^(\d+)\. (.*)$", user[user.index("Originals") :], re.MULTILINE)
            found = {
                "statements": [
                    {"original": int(i), "category": "dose", "change": "one detail", "text": _contradiction(text)}
                    for i, text in originals
                ]
            }
        case _:
            found = _judgement(user)
    return json.dumps(found)


# Running the command


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    output: str
    errors: str

    @property
    def everything(self) -> str:
        return self.output + self.errors


def guardline(*arguments: str | Path) -> Ran:
    """Run a command in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            cli.main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, output.getvalue(), errors.getvalue())


@dataclass(frozen=True)
class Place:
    """A pack, the provider files and an encoder, and the options that name them."""

    root: Path
    server: OpenAIServer
    encoder: Path

    @property
    def pack(self) -> Path:
        return self.root / "pack.yaml"

    def train(self, run: Path, *arguments: str, provider: bool = True) -> list[str]:
        named = ["--provider", str(self.root / "writer.yaml")] if provider else []
        fixed = ["--pack", str(self.pack), "--run", str(run), "--profile", "smoke", "--encoder", str(self.encoder)]
        return ["train", *arguments, *fixed, *named]

    def judge(self) -> list[str]:
        return ["--judge", str(self.root / "judge.yaml")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Place]:  # noqa: F811
    root = tmp_path_factory.mktemp("generation")
    (root / "guideline.md").write_text(_GUIDELINE)
    (root / "pack.yaml").write_text(_PACK)
    with OpenAIServer(models=(WRITER, JUDGE), answer=answer) as server:
        for name, model in (("writer", WRITER), ("judge", JUDGE)):
            own = local(server, name=name, model=model, batch_discount=0.5 if name == "writer" else None)
            (root / f"{name}.yaml").write_text(yaml.safe_dump(own.model_dump(mode="json")))
        yield Place(root, server, tiny_bert)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.delenv("LOCAL_KEY", raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", KEY)


@pytest.fixture
def fresh(place: Place) -> Iterator[OpenAIServer]:
    """The server, with an account of its own for this test."""
    before = place.server.paid, place.server.bodies
    place.server.paid, place.server.bodies = [], []
    yield place.server
    place.server.paid, place.server.bodies = before


@dataclass(frozen=True)
class Finished:
    """The shared run: what each command printed, and the server's account of all of them."""

    folder: RunFolder
    arguments: list[str]
    estimate: Ran
    preview: Ran
    asked_before: int
    lost: int  # paid for, and not recorded when the process was killed
    killed: str
    resumed: Ran
    paid: list[str]
    cost: float
    requests: Counter[str]

    @property
    def everything(self) -> str:
        return self.estimate.everything + self.preview.everything + self.killed + self.resumed.everything


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    server = place.server
    folder = RunFolder(place.root / "run")
    arguments = [*place.train(folder.root), *place.judge(), "--styles", "a,b,c", "--per-style", "6"]
    estimate, preview = guardline(*arguments, "--estimate"), guardline(*arguments, "--preview", "2")
    asked_before = len(server.bodies)

    command = [sys.executable, "-m", "monitor", *arguments]
    environment = {**os.environ, "LOCAL_KEY": KEY, "COLUMNS": "240", "HF_HUB_OFFLINE": "1"}
    server.hold_after = KILLED_AFTER
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert server.holding.wait(300), "the server was not asked often enough"
        process.send_signal(signal.SIGKILL)
        killed = process.communicate()[0]
    lost = len(server.paid) - len((folder.completions / ANSWERS).read_bytes().splitlines())
    server.hold_after = None
    server.release.set()

    done = subprocess.run(command, cwd=CHECKOUT, env=environment, text=True, capture_output=True, check=False)
    schemas = Counter(body["response_format"]["json_schema"]["schema"]["title"] for body in server.bodies)
    return Finished(
        folder, arguments, estimate, preview, asked_before, lost, killed,
        Ran(done.returncode, done.stdout, done.stderr),
        [p.digest for p in server.paid], server.cost(1, 4), schemas,
    )  # fmt: skip


# The run


def test_estimate_and_preview_send_nothing_and_need_no_key(finished: Finished) -> None:
    assert finished.estimate.code == finished.preview.code == 0, finished.everything
    assert finished.asked_before == 0
    assert "gpt-4o-mini" in finished.estimate.output
    assert "3 extract, 3 summarise, 9 statements_safe, 27 statements_unsafe" in finished.estimate.output
    assert "108 judge" in finished.estimate.output
    assert finished.preview.output.count("--- ") == 2
    assert "zolamide" in finished.preview.output


def test_a_killed_run_goes_on_and_pays_for_no_answer_twice(finished: Finished) -> None:
    assert finished.resumed.code == 0, finished.resumed.everything
    assert "extract     is current" in finished.resumed.errors
    repeated = len(finished.paid) - len(set(finished.paid))
    assert repeated == finished.lost <= 4  # the requests that were under way: nobody heard their answers
    recorded = list(read_json_lines(finished.folder.completions / ANSWERS))
    assert len(recorded) == len(set(finished.paid)) == len({row["key"] for row in recorded})


def test_the_ledger_has_what_the_server_billed_and_stays_below_the_estimate(finished: Finished) -> None:
    bound = float(re.search(r"Both together: at most \$([\d.]+)", finished.estimate.output)[1])
    spent = float(re.search(r"Language models: \$([\d.]+)", finished.resumed.errors)[1])
    # What was under way at the kill counts at its bound.
    assert finished.cost <= spent + 5e-5 <= bound
    rows = list(read_json_lines(finished.folder.completions / LEDGER))
    assert len({row["id"] for row in rows}) == len(finished.paid)


def test_the_corpus_is_balanced_and_in_all_voices(finished: Finished) -> None:
    examples = read_rows(finished.folder.statements, Example)
    labels = Counter(e.label for e in examples)
    assert labels[Label.SAFE] > 30
    assert abs(labels[Label.SAFE] - labels[Label.UNSAFE]) < 10
    assert {e.style for e in examples} == {"a", "b", "c"}
    assert len(read_rows(finished.folder.recommendations, Recommendation)) == 3


def test_the_last_voice_is_held_out_where_none_of_the_default_ones_was_written(finished: Finished) -> None:
    parts = load_split(finished.folder)
    assert {e.style for e in parts[Split.TEST_OOD]} == {"c"}
    assert {e.style for part in Split if part is not Split.TEST_OOD for e in parts[part]} == {"a", "b"}
    assert re.search(r"test in unheard voices \d+ \(c\)", finished.resumed.errors)


def test_the_judge_rejects_with_its_reason(finished: Finished) -> None:
    reasons = [row["reason"] for row in read_json_lines(finished.folder.rejected)]
    judged = [reason for reason in reasons if reason.startswith("judge:")]
    assert judged
    assert all("beside the point" in reason for reason in judged)
    assert finished.requests["Verdict"] == 108


def test_check_loads_the_package(finished: Finished) -> None:
    found = guardline("check", "--model", finished.folder.package, "--json", "Adults receive zolamide 40 mg daily.")
    assert found.code == 0, found.everything
    assert json.loads(found.output)["model"]["name"] == "mumbles"
    manifest = ModelPackage.load(finished.folder.package).manifest
    assert {summary.suite for summary in manifest.evaluation} == {"statements/test_id", "statements/test_ood"}


def test_the_key_is_nowhere(finished: Finished) -> None:
    assert KEY not in finished.everything
    files = [file for file in finished.folder.root.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


# Again, without being told the models


def test_all_is_current_without_provider_and_key(finished: Finished, place: Place, fresh: OpenAIServer) -> None:
    again = place.train(finished.folder.root, provider=False)
    ran = guardline(*again)
    assert ran.code == 0, ran.everything
    assert re.findall(r"(\w+) +is current", ran.errors) == list(STAGES)
    assert fresh.bodies == []
    estimate = guardline(*again, "--estimate")
    assert "0 to send" in estimate.output
    assert "at most $0.0000" in estimate.output


def test_recorded_answers_stand_in_for_provider_and_judge(
    finished: Finished, place: Place, fresh: OpenAIServer, tmp_path: Path
) -> None:
    copy = RunFolder(shutil.copytree(finished.folder.root, tmp_path / "run"))
    made = [copy.recommendations, copy.summaries, copy.generated, copy.statements, copy.splits, copy.rejected]
    before = [digest(path) for path in made]
    shutil.rmtree(copy.generated)
    ran = guardline(*place.train(copy.root, *ASKING, "--again", provider=False))
    assert ran.code == 0, ran.everything
    assert fresh.bodies == []
    assert [digest(path) for path in made] == before


def test_evaluating_again_keeps_whose_answers_a_run_holds(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = RunFolder(shutil.copytree(finished.folder.root, tmp_path / "run"))
    before = (copy.root / "settings.json").read_text()
    monkeypatch.setattr(Pipeline, "_evaluate", lambda self, progress: {})
    evaluate_again(copy)
    assert json.loads(before)["judge"]["model"] == JUDGE
    assert (copy.root / "settings.json").read_text() == before


# Limits, refusals, batches


@pytest.mark.usefixtures("key")
def test_a_limit_stops_with_what_was_spent_and_a_higher_one_goes_on(
    place: Place, fresh: OpenAIServer, tmp_path: Path
) -> None:
    arguments = place.train(tmp_path / "run", *ASKING[:4], "--styles", "a,b", "--per-style", "6")
    stopped = guardline(*arguments, "--max-cost", "0.03")
    assert stopped.code == 3
    assert re.search(r"guardline: \$0\.0\d+ of at most \$0\.0300 are spent", stopped.errors)
    assert "run again with a higher --max-cost" in stopped.errors
    assert "summaries" in stopped.errors
    assert len(fresh.paid) > 6  # it was in the middle of writing
    assert fresh.cost(1, 4) <= 0.03
    went_on = guardline(*arguments, "--max-cost", "1")
    assert went_on.code == 0, went_on.everything
    assert fresh.paid_twice == []


@pytest.mark.usefixtures("key")
def test_what_got_no_answer_is_asked_by_the_next_run(
    place: Place, fresh: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "fault_always", Fault.SERVER_ERROR)
    failed = guardline(*place.train(tmp_path / "run", "extract"))
    assert failed.code == 0, failed.everything
    assert "sections by rules 3" in failed.errors
    assert "3 requests got no answer, and the next run asks them again: HTTP 500" in failed.errors
    monkeypatch.setattr(fresh, "fault_always", None)
    answered = guardline(*place.train(tmp_path / "run", "extract"))
    assert "sections by rules 0" in answered.errors
    assert "extract     is current" in guardline(*place.train(tmp_path / "run", "extract")).errors


@pytest.mark.usefixtures("key")
def test_the_writer_is_no_judge(place: Place, fresh: OpenAIServer, tmp_path: Path) -> None:
    same = tmp_path / "same.yaml"
    same.write_text((place.root / "judge.yaml").read_text().replace(JUDGE, "other/gpt-4o-mini-2024-07-18"))
    ran = guardline(*place.train(tmp_path / "run"), "--judge", same)
    assert ran.code == 2
    assert "name another model as judge" in ran.errors
    assert fresh.bodies == []


@pytest.mark.usefixtures("key")
def test_batches_cost_half(place: Place, fresh: OpenAIServer, tmp_path: Path) -> None:
    arguments = place.train(tmp_path / "run", *ASKING[:4], "--styles", "a", "--per-style", "1", "--batch")
    bound = float(re.search(r"at most \$([\d.]+)", guardline(*arguments, "--estimate").output)[1])
    ran = guardline(*arguments)
    assert ran.code == 0, ran.everything
    assert fresh.paid
    assert all(p.batch for p in fresh.paid)
    assert not fresh.bodies  # nothing was asked one by one
    assert fresh.cost(1, 4, discount=0.5) <= bound
    assert len(list(read_json_lines(tmp_path / "run" / "generated" / "llm_style_a.jsonl"))) == 6


def test_a_style_that_is_not_known_is_named(place: Place, tmp_path: Path) -> None:
    ran = guardline(*place.train(tmp_path / "run"), "--styles", "a,q")
    assert ran.code == 2
    assert "'q': there are a (concise assistant)" in ran.errors


# How few voices are divided


def _held_out(pack: Path, styles: Sequence[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    own = Pack.load(pack)
    own = replace(own, spec=own.spec.model_copy(update={"held_out_styles": list(names)}))
    examples = [Example(s, s, Label.SAFE, "1", "dose", None, s, s) for s in styles]
    outside = Example("o", "o", Label.OUT_OF_SCOPE, None, None, None, "o", "out_of_scope")
    return split_settings(own, CorpusSettings(split=SplitSettings()), [*examples, outside]).held_out_styles


def test_a_voice_is_held_out_wherever_another_is_left_to_hear(place: Place) -> None:
    assert _held_out(place.pack, list(BRIEFS.styles)) == ("g", "l")
    assert _held_out(place.pack, ["a", "g"]) == ("g",)
    assert _held_out(place.pack, ["a", "b", "c"]) == ("c",)
    assert _held_out(place.pack, ["g", "l"]) == ("l",)
    assert _held_out(place.pack, ["g"]) == ()
    assert _held_out(place.pack, []) == ()
    assert _held_out(place.pack, ["a", "b", "g"], names=["a"]) == ("a",)
