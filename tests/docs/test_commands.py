"""Every command of the documentation runs, or is named here with the reason why it is not run, and is then parsed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT, Command, Save, mentioned, problems, split, steps, unlabelled

PAGES = sorted((ROOT / "docs").rglob("*.md"))
ALL = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
#: What is not run here, and why.
NOT_RUN = {
    r"make ": "sets up an environment, or is what runs this test",
    r"pip install": "changes the environment",
    r"sh deploy/examples": "needs an intake; tests/gateway runs it",
    r"docker ": "needs Docker's daemon; tests/deploy checks the files",
    r"kubectl (?!kustomize)": "needs a cluster; tests/deploy checks the manifests",
    r"guardline (monitor|alerts|console|canary|intake)\b(?!.* --(check|new-token))": "runs until it is stopped",
    r"sh deploy/examples/send.sh": "needs an intake that runs; tests/gateway runs it",
    r"guardline audit (record|verify|prove|reproduce)": "needs a log; tests/audit runs it",
    r"guardline (replay|feedback)": "needs a broker; tests/monitor and tests/feedback run it",
    r"guardline (models|promote|rollback)": "needs workers that share a pointer; tests/monitor/models runs it",
    r"guardline (train|retrain|evaluate)\b": "trains for minutes, or wants a trained run; tests/trainer runs it",
    r"guardline doctor": "exits with 1 where no service runs; tests/monitor/test_doctor.py runs it",
}
#: What a machine that runs the tests may lack.
TOOLS = {"kubectl", "promtool", "amtool"}
#: What a page says of its commands' output: words of it, and the verdicts in the files that they write.
SAID: dict[str, tuple[str, dict[str, str]]] = {
    "docs/quick-start.md": ("400 mg stated, 200 mg recommended", {"verdicts.jsonl": "safe unsafe out_of_scope"}),
    "docs/new-guideline.md": (
        "25 mg/kg stated, 15 mg/kg recommended",
        {
            "verdicts.jsonl": "unsafe safe safe unsafe unsafe unsafe out_of_scope",
            "stricter.jsonl": "review safe safe unsafe unsafe unsafe out_of_scope",
        },
    ),
}
_REASON = [(re.compile(rf"(?:[A-Za-z_]+=\S* )*(?:\.venv/bin/)?{pattern}"), why) for pattern, why in NOT_RUN.items()]


def why_not(command: Command) -> str | None:
    return next((why for pattern, why in _REASON if pattern.match(command.text)), None)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", ALL, ids=names)
def test_every_command_is_one(page: Path) -> None:
    commands = [step for step in steps(page) if isinstance(step, Command)]
    assert [(c.text, p) for c in [*commands, *mentioned(page)] for p in problems(c)] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_block_of_commands_is_labelled(page: Path) -> None:
    assert list(unlabelled(page)) == [], "label the block `sh`, so that its commands are checked and run"


RUN = [page for page in PAGES if any(isinstance(step, Command) and why_not(step) is None for step in steps(page))]


@pytest.mark.parametrize("page", RUN, ids=names)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """In order, in one shell, in a folder that looks like a checkout; what they write stays in it."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("build", "runs"):
            (tmp_path / entry.name).symlink_to(entry)
    script = ["set -eu -o pipefail"]
    for step in steps(page):
        if isinstance(step, Save):
            target = tmp_path / step.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(step.content, encoding="utf-8")
        elif why_not(step) is None:
            script.append(step.text)
    commands = [step for step in steps(page) if isinstance(step, Command) and why_not(step) is None]
    missing = sorted({c.words[0] for c in commands if c.words[0] in TOOLS and not shutil.which(c.words[0])})
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GUARDLINE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    words, files = SAID.get(names(page), ("", {}))
    assert words in done.stdout
    for name, verdicts in files.items():
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert " ".join(json.loads(line)["verdict"] for line in lines) == verdicts, name


def test_every_reason_is_needed() -> None:
    commands = [step.text for page in PAGES for step in steps(page) if isinstance(step, Command)]
    assert [p.pattern for p, _ in _REASON if not any(p.match(text) for text in commands)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guardline chek x", "there is no command chek of guardline"),
        ("guardline check --imput x", "No such option: --imput"),
        ("guardline check --input", "requires an argument"),
        ("GUARDLINE_STORE=redis guardline audit recrd", "there is no command recrd of guardline audit"),
        ("make demon", "there is no target demon"),
        ("python -m tests.nothing", "there is no module tests.nothing"),
        ("pip install 'guardline[montor]'", "there is no extra montor"),
        ("kubectl apply --kustomize deploy/kubernetes/overlays/tpu", "there is no deploy/kubernetes/overlays/tpu"),
    ],
)
def test_a_wrong_command_is_seen(text: str, expected: str) -> None:
    found = list(problems(Command("page", text)))
    assert len(found) == 1
    assert expected in found[0]


def test_here_documents_and_continued_lines_are_one_command() -> None:
    text = "cat > a <<'EOF'\nguardline x\nEOF\n# a remark\nguardline check \\\n  --json x\nls | head"
    assert list(split(text)) == ["cat > a <<'EOF'\nguardline x\nEOF", "guardline check \\\n  --json x", "ls | head"]
    assert Command("page", "A=1 guardline check x | head").words == ["guardline", "check", "x"]
