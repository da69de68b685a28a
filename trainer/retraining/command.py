"""`guardline retrain`: once, on a schedule, or as the gate alone."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click
import structlog
from cronsim import CronSim, CronSimError
from rich.console import Console

from monitor.errors import ConfigurationError, GuardlineError
from monitor.factory import build_pointer
from monitor.logs import configure
from monitor.models.pointer import ModelPointer
from monitor.package import ModelPackage
from monitor.settings import DEFAULT_RUN, Settings, load_settings
from trainer.artifacts import RunFolder
from trainer.errors import CorpusError
from trainer.guideline.guidelines import DEFAULT_PACK, Pack
from trainer.llm.completions import CompletionCache, RecordedCompleter
from trainer.llm.options import DEFAULT_PROVIDER
from trainer.llm.port import Completer
from trainer.llm.providers import load_provider
from trainer.pipeline import in_words, progress_bar
from trainer.retraining import corpus, feedback, guideline, lineage, rendering, takeover
from trainer.retraining.attempts import Attempt, Attempts, Ended, model_name
from trainer.retraining.lock import Held, held
from trainer.retraining.settings import PROFILES, RetrainSettings, StartFrom
from trainer.retraining.stages import Retraining
from trainer.settings import PROFILES as TRAINING
from trainer.statements.generation import GenerationSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    run: Path
    source: Path | None
    topic: bool
    settings: RetrainSettings
    least: int
    shadow: int
    shadow_timeout: float
    promote: bool
    again: bool
    candidate: Path | None = None
    pack: Path | None = None
    provider: str | None = None

    @property
    def given(self) -> dict[str, Path | None]:
        """What a retraining is of besides decisions."""
        return {"candidate": self.candidate, "pack": self.pack}


@dataclass(frozen=True)
class Result:
    """How one call ended: `outcome` is None where there was nothing to do."""

    outcome: Ended | None
    said: str
    facts: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """1 where a challenger was made and did not take over, though it was to."""
        return int(self.outcome in (Ended.REFUSED, Ended.DISAGREED, Ended.UNUSABLE))


def _begin(order: Order, settings: Settings, champion: ModelPackage, console: Console) -> Attempt | str:
    """Return the attempt to work on, or why there is nothing to do."""
    attempts = Attempts(order.run)
    open_ = attempts.unfinished()
    given = {name: str(path.resolve()) if path else None for name, path in order.given.items()}
    if open_ is not None and open_.champion == model_name(champion) and open_.given == given:
        console.print(f"Going on with {open_.root}, which was begun before; decisions made since wait for the next")
        return open_
    if open_ is not None and champion.path.resolve() == (open_.root / "package").resolve():
        open_.end(Ended.PROMOTED)  # killed right after the pointer had moved
    elif open_ is not None:
        console.print(f"{open_.root} was begun against {open_.champion}, or with other options: closed")
        open_.end(Ended.SUPERSEDED)
    file = order.run / "retraining" / "next.jsonl"
    rows = feedback.take(order.source, order.topic, settings, file, console)
    new = {row.id for row in rows} - attempts.known()
    if len(new) < order.least and not (order.again or order.candidate or order.pack):
        file.unlink()
        return (
            f"nothing to do: {len(rows)} settled decisions, {len(new)} of them new since the last retraining, and "
            f"--least asks for {order.least}"
        )
    return attempts.begin(champion, order.settings.profile, file, given)


def _revised(base: corpus.Base, pack: Pack, attempt: Attempt, order: Order, console: Console) -> corpus.Base:
    cache = CompletionCache(RunFolder(order.run).completions)
    own = load_provider(order.provider or DEFAULT_PROVIDER)
    completer: Completer = RecordedCompleter(own, cache)
    if order.provider:
        from trainer.llm.openai_completer import OpenAICompleter  # whose client takes a second to import

        completer = OpenAICompleter(own, cache)
    with progress_bar(console) as progress:
        revised = guideline.revise(
            base, pack, attempt.root / "guideline", completer, GenerationSettings(), progress, TRAINING["full"].corpus
        )
    console.print(f"[bold]guideline[/bold]   {in_words(revised.counts)}")
    return revised.base


def _train(attempt: Attempt, order: Order, champion: ModelPackage, console: Console) -> Retraining:
    base = corpus.base(order.run, champion, console, DEFAULT_PACK)
    if order.pack is not None:
        base = _revised(base, Pack.load(order.pack), attempt, order, console)
    corpus.note(attempt.root, base)
    before = Attempts(order.run).before(attempt)
    retraining = Retraining(attempt.root, champion, base, order.settings, before, order.candidate)
    retraining.run(console)
    return retraining


def _shadow(
    retraining: Retraining,
    order: Order,
    pointer: ModelPointer,
    settings: Settings,
    runner: asyncio.Runner,
    console: Console,
) -> tuple[list[str], dict[str, Any]]:
    """Return why the stream speaks against the challenger, and what was seen."""
    with progress_bar(console) as progress:
        task = progress.add_task("shadow: messages judged by both", total=order.shadow)
        found = runner.run(
            takeover.shadow(
                retraining.challenger(), pointer, settings, wanted=order.shadow, patience=order.shadow_timeout,
                advance=lambda n: progress.update(task, completed=n), say=console.print,
            )
        )  # fmt: skip
    bounds = order.settings.shadow
    console.print(
        f"[bold]shadow[/bold]      {found.messages} messages: {found.new_flags:.1%} flagged by the challenger alone, "
        f"{found.lost_flags:.1%} by the champion alone"
    )
    return found.reasons(bounds, order.shadow), {"shadow": takeover.as_json(found, bounds)}


def _once(
    order: Order,
    settings: Settings,
    pointer: ModelPointer | None,
    lock: Held,
    runner: asyncio.Runner,
    console: Console,
) -> Result:
    champion = runner.run(takeover.current(pointer, settings))
    begun = _begin(order, settings, champion, console)
    if isinstance(begun, str):
        return Result(None, begun, {})
    console.print(f"Retraining against champion {model_name(champion)} in {begun.root}")
    try:
        retraining = _train(begun, order, champion, console)
    except CorpusError as error:
        begun.end(Ended.UNUSABLE, reasons=[str(error)])
        return Result(Ended.UNUSABLE, str(error), {})
    verdict, challenger = retraining.verdict(), retraining.challenger()
    for table in rendering.tables(verdict):
        console.print(table)
    right, of = lineage.learnt(retraining.compared())
    facts: dict[str, Any] = {
        "challenger": model_name(challenger), "champion": model_name(champion), "package": str(challenger.path),
        "report": str(retraining.report), "learnt": right, "decisions": of,
    }  # fmt: skip
    console.print(f"Decisions learnt: {right} of {of}. Report: {retraining.report}")

    def ended(how: Ended, said: str, reasons: list[str]) -> Result:
        begun.end(how, reasons=reasons, **facts)
        return Result(how, said, facts | {"reasons": reasons})

    if not verdict.passed:
        return ended(Ended.REFUSED, f"refused: {'; '.join(verdict.reasons)}", verdict.reasons)
    if not order.promote or pointer is None:
        return ended(Ended.PASSED, f"passed, not promoted: guardline promote {challenger.path}", [])
    if order.shadow:
        reasons, seen = _shadow(retraining, order, takeover.FencedPointer(pointer, lock), settings, runner, console)
        facts |= seen
        if reasons:
            return ended(Ended.DISAGREED, f"refused in the shadow: {'; '.join(reasons)}", reasons)
    why = f"retrained on {of} decisions ({right} learnt), gate passed" if of else "passed the gate of retrain"
    runner.run(
        takeover.promote(
            challenger, model_name(champion), takeover.FencedPointer(pointer, lock), settings, why=why,
            say=console.print,
        )
    )  # fmt: skip
    return ended(Ended.PROMOTED, f"champion: {model_name(challenger)}", [])


def once(order: Order, settings: Settings, console: Console) -> Result:
    """Retrain if there is reason to, and see how it ends.

    Raises:
        LockHeld: another retraining is at work.
        LockLost: this one was held up for too long; nothing was moved.
        ConfigurationError: something is not usable; the message says what to do.
        GuardlineError: a service does not answer, or the package was refused where it should serve.
    """
    pointer = build_pointer(settings)
    if order.promote and pointer is None:
        raise ConfigurationError(
            "nothing says which model is in use, so none can be promoted: set GUARDLINE_MODELS_FILE or "
            "GUARDLINE_STORE=redis as for the monitor, or give --no-promote"
        )
    with asyncio.Runner() as runner:  # connections of a pointer are of one event loop
        try:
            with held(settings, order.run) as lock:
                return _once(order, settings, pointer, lock, runner, console)
        finally:
            if pointer is not None:
                runner.run(pointer.close())


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Yield what is set by SIGTERM, so that a loop ends between two retrainings; a second one ends at once."""
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def on_schedule(
    expression: str,
    work: Callable[[], Result],
    stop: threading.Event,
    console: Console,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Work at each time that a cron expression names (UTC) until told to stop; a failure waits for the next time.

    Raises:
        ConfigurationError: it is no cron expression.
    """
    try:
        CronSim(expression, now())
    except CronSimError as error:
        raise ConfigurationError(f"--schedule {expression!r} is no cron expression: {error}") from error
    while not stop.is_set():
        due = next(CronSim(expression, now()))
        console.print(f"Next retraining at {due:%Y-%m-%d %H:%M} UTC")
        while not stop.is_set() and (left := (due - now()).total_seconds()) > 0:
            stop.wait(min(left, 60))
        if stop.is_set():
            return
        try:
            result = work()
        except GuardlineError as error:
            _log.error("retraining_failed", error=str(error), action="tried again at the next time")
        else:
            _log.info("retraining_ended", outcome=result.outcome or "nothing to do", said=result.said)


@click.command()
@click.option(
    "--run",
    "run_",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_RUN,
    show_default=True,
    help="Run folder: its corpus is learnt from again, retrainings lie in its folder `retraining`.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settled decisions, as `guardline feedback export --with-text` writes them.",
)
@click.option("--topic", is_flag=True, help="Read decisions from the feedback topic, statements from their messages.")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="quick",
    show_default=True,
    help="quick: the encoder stays, its heads and the verifier take a step (minutes); full: all is trained further.",
)
@click.option(
    "--start",
    type=click.Choice([s.value for s in StartFrom]),
    default=StartFrom.CHAMPION.value,
    show_default=True,
    help="Weights to start from: the champion's, or those that `guardline train` starts from.",
)
@click.option(
    "--least", type=click.IntRange(min=1), default=20, show_default=True, help="New decisions that are worth it."
)
@click.option("--again", is_flag=True, help="Retrain though there are too few new decisions.")
@click.option(
    "--margin",
    type=click.FloatRange(min=0, max=0.5),
    help="What may be lost at most on the large frozen sets; small strata have 0.05, or this where it is more.  "
    "[default: 0.03]",
)
@click.option(
    "--shadow",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Messages that champion and challenger have to judge side by side before it takes over; 0: none.",
)
@click.option(
    "--shadow-timeout",
    type=click.FloatRange(min=1),
    default=86_400.0,
    show_default=True,
    help="Seconds to wait for them.",
)
@click.option("--promote/--no-promote", default=True, help="Let a challenger that passes take over.", show_default=True)
@click.option("--schedule", metavar="CRON", help='Stay, and retrain at these times (UTC), as "0 3 * * 1".')
@click.option(
    "--candidate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Train nothing: put this package through the gate. Decisions are then optional.",
)
@click.option(
    "--pack",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A new version of the guideline: statements of what changed are written again, all others stay. Decisions are "
    "then optional.",
)
@click.option(
    "--provider", metavar="NAME|FILE", help="Language model that writes them.  [default: recorded answers of the run]"
)
@click.option("--once", "once_", is_flag=True, help="Retrain now and end; the default without --schedule.")
@click.option("--json", "json_", is_flag=True, help="Print how it ended as JSON.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Champion where nothing was promoted.  [env: GUARDLINE_MODEL]"
)
@click.pass_context
def command(
    ctx: click.Context,
    run_: Path,
    source: Path | None,
    topic: bool,
    profile: str,
    start: str,
    least: int,
    again: bool,
    margin: float | None,
    shadow: int,
    shadow_timeout: float,
    promote: bool,
    schedule: str | None,
    candidate: Path | None,
    pack: Path | None,
    provider: str | None,
    once_: bool,
    json_: bool,
    model: Path | None,
) -> None:
    """Let a challenger learn what reviewers decided; it becomes champion if it is better, and certainly worse nowhere.

    One at a time in a deployment. A retraining that was killed goes on where it was. Champion and challenger are
    measured on the same frozen sets, which no decision gets into.

    Exits with 0 when a challenger was promoted, when it passed and --no-promote was given, and when there is nothing to
    do; 1 when the gate or the shadow refused it; 2 for wrong usage or configuration; 3 when a service cannot be used,
    the package is refused where it should serve, or another retraining is at work.
    """
    if provider and not pack:
        raise click.UsageError("--provider belongs to --pack")
    if (source is not None and topic) or not (source or topic or candidate or pack):
        raise click.UsageError("say where the decisions are: either --from FILE or --topic")
    if schedule and once_:
        raise click.UsageError("--once and --schedule exclude each other")
    settings = load_settings(model=model)
    own = replace(PROFILES[profile], start=StartFrom(start))
    if margin is not None:
        gate = replace(own.gate, margin=margin, fine_margin=max(margin, own.gate.fine_margin))
        own = replace(own, gate=gate)
    configure(settings.log_level, settings.log_format)
    for chatty in ("onnx_ir", "onnxscript", "torch", "bm25s"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    console = Console(stderr=True)
    order = Order(run_, source, topic, own, least, shadow, shadow_timeout, promote, again, candidate, pack, provider)
    if schedule:
        with _until_stopped() as stop:
            on_schedule(schedule, lambda: once(order, settings, console), stop, console)
        return
    started = time.monotonic()
    result = once(order, settings, console)
    if json_:
        content = {"outcome": result.outcome or "nothing to do", "said": result.said, **result.facts}
        click.echo(json.dumps(content | {"seconds": round(time.monotonic() - started, 1)}))
    else:
        click.echo(result.said)
    ctx.exit(result.exit_code)
