import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from click.testing import CliRunner

from monitor import cli
from monitor.cli import main
from monitor.errors import ConfigurationError, GuardlineError, ModelMismatch, ScorerUnavailable

CHECKOUT = Path(__file__).parents[2]
COMMANDS = ("demo", "check", "monitor", "train", "evaluate", "doctor")


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_help_lists_the_commands_in_the_order_of_use_and_loads_none_of_them() -> None:
    script = (
        "import sys\n"
        "from monitor.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(sorted(sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    listed = result.stdout.partition("Commands:")[2].splitlines()
    names = [row.split()[0] for row in listed if row.startswith("  ") and not row.startswith("   ")]
    assert [name for name in names if name in COMMANDS] == list(COMMANDS)
    loaded = set(eval(result.stderr))
    assert not loaded & {
        "torch",
        "transformers",
        "sklearn",
        "onnxruntime",
        "faust",
        "trainer",
        "monitor.check",
        "numpy",
    }


def test_every_command_of_this_distribution_has_its_place_and_its_sentence() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    commands = project["entry-points"]["guardline.commands"]
    assert {*cli._ORDER} == {*commands}
    assert {*cli._HELP} == {*commands}
    assert all(cli._HELP.values())


@pytest.mark.parametrize("name", ["check", "monitor", "doctor"])
def test_commands_have_help(name: str) -> None:
    result = CliRunner().invoke(cli.cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"{name} [OPTIONS]" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option"),
        (["check", "--nonsense"], "No such option"),
        (["check"], "give TEXT"),
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert said in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"guardline, version {version('guardline')}\n"


@pytest.mark.parametrize(
    ("value", "extra"), [("trainer.no_such_stage:command", "trainer"), ("monitor.no_such_module:command", "monitor")]
)
def test_a_command_whose_extra_is_not_installed_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, extra: str
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint("train", value, group)])
    assert exit_code("train") == 2
    assert f"pip install 'guardline[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("set this"), 2),
        (ModelMismatch("set this"), 3),
        (ScorerUnavailable("set this"), 3),
        (GuardlineError("set this"), 3),
    ],
    ids=repr,
)
def test_errors_raised_on_purpose_become_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def load(_: EntryPoint) -> None:
        raise error

    monkeypatch.setattr(EntryPoint, "load", load)
    assert exit_code("check", "text") == code
    assert capsys.readouterr().err == "guardline: set this\n"
