"""`guardline schemas`: write the schemas, or check that those that lie there are the ones of this version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import yaml

from monitor.schemas.asyncapi import document
from monitor.schemas.catalogue import SCHEMAS, schema_of

_STALE = 1


def files() -> dict[str, str]:
    """Return the text of every file by its name."""
    schemas = {f"{schema.name}.json": json.dumps(schema_of(schema), indent=2) + "\n" for schema in SCHEMAS}
    described = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=120)
    return {**schemas, "asyncapi.yaml": "# Made by `guardline schemas`.\n" + described}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs/schemas"),
    show_default=True,
    help="Folder of the files.",
)
@click.option("--check", is_flag=True, help="Write nothing; tell which files there are not of this version.")
def command(output: Path, check: bool) -> None:
    """Write a JSON Schema (Draft 2020-12) for every record, and an AsyncAPI 3 document of the topics.

    Exits with 1 when --check found a file that is missing or another.
    """
    if not check:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files().items():
            (output / name).write_text(text, encoding="utf-8")
            click.echo(output / name)
        return
    stale = [name for name, text in files().items() if _text(output / name) != text]
    for name in stale:
        click.echo(f"{output / name}: not what `guardline schemas --output {output}` writes", err=True)
    if stale:
        sys.exit(_STALE)
