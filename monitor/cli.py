"""The `guardline` command line: finds commands by entry point and loads each when it is called.

So `guardline --help` starts at once, the monitor's commands work without the trainer's dependencies, and this half
imports nothing of the other. Exit codes: 0 done, 1 the command's own "no" (its help says which), 2 wrong usage or
configuration, 3 a service or model is not usable.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, cast

import click

from monitor.errors import ConfigurationError, GuardlineError

_GROUP = "guardline.commands"
#: In the order of use; commands of other distributions follow.
_ORDER = (
    "demo", "check", "intake", "monitor", "alerts", "console", "canary", "feedback", "audit", "replay", "models",
    "promote", "rollback", "train", "package", "evaluate", "retrain", "guideline-diff", "acls", "schemas", "doctor",
)  # fmt: skip
_HELP = {
    "demo": "Train a model if there is none, then screen a stream of LLM answers live.",
    "check": "Check a text, or a file of texts, without a broker.",
    "intake": "Take answers by HTTP and publish them.",
    "monitor": "Run the streaming worker.",
    "alerts": "Send flags to webhooks, Slack, PagerDuty, mail, a file or the terminal.",
    "console": "Serve the page on which reviewers look at flags and decide.",
    "feedback": "Export reviewers' decisions as labelled statements; tell how far reviewers agree.",
    "audit": "Record flags and decisions in a hash-chained log, verify it, reproduce a verdict.",
    "canary": "Send messages whose verdicts are known, and watch that they come back.",
    "replay": "Send dead letters back; judge past inputs with another model.",
    "models": "Show which model is in use, and how a challenger differs from it.",
    "promote": "Check a model package and let the running monitors move to it.",
    "rollback": "Let the running monitors go back to the model before.",
    "train": "Train a model package from a guideline and its corpus.",
    "package": "Make a model package for a guideline without training on it.",
    "evaluate": "Print how a run's model does, or several runs; import reviewers' labels.",
    "retrain": "Let a challenger learn reviewers' decisions, and promote it if it is better and nowhere worse.",
    "guideline-diff": "Tell two versions of a guideline apart, and which statements that affects.",
    "acls": "Print the Kafka and Redis grants that each component needs, and no more.",
    "schemas": "Write JSON Schemas of all events, and the AsyncAPI document of the topics.",
    "doctor": "Tell what is installed, which services answer, which model is active.",
}


def _rank(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


class _Commands(click.Group):
    """A group whose commands are entry points."""

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=_GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(self._points(), key=_rank)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        point = self._points().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except ModuleNotFoundError as error:
            half = "trainer" if point.value.startswith("trainer") else "monitor"
            extra = cmd_name if cmd_name in ("console", "demo") else half
            raise ConfigurationError(
                f"`guardline {cmd_name}` needs {error.name}: pip install 'guardline[{extra}]'"
            ) from error
        return cast("click.Command", command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _HELP.get(name, "")) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("guardline"), prog_name="guardline")
def cli() -> None:
    """Flag statements of LLM outputs that contradict the clinical guideline."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; every error that Guardline raises on purpose becomes one line and an exit code."""
    try:
        return cli.main(arguments, prog_name="guardline")
    except ConfigurationError as error:
        click.echo(f"guardline: {error}", err=True)
        sys.exit(2)
    except GuardlineError as error:
        click.echo(f"guardline: {error}", err=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
