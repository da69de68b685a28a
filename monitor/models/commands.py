"""`guardline models`, `guardline promote`, `guardline rollback`: which model is in use, and changing it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.errors import ConfigurationError, GuardlineError
from monitor.factory import build_pointer
from monitor.models import promotion
from monitor.models.pointer import Alias, Choice, ModelPointer
from monitor.package import ModelPackage
from monitor.records import ShadowRecord
from monitor.settings import Settings, load_settings

Result = TypeVar("Result")
_MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="In use where nothing was promoted.  [env: GUARDLINE_MODEL]",
)


def _with_pointer(settings: Settings, work: Callable[[ModelPointer], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        pointer = build_pointer(settings)
        if pointer is None:
            raise ConfigurationError(
                "nothing says which model is in use: set GUARDLINE_MODELS_FILE to a file that all workers share, or "
                "GUARDLINE_STORE=redis, for this command and for the monitor"
            )
        try:
            return await work(pointer)
        finally:
            await pointer.close()

    return asyncio.run(run())


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--challenger", is_flag=True, help="Only let it score a share of the stream, without flags.")
@click.option("--why", default="promoted by hand", show_default=True, help="Kept beside the pointer.")
@_MODEL
def promote(package: Path, challenger: bool, why: str, model: Path | None) -> None:
    """Check PACKAGE and let the running monitors move to it.

    It must be whole, for the same guideline, and decide its canaries as when it was exported, where it will serve. With
    Triton its graphs are loaded beside those in use first. The monitors look every GUARDLINE_MODELS_EVERY seconds and
    check again before they move; they keep what they have if the check fails.

    Exits with 3 when the package is refused; nothing has changed then.
    """
    settings = load_settings(model=model)
    alias = Alias.CHALLENGER if challenger else Alias.CHAMPION
    done = _with_pointer(settings, lambda p: promotion.promote(package, alias, p, settings, why=why, say=_say))
    click.echo(f"{alias.value}: {done.reference.name} {done.reference.version}")


@click.command()
@click.option("--why", default="rolled back by hand", show_default=True, help="Kept beside the pointer.")
@_MODEL
def rollback(why: str, model: Path | None) -> None:
    """Let the running monitors go back to the champion before this one; checked as by `promote`."""
    settings = load_settings(model=model)
    done = _with_pointer(settings, lambda p: promotion.rollback(p, settings, why=why, say=_say))
    click.echo(f"champion: {done.reference.name} {done.reference.version}")


def _row(alias: Alias, choice: Choice, *, current: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "alias": alias.value if current else "",
        "version": choice.version,
        "since": choice.at.isoformat(),
        "why": choice.why,
        "path": str(choice.path),
    }
    try:
        manifest = ModelPackage.load(choice.path).manifest
    except GuardlineError as error:
        return row | {"problem": str(error)}
    figures = {e.suite: round(e.f1, 3) for e in manifest.evaluation}
    return row | {
        "guideline": f"{manifest.guideline.id} {manifest.guideline.version}",
        "guideline_sha256": manifest.guideline.sha256,
        "corpus_sha256": manifest.corpus.sha256,
        "f1": figures,
        "lineage": manifest.lineage.model_dump() if manifest.lineage else None,
    }


def _descent(lineage: dict[str, Any] | None) -> str:
    """Return where a retrained package comes from, for people; nothing of one that was trained from the beginning."""
    if lineage is None:
        return ""
    return (
        f"; from {lineage['parent']} by {lineage['decisions']} decisions ({lineage['decisions_sha256'][:12]}), "
        f"{lineage['learnt']} learnt, gate {lineage['gate']}"
    )


async def _listed(pointer: ModelPointer, settings: Settings) -> list[dict[str, Any]]:
    rows = [
        _row(alias, choice, current=i == 0) for alias in Alias for i, choice in enumerate(await pointer.history(alias))
    ]
    if not any(row["alias"] == Alias.CHAMPION for row in rows):
        manifest = ModelPackage.load(settings.model).manifest
        own = Choice(path=settings.model, name=manifest.name, version=manifest.version, at=manifest.created_at)
        rows.insert(0, _row(Alias.CHAMPION, own, current=True) | {"why": "GUARDLINE_MODEL; nothing was promoted"})
    return rows


async def shadow_records(settings: Settings) -> list[ShadowRecord]:
    """Read the shadow topic from its beginning to where it ends now; a repeated record counts once."""
    from monitor.replay.places import resolve
    from monitor.replay.reading import batches, opened, topics_of

    partitions = (await topics_of(settings)).get(settings.topic_shadow)
    if not partitions:
        raise ConfigurationError(
            f"the broker has no topic {settings.topic_shadow}: create it, promote a package with --challenger and let "
            "the monitor see some messages"
        )
    found: dict[str, ShadowRecord] = {}
    async with opened(settings) as consumer:
        spans = await resolve(consumer, partitions, "earliest", "latest")
        async for records in batches(consumer, spans, most=1000, stop=asyncio.Event()):
            for record in records:
                with suppress(ValidationError):  # somebody else's record
                    own = ShadowRecord.model_validate_json(record.value or b"")
                    found[own.id] = own
    return list(found.values())


def disagreements(records: list[ShadowRecord]) -> dict[str, Any]:
    """Summarise what champion and challenger decided: counts by pair of verdicts, share of messages they differ on."""
    pairs = Counter((r.champion.verdict.value, r.challenger.verdict.value) for r in records)
    differ = [r for r in records if r.champion.verdict is not r.challenger.verdict]
    return {
        "messages": len(records),
        "disagreements": len(differ),
        "share": round(len(differ) / len(records), 4) if records else None,
        "verdicts": [{"champion": a, "challenger": b, "messages": n} for (a, b), n in sorted(pairs.items())],
        "first": [
            {
                "message_id": r.message_id,
                "champion": [r.champion.verdict.value, r.champion.score],
                "challenger": [r.challenger.verdict.value, r.challenger.score],
            }
            for r in sorted(differ, key=lambda r: -abs(r.champion.score - r.challenger.score))[:20]
        ],
    }


def _print_shadow(report: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{report['disagreements']} of {report['messages']} messages are decided differently")
    table = Table("champion", "challenger", "messages", box=None)
    for row in report["verdicts"]:
        table.add_row(row["champion"], row["challenger"], str(row["messages"]))
    console.print(table)
    for row in report["first"]:
        console.print(f"{row['message_id']}: {row['champion']} against {row['challenger']}", markup=False)


@click.command()
@click.option("--shadow", is_flag=True, help="How champion and challenger differ on the stream.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_MODEL
def models(shadow: bool, json_: bool, model: Path | None) -> None:
    """Show champion and challenger, and what they were before."""
    settings = load_settings(model=model)
    if shadow:
        report = disagreements(asyncio.run(shadow_records(settings)))
        if json_:
            click.echo(orjson.dumps(report).decode())
        else:
            _print_shadow(report)
        return
    rows = _with_pointer(settings, lambda pointer: _listed(pointer, settings))
    if json_:
        click.echo(orjson.dumps(rows).decode())
        return
    console = Console(highlight=False)
    for row in rows:
        console.print(
            f"[bold]{row['alias'] or 'before'}[/bold] {row['version']} since {row['since']}: {escape(row['why'])}"
        )
        figures = ", ".join(f"{name} {value}" for name, value in row.get("f1", {}).items())
        console.print(f"  {row.get('guideline') or row['problem']}; F1: {figures}; in {row['path']}", markup=False)
        if row.get("guideline"):
            hashes = f"guideline {row['guideline_sha256'][:12]}, corpus {row['corpus_sha256'][:12]}"
            console.print(f"  {hashes}{_descent(row['lineage'])}", markup=False)
