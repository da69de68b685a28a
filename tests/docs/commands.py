"""The commands of the documentation: found in its Markdown, made into lines, held against the code without running.

A command stands in a fenced block labelled `sh`, or between backticks in the text. A block with a title (`json
title="answers.jsonl"`) is a file that the reader saves before going on.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from monitor.cli import cli

ROOT = Path(__file__).parents[2]
SHELL = {"sh", "bash", "shell", "console"}
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
_HEREDOC = re.compile(r"<<-?\s*['\"]?(?P<word>\w+)['\"]?")
_PROGRAMS = {"guardline", "make", "python", "pip", "kubectl", "docker", "curl"}
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:{'|'.join(_PROGRAMS)})\s")
_EXTRAS = re.compile(r"\[(?P<extras>[a-z,-]+)\]")


@dataclass(frozen=True)
class Command:
    """One command of a page, continuation lines joined."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words up to the first operator, without variables in front and without `.venv/bin/`."""
        lexer = shlex.shlex(self.text.partition("\n")[0], posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|&;<>"):
                break
            if words or not re.match(r"[A-Za-z_]+=", word):
                words.append(word.removeprefix(".venv/bin/"))
        return words


@dataclass(frozen=True)
class Save:
    """A file that a page tells the reader to save."""

    page: str
    path: str
    content: str


def _tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def split(text: str) -> Iterator[str]:
    """Yield the commands of a shell block; one with a here-document is one command, lines and all."""
    pending: list[str] = []
    until: str | None = None
    for line in text.splitlines():
        pending.append(line)
        if until is not None:
            if line.strip() != until:
                continue
            until = None
        elif found := _HEREDOC.search(line):
            until = found["word"]
            continue
        elif line.endswith("\\"):
            continue
        command = "\n".join(pending).strip()
        pending = []
        if command and not command.startswith("#"):
            yield command


def steps(path: Path) -> Iterator[Command | Save]:
    """Yield what a page tells its reader to do, in order."""
    page = path.relative_to(ROOT).as_posix()
    for token in _tokens(path):
        if token.type != "fence":
            continue
        language, _, rest = token.info.strip().partition(" ")
        title = _TITLE.search(rest)
        if title:
            yield Save(page, title["title"], token.content)
        elif language in SHELL:
            for text in split(token.content):
                yield Command(page, text.replace("\\\n", " ").removeprefix("$ "))


def unlabelled(path: Path) -> Iterator[str]:
    """Yield the lines of other blocks that look like commands: nothing would check them."""
    for token in _tokens(path):
        if token.type in ("fence", "code_block") and token.info.split(" ")[0] not in SHELL | {"text"}:
            yield from (line for line in token.content.splitlines() if _COMMAND.match(f"{line} "))


def mentioned(path: Path) -> Iterator[Command]:
    """Yield the commands between backticks, and those of blocks without a label."""
    page = path.relative_to(ROOT).as_posix()
    for token in _tokens(path):
        for child in token.children or ():
            if child.type == "code_inline" and re.match(r"(?:guardline|make) [a-z-]", child.content):
                yield Command(page, child.content)
    yield from (Command(page, line) for line in unlabelled(path))


# --- held against the code --------------------------------------------------------------------------------------------


@cache
def _make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _extras() -> frozenset[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return frozenset(project["optional-dependencies"])


def _guardline(words: list[str]) -> Iterator[str]:
    command: click.Command = cli
    context = click.Context(cli, info_name="guardline")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            yield f"there is no command {words[0]} of {context.command_path}"
            return
        context = click.Context(found, context, info_name=words[0])
        command, words = found, words[1:]
    try:
        command.make_parser(context).parse_args([word for word in words if word != "..."])
    except click.UsageError as error:
        yield error.format_message()


def _exists(word: str) -> bool:
    return not word.startswith("deploy/") or (ROOT / word.rstrip("/.")).exists()


def problems(command: Command) -> Iterator[str]:
    """Yield what is wrong with a command as far as can be told without running it."""
    program, *arguments = command.words
    if program == "guardline":
        yield from _guardline(arguments)
    elif program == "make":
        targets = [a for a in arguments if "=" not in a and not a.startswith("-")]
        yield from (f"there is no target {target}" for target in targets if target not in _make_targets())
    elif program == "python" and arguments[:1] == ["-m"]:
        module = ROOT / arguments[1].replace(".", "/")
        if arguments[1].split(".")[0] in ("tests", "monitor", "trainer") and not (
            module.is_dir() or module.with_suffix(".py").exists()
        ):
            yield f"there is no module {arguments[1]}"
    elif program == "python" and arguments[0] != "-c" and not (ROOT / arguments[0]).exists():
        yield f"there is no file {arguments[0]}"
    elif program == "pip":
        named = {e for word in arguments for m in _EXTRAS.finditer(word) for e in m["extras"].split(",")}
        yield from (f"there is no extra {extra}" for extra in sorted(named - _extras()))
    yield from (f"there is no {word}" for word in arguments if not _exists(word))
