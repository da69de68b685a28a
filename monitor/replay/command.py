"""`guardline replay`: the command line over `dead_letters` and `history`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import orjson
from aiokafka import TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from monitor.errors import ConfigurationError
from monitor.factory import build_publisher, build_screening
from monitor.logs import configure
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.replay import dead_letters, history, rendering
from monitor.replay.places import Place, PlaceType, format_offsets, resolve
from monitor.replay.reading import opened, stopping_on_signals, topics_of
from monitor.settings import Settings, load_settings

_SOME, _STOPPED = 1, 4


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's standard error; yield what is told of each step."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps: progress.advance(task, steps)


def _partitions(topics: Mapping[str, list[TopicPartition]], topic: str, setting: str) -> list[TopicPartition]:
    if not topics.get(topic):
        raise ConfigurationError(f"no topic {topic} on the broker: set {setting}")
    return topics[topic]


async def _dead_letters(
    settings: Settings, selection: dead_letters.Selection, start: Place | None, end: Place, *, dry_run: bool
) -> dead_letters.Report:
    stop = asyncio.Event()
    publisher = None if dry_run else build_publisher(settings)
    try:
        with stopping_on_signals(stop):
            topics = await topics_of(settings)
            letters = _partitions(topics, settings.topic_deadletter, "GUARDLINE_TOPIC_DEADLETTER")
            async with opened(settings, group=selection.group(settings.group)) as consumer:
                spans = await dead_letters.spans_to_read(consumer, letters, start, end)
                with _progress("Replaying", sum(map(len, spans.values()))) as advance:
                    return await dead_letters.replay(
                        consumer,
                        spans,
                        selection,
                        publisher,
                        origins=topics.keys() - {settings.topic_deadletter},
                        commit=not dry_run and start is None,
                        stop=stop,
                        advance=advance,
                    )
    finally:
        if publisher is not None:
            await publisher.close()


async def _history(
    settings: Settings, start: Place, end: Place, *, model: Path, against: Path | None, flips: int
) -> history.Report:
    stop = asyncio.Event()
    judges: list[history.Judge] = []
    screenings = []

    def judge(path: Path) -> history.Judge:
        package = ModelPackage.load(path)
        screenings.append(build_screening(settings, package, MemoryStore()))
        return history.Judge(screenings[-1])

    async def before() -> history.Judge:
        if not judges:
            judges.append(judge(against or settings.model))
        return judges[0]

    try:
        after = judge(model)
        if against is not None:
            await before()  # a package that cannot be used is said before anything is read
        with stopping_on_signals(stop):
            topics = await topics_of(settings)
            inputs = _partitions(topics, settings.topic_outputs, "GUARDLINE_TOPIC_OUTPUTS")
            async with opened(settings) as consumer:
                spans = await resolve(consumer, inputs, start, end)
                audits = None
                if against is None and (records := topics.get(settings.topic_verdicts)):
                    audits = history.Audits(spans)
                    sources = await resolve(consumer, records, "earliest", "latest")
                    with _progress("Reading audit records", sum(map(len, sources.values()))) as advance:
                        await history.read_audits(consumer, sources, audits, stop=stop, advance=advance)
                with _progress("Judging", sum(map(len, spans.values()))) as advance:
                    return await history.rescore(
                        consumer,
                        spans,
                        after=after,
                        before=before,
                        audits=audits,
                        flips=flips,
                        stop=stop,
                        advance=advance,
                    )
    finally:
        for screening in screenings:
            await screening.close()


@click.command()
@click.option("--dead-letters", "letters", is_flag=True, help="Send dead letters back to where they came from.")
@click.option("--reason", "reasons", multiple=True, help="Only letters with this reason; may be given several times.")
@click.option("--most-replays", default=3, show_default=True, type=click.IntRange(1), help="Tries of one record.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent back, and send nothing.")
@click.option("--from", "start", type=PlaceType(), help="Where to begin.")
@click.option("--to", "end", type=PlaceType(), default="latest", show_default=True, help="Where to end; not included.")
@click.option("--model", type=click.Path(path_type=Path), help="Model package to judge past inputs with.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Compare with this package; default: with the audit records, and GUARDLINE_MODEL where there are none.",
)
@click.option("--flips", default=20, show_default=True, type=click.IntRange(0), help="Flips to list.")
@click.option("--show-text", is_flag=True, help="Show the statement behind each flip (it may be health data).")
@click.option("--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
def command(
    letters: bool,
    reasons: tuple[str, ...],
    most_replays: int,
    dry_run: bool,
    start: Place | None,
    end: Place,
    model: Path | None,
    against: Path | None,
    flips: int,
    show_text: bool,
    kafka_bootstrap: str | None,
    json_: bool,
) -> None:
    """Send dead letters back, or judge past inputs with another model and say which verdicts would flip.

    \b
    guardline replay --dead-letters [--reason processing_error] [--dry-run]
    guardline replay --from 2026-03-01T00:00:00Z --to latest --model runs/new/package

    A place (--from, --to) is earliest, latest, a time (ISO 8601; UTC where it names no zone), or exact offsets,
    topic/partition:offset,..., which also choose the partitions.

    Dead letters: the key, value and headers go back as they came, with the header guardline.replays counting the
    tries. Without --from it goes on where the last run with the same reasons ended (offsets of the consumer group
    <group>.replay), at first from the earliest; with --from that place is neither used nor moved.

    History: nothing is published. It judges in this process, whatever GUARDLINE_SCORER says, and reads the whole topic
    of audit records first, unless --against is given.

    Exits with 0 when all went back, or no verdict flips; 1 when some letters could not go back, or some verdicts flip;
    2 for wrong usage or configuration; 3 when the broker or a model cannot be used; 4 when it was stopped before the
    end (it says where to go on).
    """
    if letters:
        if model or against:
            raise click.UsageError("--dead-letters takes no --model: it sends records back and judges none")
    elif start is None or model is None:
        raise click.UsageError("give --dead-letters, or --from together with --model")
    elif reasons or dry_run:
        raise click.UsageError("--reason and --dry-run belong to --dead-letters")
    settings = load_settings(kafka_bootstrap=kafka_bootstrap, scorer=None if letters else "onnx")
    configure("warning", "console")
    console = None if json_ else Console()
    if start is not None and model is not None:
        judged = asyncio.run(_history(settings, start, end, model=model, against=against, flips=flips))
        if console:
            rendering.show_history(judged, show_text=show_text, console=console)
        _end(judged, rendering.history_as_json(judged, show_text=show_text), json_, some=judged.flipped > 0)
    selection = dead_letters.Selection(frozenset(reasons), most_replays)
    sent = asyncio.run(_dead_letters(settings, selection, start, end, dry_run=dry_run))
    if console:
        rendering.show_dead_letters(sent, dry_run=dry_run, console=console)
    as_json = rendering.dead_letters_as_json(sent, dry_run=dry_run)
    _end(sent, as_json, json_, some=sent.left > 0, kept=start is None and not dry_run)


def _end(
    report: dead_letters.Report | history.Report,
    as_json: dict[str, object],
    json_: bool,
    *,
    some: bool,
    kept: bool = False,
) -> NoReturn:
    """Print the JSON and where to go on, and exit.

    `some`: there are letters left, or verdicts that flip. `kept`: the broker has the place to go on from.
    """
    if json_:
        click.echo(orjson.dumps(as_json).decode())
    if not report.finished:
        how = "by running it again" if kept else f"with --from {format_offsets(report.resume)}"
        click.echo(f"guardline: stopped before the end; go on {how}", err=True)
        sys.exit(_STOPPED)
    sys.exit(_SOME if some else 0)
