"""`guardline check`: the monitor's own path from text to verdict, without a broker.

In: a text, or a file of `{"id", "text"}` lines. Out: a readable verdict, or one JSON line per input line, in order. A
line that cannot be read gets the verdict `invalid` with the reason, so that lines always correspond.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson
from rich.console import Console
from rich.progress import track
from rich.text import Text

from monitor.errors import ConfigurationError, InvalidMessage
from monitor.factory import build_screening
from monitor.intake import parse
from monitor.logs import configure
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.records import EvidenceRecord
from monitor.screening import Screening
from monitor.settings import load_settings
from monitor.text import well_formed
from monitor.types import Message, MessageVerdict, StatementVerdict, Verdict

_BATCH = 64
_STYLES = {
    Verdict.UNSAFE: "bold red",
    Verdict.REVIEW: "yellow",
    Verdict.SAFE: "green",
    Verdict.ABSTAIN: "magenta",
    Verdict.OUT_OF_SCOPE: "dim",
}


def _statement(judged: StatementVerdict) -> dict[str, Any]:
    span = judged.statement
    return {
        "start": span.start,
        "end": span.end,
        "text": span.text,
        "verdict": judged.verdict.value,
        "score": round(judged.score, 6),
        "category": judged.category,
        "reason": judged.reason,
        "evidence": EvidenceRecord.of(judged.evidence).model_dump() if judged.evidence else None,
    }


def as_json(verdict: MessageVerdict, package: ModelPackage) -> dict[str, Any]:
    """Return a verdict in the shape that `guardline check` writes."""
    return {
        "id": verdict.message.id,
        "verdict": verdict.verdict.value,
        "score": round(verdict.score, 6),
        "statements": [_statement(s) for s in verdict.statements],
        **_provenance(package),
    }


def _provenance(package: ModelPackage) -> dict[str, Any]:
    guideline = package.manifest.guideline
    return {"model": package.reference.model_dump(), "guideline": {"id": guideline.id, "version": guideline.version}}


def _invalid(line: bytes, error: InvalidMessage, package: ModelPackage) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
        identifier = record.get("id") if isinstance(record, dict) else None
    except orjson.JSONDecodeError:
        identifier = None
    return {
        "id": identifier,
        "verdict": Verdict.INVALID.value,
        "score": 0.0,
        "statements": [],
        **_provenance(package),
        "reason": error.reason,
        "detail": error.detail,
    }


async def check_lines(lines: Iterable[bytes], screening: Screening, package: ModelPackage) -> list[dict[str, Any]]:
    """Return the verdict of each line, in order."""
    parsed = [_parse(line) for line in lines]
    verdicts = iter(await screening.screen([m for _, m in parsed if isinstance(m, Message)]))
    return [
        as_json(next(verdicts), package) if isinstance(m, Message) else _invalid(line, m, package) for line, m in parsed
    ]


def _parse(line: bytes) -> tuple[bytes, Message | InvalidMessage]:
    try:
        return line, parse(line)
    except InvalidMessage as error:
        return line, error


def _batches(file: BinaryIO) -> Iterator[list[bytes]]:
    lines = (line.rstrip(b"\r\n") for line in file)
    while batch := list(islice(lines, _BATCH)):
        yield batch


def _writable(target: Path) -> BinaryIO:
    try:
        return target.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from error


async def _check_file(source: Path, target: Path, screening: Screening, package: ModelPackage) -> bool:
    """Check every line; return whether any is unsafe."""
    unsafe = False
    with source.open("rb") as file:
        total = -(-sum(1 for _ in file) // _BATCH)
    progress = Console(stderr=True)
    with source.open("rb") as lines, _writable(target) as out:
        for batch in track(_batches(lines), "Checking", total, console=progress, disable=not progress.is_terminal):
            for result in await check_lines(batch, screening, package):
                out.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
                unsafe |= result["verdict"] == Verdict.UNSAFE
    return unsafe


def render(verdict: MessageVerdict, console: Console) -> None:
    """Print a verdict for people: each statement, and beside a judged one the recommendation."""
    console.print(
        Text.assemble("verdict: ", (verdict.verdict.value, _STYLES[verdict.verdict]), f"   score {verdict.score:.2f}")
    )
    for judged in verdict.statements:
        style = _STYLES[judged.verdict]
        console.print(
            Text.assemble(
                "\n  ", (f"{judged.verdict.value:<12}", style), f" {judged.score:.2f}  ", (judged.statement.text, style)
            )
        )
        if judged.reason is not None:
            console.print(Text.assemble((f"  {'why':<13}", "dim"), judged.reason))
        if judged.evidence is None:
            continue
        evidence = judged.evidence
        console.print(
            Text.assemble(
                ("  evidence     ", "dim"),
                (f"{evidence.recommendation}", "bold"),
                f" (section {evidence.section}, {evidence.guideline} {evidence.version})\n{'':15}{evidence.text}",
            )
        )


@click.command()
@click.argument("text", required=False)
@click.option(
    "--input", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path), help='Lines of {"id", "text"}.'
)
@click.option(
    "--output", "target", type=click.Path(dir_okay=False, path_type=Path), help="Where the verdicts go, a line each."
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model package; default GUARDLINE_MODEL or the default run's."
)
@click.option("--json", "json_", is_flag=True, help="Print the verdict of TEXT as JSON.")
@click.option("--fail-on-unsafe", is_flag=True, help="Exit with 1 when TEXT, or any line, is unsafe.")
def command(
    text: str | None, source: Path | None, target: Path | None, model: Path | None, json_: bool, fail_on_unsafe: bool
) -> None:
    """Check TEXT, or each line of a file, as the streaming worker would.

    \b
    guardline check "Remdesivir is given as a 200 mg loading dose on day 1."
    guardline check --input answers.jsonl --output verdicts.jsonl
    """
    if (text is None) == (source is None) or (source is None) != (target is None):
        raise click.UsageError("give TEXT, or --input together with --output")
    if source is not None and json_:
        raise click.UsageError("--json is for TEXT; --output is JSON lines already")
    if source is not None and target is not None and target.exists() and target.samefile(source):
        raise click.UsageError("--output would overwrite --input")
    settings = load_settings(model=model)
    configure("warning", "console")
    package = ModelPackage.load(settings.model)

    async def run() -> bool:
        screening = build_screening(settings, package, MemoryStore())
        try:
            if source is not None and target is not None:
                return await _check_file(source, target, screening, package)
            verdict = (await screening.screen([Message(id="text", text=well_formed(text or ""))]))[0]
        finally:
            await screening.close()
        if json_:
            click.echo(orjson.dumps(as_json(verdict, package)).decode())
        else:
            render(verdict, Console())
        return verdict.verdict is Verdict.UNSAFE

    if asyncio.run(run()) and fail_on_unsafe:
        sys.exit(1)
