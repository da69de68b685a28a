"""`guardline audit`: the process that writes the log, and what can be asked of a log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
import structlog
from aiokafka import AIOKafkaConsumer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from monitor.alerts.worker import start
from monitor.audit import reproduction
from monitor.audit.entries import Drafts
from monitor.audit.file_log import FileLog
from monitor.audit.log import AuditLog
from monitor.audit.recorder import Recorder
from monitor.audit.topic_log import TopicLog
from monitor.audit.verification import Result, verify
from monitor.connections.kafka import ensure_kafka, group_consumer, kafka_options, refusal
from monitor.errors import ConfigurationError
from monitor.health import Health
from monitor.heartbeat import HEARTBEAT
from monitor.logs import configure
from monitor.records import ModelReference
from monitor.replay.reading import stopping_on_signals
from monitor.settings import Settings, load_settings

_log = structlog.get_logger(__name__)
_NO = 1
_DAY = 86_400_000

_PATH = click.argument("path", required=False, type=click.Path(path_type=Path))
_TOPIC = click.option("--topic", is_flag=True, help="The log is in the topic GUARDLINE_TOPIC_AUDIT, not in a folder.")
_BOOTSTRAP = click.option(
    "--bootstrap", "kafka_bootstrap", help="Kafka brokers, host:port,...  [env: GUARDLINE_KAFKA_BOOTSTRAP]"
)


@click.group()
def command() -> None:
    """Record flags and decisions in a hash-chained log, verify it, reproduce a verdict.

    The log is in a folder, PATH or GUARDLINE_AUDIT_PATH, or with --topic in a Kafka topic.
    """


def _log_of(settings: Settings, path: Path | None, topic: bool) -> AuditLog:
    if topic and path is not None:
        raise click.UsageError("give PATH or --topic, not both")
    if topic:
        return TopicLog(settings)
    folder = path or settings.audit_path
    if folder is None:
        raise ConfigurationError("where is the audit log? Name its folder, set GUARDLINE_AUDIT_PATH, or give --topic")
    return FileLog(folder)


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    # A log that is away stops reading; the group must not take that for death.
    return group_consumer(settings, "audit", max_poll_interval_ms=_DAY)


async def _serve(settings: Settings, log: AuditLog) -> None:
    await ensure_kafka(settings)
    drafts = Drafts(settings)
    recorder = Recorder(log, drafts, lambda: datetime.now(UTC))
    health = Health(HEARTBEAT, recorder.progress, settings.stall_timeout)
    stop = asyncio.Event()
    port = await health.serve(settings.metrics_host, settings.metrics_port) if settings.metrics_port else None
    try:
        with stopping_on_signals(stop):
            await recorder.open()
            consumer = await start(lambda: _consumer(settings), lambda: refusal(kafka_options(settings)), stop)
            if consumer is None:
                return
            try:
                health.ready = True
                _log.info("audit_started", topics=drafts.topics, entries=recorder.head.seq + 1)
                await recorder.run(consumer, stop)
            finally:
                health.ready = False
                await consumer.stop()
    finally:
        await log.close()
        if port is not None:
            await port.cleanup()
        _log.info("audit_stopped", seq=recorder.head.seq, hash=recorder.head.hash)


@command.command()
@_PATH
@_TOPIC
@_BOOTSTRAP
def record(path: Path | None, topic: bool, kafka_bootstrap: str | None) -> None:
    """Append every flag, review, decision and action to the log, until SIGTERM or Ctrl-C.

    Run one: a log has one writer. It goes on where the log ends, so it can be killed at any time: nothing is missing
    then, and nothing is there twice. While the log cannot be written, nothing is committed and /live stays 200.

    Exits with 0 after an orderly stop; 2 for wrong usage or configuration; 3 when the log's chain is broken, another
    process writes to it, or the broker refuses.
    """
    settings = load_settings(kafka_bootstrap=kafka_bootstrap)
    log = _log_of(settings, path, topic)
    configure(settings.log_level, settings.log_format)
    asyncio.run(_serve(settings, log))


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal's standard error how many entries were done; yield what is told of them."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda steps: progress.advance(task, steps)


def _result_as_json(result: Result) -> dict[str, object]:
    problem = result.problem
    return {
        "intact": problem is None,
        "entries": result.entries,
        "head": {"seq": result.head.seq, "hash": result.head.hash},
        "problem": {"place": problem.place, "why": problem.why} if problem else None,
    }


@command.command("verify")
@_PATH
@_TOPIC
@click.option("--head", metavar="HASH", help="A hash noted before: an entry must have it, else the end was cut off.")
@click.option("--after", metavar="HASH", help="Hash of the last entry of the segments that were moved elsewhere.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_BOOTSTRAP
def verify_command(
    path: Path | None, topic: bool, head: str | None, after: str | None, json_: bool, kafka_bootstrap: str | None
) -> None:
    """Check that the log is what was appended: nothing changed, removed, inserted, moved or repeated.

    That entries were cut off the end is found with --head and a hash that was kept elsewhere: each is in the recorder's
    log lines `audit_checkpoint`, in its metric guardline_audit_checkpoint_info, and printed here. The first line that
    is wrong is named; nothing after it is looked at.

    Exits with 0 when the log is intact, 1 when it is not; 2 for wrong usage or configuration; 3 when it cannot be read.
    """
    settings = load_settings(kafka_bootstrap=kafka_bootstrap)
    configure("warning", "console")
    log = _log_of(settings, path, topic)
    with _counting("Entries checked:") as advance:
        result = asyncio.run(verify(log, head=head, after=after, advance=advance))
    if json_:
        click.echo(orjson.dumps(_result_as_json(result)).decode())
    elif result.problem is None:
        click.echo(f"intact: {result.entries} entries; head {result.head.hash} (entry {result.head.seq})")
    else:
        click.echo(f"not intact: {result.problem.place}: {result.problem.why}")
        click.echo(f"{result.entries} entries before it are intact", err=True)
    sys.exit(0 if result.problem is None else _NO)


def _show(found: reproduction.Reproduction) -> None:
    console = Console(highlight=False)
    table = Table("", "recorded", "recomputed", "", box=None)
    for name in reproduction.COMPARED:
        now = "no such statement" if found.recomputed is None else found.recomputed[name]
        table.add_row(
            name, Text(str(found.recorded[name])), Text(str(now)), "differs" if name in found.differences else ""
        )
    console.print(f"flag {found.flag}, {found.model.name} {found.model.version}", markup=False)
    console.print(table)
    console.print("identical" if found.identical else f"different: {', '.join(found.differences)}", markup=False)
    if found.differences == ["score"]:
        console.print(
            "The decision is the same. Other processors, versions of ONNX Runtime, GPUs and Triton round otherwise."
        )


def _reproduction_as_json(found: reproduction.Reproduction) -> dict[str, object]:
    return {
        "flag": found.flag,
        "model": found.model.model_dump(),
        "thresholds": found.thresholds.model_dump(),
        "identical": found.identical,
        "differences": found.differences,
        "recorded": found.recorded,
        "recomputed": found.recomputed,
    }


async def _reproduce(
    settings: Settings, log: AuditLog, flag: str, model: Path | None, message: Path | None
) -> reproduction.Reproduction:
    with _counting("Entries read:") as advance:
        details = await reproduction.find(log, flag, advance=advance)
    package = await reproduction.find_package(settings, ModelReference.model_validate(details["model"]), model)
    if message is not None:
        read = reproduction.read_message(await asyncio.to_thread(message.read_bytes), details["message_id"])
    else:
        read = await reproduction.fetch_message(settings, details["origin"])
    return await reproduction.reproduce(flag, details, package, read, settings)


@command.command()
@click.argument("flag")
@_PATH
@_TOPIC
@click.option("--model", type=click.Path(path_type=Path), help="The package; default: found by its name and version.")
@click.option(
    "--message",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The message, as a record or as bare text; default: read from the broker.",
)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_BOOTSTRAP
def reproduce(
    flag: str,
    path: Path | None,
    topic: bool,
    model: Path | None,
    message: Path | None,
    json_: bool,
    kafka_bootstrap: str | None,
) -> None:
    """Compute the verdict behind FLAG (its id) again, and say whether it is identical.

    The log names model and version, thresholds, and where the message lies; the package is GUARDLINE_MODEL or one that
    was promoted before. It judges in this process, whatever GUARDLINE_SCORER says, and prints no message text.

    Exits with 0 when verdict, score, category, recommendation and span are identical, the score to its last digit; 1
    when something differs; 2 when flag, package or message are not there; 3 when broker or model cannot be used.
    """
    settings = load_settings(kafka_bootstrap=kafka_bootstrap)
    configure("warning", "console")
    log = _log_of(settings, path, topic)
    found = asyncio.run(_reproduce(settings, log, flag, model, message))
    if json_:
        click.echo(orjson.dumps(_reproduction_as_json(found)).decode())
    else:
        _show(found)
    sys.exit(0 if found.identical else _NO)
