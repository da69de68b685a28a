"""`guardline audit verify` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from monitor.audit.command import command
from monitor.errors import ConfigurationError
from tests.audit.logs import chain, drafts, write

LINES = chain(drafts(5))
HEAD = json.loads(LINES[-1])["hash"]


def verify(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(command, ["verify", *map(str, arguments)], env=environment)


def test_an_intact_log_is_said_to_be_so_with_its_head(tmp_path: Path) -> None:
    write(tmp_path, LINES)
    for result in (verify(tmp_path), verify(GUARDLINE_AUDIT_PATH=str(tmp_path)), verify(tmp_path, "--head", HEAD)):
        assert (result.exit_code, result.stdout) == (0, f"intact: 5 entries; head {HEAD} (entry 4)\n")


def test_a_changed_log_ends_with_1_and_the_line(tmp_path: Path) -> None:
    file = write(tmp_path, LINES)
    file.write_bytes(file.read_bytes().replace(b'"n":2', b'"n":3'))
    result = verify(tmp_path)
    assert result.exit_code == 1
    assert result.stdout == f"not intact: {file.name}:4: its hash is not that of its content: it was changed\n"
    as_json = verify(tmp_path, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout) == {
        "intact": False,
        "entries": 3,
        "head": {"seq": 2, "hash": json.loads(LINES[2])["hash"]},
        "problem": {"place": f"{file.name}:4", "why": "its hash is not that of its content: it was changed"},
    }


def test_a_tail_that_is_missing_ends_with_1(tmp_path: Path) -> None:
    write(tmp_path, LINES[:-1])
    result = verify(tmp_path, "--head", HEAD)
    assert (result.exit_code, "cut off the end" in result.stdout) == (1, True)


def test_where_the_log_is_must_be_said(tmp_path: Path) -> None:
    assert verify(tmp_path, "--topic").exit_code == 2
    nowhere = verify()
    assert isinstance(nowhere.exception, ConfigurationError)
    assert "GUARDLINE_AUDIT_PATH" in str(nowhere.exception)
    assert "no audit log" in str(verify(tmp_path / "gone").exception)
