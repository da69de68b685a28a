"""The audit never passes in silence: what could not be asked about is no clean bill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "deploy" / "audit"))

from audit import ask, outcome  # noqa: E402 - deploy/ holds scripts, it is not a package

CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
HIT = {"name": "c", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "description": ""}]}
OPEN = {"name": "d", "version": "1", "vulns": [{"id": "PYSEC-2", "fix_versions": [], "description": ""}]}


@pytest.mark.parametrize(
    ("dependencies", "code", "says"),
    [
        ([CLEAN, CLEAN], 0, ["audited 2 dependencies: no known vulnerability"]),
        ([CLEAN, SKIPPED], 3, ["NOT AUDITED: 1 of 2 dependencies"]),
        ([HIT, OPEN], 1, ["VULNERABLE: c 1: PYSEC-1, fixed in 2", "VULNERABLE: d 1: PYSEC-2, fixed in no version yet"]),
        ([HIT, SKIPPED], 1, ["VULNERABLE: c 1: PYSEC-1, fixed in 2", "NOT AUDITED: 1 of 2"]),
        ([], 3, ["NOT AUDITED: no dependency was found"]),
    ],
)
def test_outcomes(dependencies: list[dict[str, Any]], code: int, says: list[str]) -> None:
    found = outcome({"dependencies": dependencies})
    assert found.code == code
    assert len(found.lines) == len(says)
    assert all(line.startswith(start) for line, start in zip(found.lines, says, strict=True))


@pytest.mark.parametrize("script", ["echo 'no route to host' >&2; exit 1", "echo '{}'", "exit 0"])
def test_a_tool_that_gives_no_report_leaves_everything_unanswered(tmp_path: Path, script: str) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a==1\nb==2\n")
    found = ask(tmp_path, requirements, "pypi")
    assert (found.code, len(found.unanswered)) == (3, 2)
    assert found.lines[0].startswith("NOT AUDITED: 2 of 2 dependencies")
