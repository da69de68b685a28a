"""Prompts are files: `trainer/prompts/<name>.md`, Markdown with the headings `# System` and `# User`, Jinja2 inside.

Autoescaping is off, since a prompt is no HTML; a value that a prompt names and the caller does not give is an error,
never an empty string.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound

from trainer.errors import PromptError

FOLDER = Path(__file__).parents[1] / "prompts"
# The headings are looked for in the file, not in what is rendered: a guideline's text may well have a line "# User".
_PARTS = re.compile(r"\A\s*# System\n(?P<system>.*?)^# User\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=False,  # noqa: S701 - prompts are plain text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


@lru_cache(maxsize=64)
def _compiled(text: str) -> Template:
    return _environment().from_string(text)


def source(name: str) -> tuple[str, str]:
    """Return the two unrendered parts of a prompt file, (system, user).

    Raises:
        PromptError: no such file, or it does not have the two headings in this order.
    """
    try:
        text, path, _ = _environment().loader.get_source(_environment(), f"{name}.md")  # type: ignore[union-attr]
    except TemplateNotFound as error:
        raise PromptError(f"{FOLDER / name}.md: there is no such prompt file") from error
    if not (parts := _PARTS.match(text)):
        raise PromptError(f"{path}: a prompt file has the headings `# System` and `# User`, in this order")
    return parts["system"], parts["user"]


def render(name: str, **values: object) -> tuple[str, str]:
    """Return (system, user): the messages of prompt file `name`, filled with `values`.

    Raises:
        PromptError: no such file, headings missing, or a value that the prompt needs was not given.
    """
    try:
        system, user = (_compiled(part).render(values).strip() for part in source(name))
    except TemplateError as error:
        raise PromptError(f"{FOLDER / name}.md: {error}: mend the file, or give the value to render()") from error
    return system, user
