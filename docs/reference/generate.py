"""Write the reference pages that say what the code says: settings, command line, metrics, Python.

    python docs/reference/generate.py     (make reference)

`tests/docs` fails when a page differs from what this would write.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import click
from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr
from pydantic.fields import FieldInfo

import monitor
from monitor.cli import cli
from monitor.settings import DEFAULT_MODEL, Settings

HERE = Path(__file__).parent
_WIDTH = 100
_NOTE = "<!-- Written by docs/reference/generate.py; `make reference` writes it again. -->\n"


def _type(annotation: object) -> str:
    """Return a type in the words of somebody who sets a variable."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if len(kinds) == 1 and kinds[0] is not annotation:
        return _type(kinds[0])
    names: dict[object, str] = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        Path: "path",
        SecretStr: "secret",
        str: "text",
    }
    return names.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None or value == DEFAULT_MODEL:  # a path of the machine that this runs on
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def settings() -> str:
    """Return the page of settings, in the order of their declaration."""
    prefix = str(Settings.model_config["env_prefix"])
    rows = "".join(
        f"| `{prefix}{name.upper()}` | {_type(field.annotation)} | {_default(field)} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )
    return f"""{_NOTE}
# Settings

Every setting is an environment variable, a line in `.env` in the working directory, or a file in `/run/secrets` that is
named like the variable in lower case and holds the value. The environment wins over `.env`, and `.env` over files; an
option of the command wins over all. An empty variable means the default. What is secret belongs into a file.

| variable | type | default | |
|---|---|---|---|
{rows}"""


def _commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(command, parent, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for own in command.list_commands(context):
            loaded = command.get_command(context, own)
            if loaded is not None and not loaded.hidden:
                yield from _commands(loaded, context, own)


def command_line() -> str:
    """Return the page of the command line: every command's own help."""
    parts = [
        f"{'#' * min(2 + path.count(' ') - 1, 4) if ' ' in path else '##'} {path}\n\n```text\n{text}\n```\n"
        for path, text in _commands(cli, None, "guardline")
    ]
    return f"""{_NOTE}
# Command line

Exit codes: 0 done, 1 the command's own "no" (its help says which), 2 wrong usage or configuration, 3 a service or model
is not usable.

{chr(10).join(parts)}"""


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.rpartition(".")[2] == "metrics":
            yield importlib.import_module(found.name)


def metrics() -> str:
    """Return the page of metrics, a table for each part that has some."""
    tables = []
    for module in _modules(monitor):
        rows = ""
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                family = next(iter(metric.describe()))
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = ", ".join(f"`{label}`" for label in metric._labelnames)
                rows += f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"
        title = module.__name__.removeprefix("monitor.").rpartition(".")[0] or "monitor"
        tables.append(f"## {title}\n\n| metric | type | labels | |\n|---|---|---|---|\n{rows}")
    return f"""{_NOTE}
# Metrics

Served at `/metrics` on `GUARDLINE_METRICS_PORT`. Times are in seconds, and no label holds text of a message.

{chr(10).join(sorted(tables, key=lambda t: (not t.startswith("## monitor"), t)))}"""


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    read = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
    return f"```python\n{kind}{name}{'' if read else f'({arguments})'}{returns}\n```"


def _described(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return f"```text\n{ast.get_docstring(node)}\n```"


def _object(module: str, name: str) -> str:
    """Return what is said of a class or function, read from its source: what it imports need not be installed."""
    path = Path(monitor.__file__).parents[1] / Path(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    node = next(n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
    parts = [f"## {name}\n\nFrom `{module}`.\n", ""]
    if isinstance(node, ast.FunctionDef):
        return "\n".join([parts[0], _signature(node, name), "", _described(node), ""])
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    made = next((n for n in methods if n.name == "__init__"), None)
    parts[1] = f"{_signature(made, name)}\n\n{_described(node)}\n" if made else f"{_described(node)}\n"
    shown = [m for m in methods if not m.name.startswith("_")]
    parts.extend(f"{_signature(m, f'{name}.{m.name}')}\n\n{_described(m)}\n" for m in shown)
    return "\n".join(parts)


#: What programs of others import.
PUBLIC = (
    ("monitor.producers.producer", "OutputProducer"),
    ("monitor.producers.producer", "shared_producer"),
    ("monitor.producers.litellm", "GuardlineLogger"),
    ("monitor.producers.langchain", "GuardlineHandler"),
    ("monitor.producers.openai", "wrap"),
    ("monitor.producers.opentelemetry", "GuardlineSpanProcessor"),
)


def python() -> str:
    """Return the page of what programs of others import."""
    return f"""{_NOTE}
# Python

What a platform imports to publish its answers. Consumers need nothing of Guardline's: flags are JSON, with schemas in
`docs/schemas`. Everything else may change with any version.

{chr(10).join(_object(module, name) for module, name in PUBLIC)}"""


PAGES = {"settings.md": settings, "cli.md": command_line, "metrics.md": metrics, "python.md": python}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
