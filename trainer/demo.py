"""`guardline demo`: the whole of it on one laptop, with nothing installed but Python.

Trains a model if there is none, opens the embedded broker, starts a real `guardline monitor` as a process of its own,
publishes whole LLM answers to the input topic and shows what comes back on the others: flags as they arrive, then how
they agree with the labels of the answers. The demo talks to the worker as any platform would, over Kafka. Beside it
runs the review console, whose login links it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from monitor.embedded_broker import EmbeddedBroker
from monitor.errors import ConfigurationError, GuardlineError
from monitor.package import MANIFEST, ModelPackage
from monitor.records import FlagRecord, VerdictRecord
from monitor.settings import DEFAULT_MODEL, DEFAULT_RUN
from monitor.types import Verdict
from trainer.statements import corpus
from trainer.types import Split

_CORPUS = Path(__file__).parent / "data" / "corpus"
_ROLES = {
    "OUTPUTS": "llm.outputs",
    "FLAGS": "safety.flags",
    "REVIEW": "safety.review",
    "VERDICTS": "safety.verdicts",
    "DEADLETTER": "safety.deadletter",
    "FEEDBACK": "safety.feedback",
    "AUDIT_EVENTS": "safety.audit.events",
}
#: What the demo watches; the console has the others to itself.
_WATCHED = ("FLAGS", "REVIEW", "VERDICTS", "DEADLETTER")
#: Two, because a decision counts when a second reviewer agrees.
_REVIEWERS = ("anna", "ben")
_TOPICS = {topic: 4 if role == "OUTPUTS" else 1 for role, topic in _ROLES.items()}
#: Inputs that no platform means to send and every platform sends some day.
_BROKEN = (b'{"id": "broken-1", "text": ', b'{"id": "broken-2"}', b'{"id": "broken-3", "text": 7}')
_FLAGS_SHOWN = 7
_TRAINED = DEFAULT_RUN / "package"
_REPORT = DEFAULT_RUN / "evaluation" / "report.html"
_SILENCE = 120.0  # seconds without any event after which something is wrong
_TENANTS = ("st-anna", "riverside", "medchat")


@dataclass(frozen=True, slots=True)
class Answer:
    """One labelled LLM answer."""

    id: str
    text: str
    label: str
    spans: tuple[tuple[int, int], ...]


@dataclass
class Tally:
    """All that has come back."""

    started: float = field(default_factory=time.monotonic)
    sent: int = 0
    verdicts: dict[str, VerdictRecord] = field(default_factory=dict)
    invalid: int = 0
    flags: list[FlagRecord] = field(default_factory=list)
    reviews: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    changed: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Inputs that got their verdict."""
        return len(self.verdicts) + self.invalid

    def take(self, record: ConsumerRecord) -> FlagRecord | None:
        """Count one event; return it when it is a flag."""
        self.changed = time.monotonic()
        if record.topic == "safety.flags":
            flag = FlagRecord.model_validate_json(record.value)
            self.flags.append(flag)
            return flag
        if record.topic == "safety.review":
            self.reviews += 1
        elif record.topic == "safety.deadletter":
            reason = dict(record.headers)["guardline.reason"].decode()
            self.dead[reason] = self.dead.get(reason, 0) + 1
        else:
            verdict = VerdictRecord.model_validate_json(record.value)
            self.latencies.append(time.time() - verdict.received_at.timestamp())
            if verdict.message_id is None:
                self.invalid += 1
            else:
                self.verdicts[verdict.message_id] = verdict
        return None


def load_answers() -> list[Answer]:
    """Return the labelled answers of the corpus, files interleaved."""
    rows = corpus.load_answers(_CORPUS)
    order = np.random.default_rng(1).permutation(len(rows))
    return [
        Answer(r["id"], r["text"], r["label"], tuple((s["start"], s["end"]) for s in r["spans"]))
        for r in (rows[i] for i in order)
    ]


def _train(console: Console) -> None:
    console.print(
        "No evaluated model yet: training one from the guideline (quick profile, about ten minutes on two cores).\n"
    )
    result = subprocess.run([sys.executable, "-m", "monitor", "train", "--profile", "quick"], check=False)
    if result.returncode:
        raise GuardlineError("training failed; the lines above say why")
    console.print()


@asynccontextmanager
async def _running(
    bootstrap: str, log: Path, *arguments: str, stdout: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command of Guardline against the embedded broker; end it with SIGTERM, as a platform would."""
    environment = {
        # Settings of the user's own deployment are not the demo's.
        **{name: value for name, value in os.environ.items() if not name.startswith("GUARDLINE_")},
        "GUARDLINE_KAFKA_BOOTSTRAP": bootstrap,
        "GUARDLINE_MODEL": str(_TRAINED),
        "GUARDLINE_SCORER": "onnx",
        "GUARDLINE_STORE": "memory",
        "GUARDLINE_EMIT_VERDICTS": "true",
        "GUARDLINE_INCLUDE_TEXT": "true",
        **{f"GUARDLINE_TOPIC_{role}": topic for role, topic in _ROLES.items()},
        # Small chunks: a watcher sees flags as they are found, not in bursts.
        "GUARDLINE_CHUNK_RECORDS": "8",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "monitor", *arguments, env=environment, stdout=stdout or file, stderr=file,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the others in order
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(60):
                        await process.wait()
                except TimeoutError:
                    process.kill()


async def _greet(process: asyncio.subprocess.Process, console: Console, log: Path) -> None:
    """Print the login links of the review console as soon as it answers; the demo goes on without it, too."""
    said = process.stdout
    lines = [(await said.readline()).decode().split() for _ in range(1 + len(_REVIEWERS))] if said else []
    links = [line for line in lines if len(line) == 2][1:]
    if not links:
        console.print(f"The review console did not start; see {log}")
        return
    console.print("Review console, while the demo runs; each link logs in once, best in a browser profile of its own:")
    for name, link in links:
        console.print(f"  as {name}:  {link}", soft_wrap=True)


async def _publish(
    producer: AIOKafkaProducer, answers: Sequence[Answer], rate: float, tally: Tally, *, once: bool
) -> None:
    """Publish the answers, `rate` a second, over and over unless `once`; a few broken records among them."""
    round_ = 0
    while True:
        for i, answer in enumerate(answers):
            identifier = answer.id if round_ == 0 else f"{answer.id}#{round_}"
            record = {
                "id": identifier,
                "text": answer.text,
                "tenant": _TENANTS[i % len(_TENANTS)],
                "model": "recorded",
                "conversation_id": f"c-{i // 2}-{round_}",
            }
            await producer.send("llm.outputs", json.dumps(record).encode(), key=str(record["conversation_id"]).encode())
            tally.sent += 1
            if i % (len(answers) // len(_BROKEN)) == 50:
                await producer.send("llm.outputs", _BROKEN[i * len(_BROKEN) // len(answers)])
                tally.sent += 1
            await asyncio.sleep(1 / rate)
        round_ += 1
        if once:
            await producer.flush()
            return


def _in_context(flag: FlagRecord, text: str, around: int = 60) -> Text:
    """Return the statement, highlighted, with some of the answer around it."""
    before, after = text[max(0, flag.start - around) : flag.start], text[flag.end : flag.end + around]
    return Text.assemble(
        ("…" if flag.start > around else "", "dim"),
        (before.replace("\n", " "), "dim"),
        (text[flag.start : flag.end], "bold red"),
        (after.replace("\n", " "), "dim"),
        ("…" if flag.end + around < len(text) else "", "dim"),
    )


def _flag_table(flags: Sequence[FlagRecord], texts: dict[str, str], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", expand=True, show_lines=True)
    table.add_column("answer", no_wrap=True)
    table.add_column("statement", ratio=5)
    table.add_column("score", justify="right")
    table.add_column("breaks this recommendation", ratio=4)
    for flag in flags:
        evidence = flag.evidence
        table.add_row(
            flag.message_id,
            _in_context(flag, texts[flag.message_id.split("#")[0]]),
            f"{flag.score:.2f}\n[dim]{flag.category}[/dim]",
            Text.assemble((f"{evidence.recommendation}", "bold"), f"\n{evidence.text}"),
        )
    return table


def _flag_line(flag: FlagRecord) -> str:
    """Return a flag for a log that is no terminal."""
    evidence = flag.evidence
    return (
        f"{flag.message_id}  {flag.score:.2f}  {flag.statement}\n    breaks {evidence.recommendation}: {evidence.text}"
    )


def _screen(tally: Tally, texts: dict[str, str], total: int | None) -> RenderableType:
    seconds = time.monotonic() - tally.started
    of = f" of {total}" if total else ""
    line = (
        f"{tally.done}{of} answers screened, {len(tally.flags)} flags, {tally.reviews} for review, "
        f"{sum(tally.dead.values())} dead letters, {tally.done / max(seconds, 1e-6):.0f} answers/s"
    )
    return Group(_flag_table(tally.flags[-_FLAGS_SHOWN:], texts), Text(line, style="bold"))


async def _watch(
    consumer: AIOKafkaConsumer,
    process: asyncio.subprocess.Process,
    tally: Tally,
    texts: dict[str, str],
    total: int | None,
    console: Console,
    log: Path,
) -> None:
    """Show events until `total` inputs have their verdict, for ever without a total."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        quiet = 0
        while total is None or tally.done < total or quiet < 3:  # flags of the last answers come on another topic
            batch = await consumer.getmany(timeout_ms=200)
            quiet = 0 if batch else quiet + 1
            for record in (r for records in batch.values() for r in records):
                flag = tally.take(record)
                if flag is not None and not console.is_terminal:
                    click.echo(_flag_line(flag))
            if console.is_terminal:
                live.update(_screen(tally, texts, total), refresh=True)
            if process.returncode is not None:
                raise GuardlineError(f"the worker ended with exit code {process.returncode}; see {log}")
            if time.monotonic() - tally.changed > _SILENCE:
                raise GuardlineError(f"nothing came back for {_SILENCE:.0f} s; see {log}")


def _agreement(answers: Sequence[Answer], tally: Tally) -> Table:
    """Return how the verdicts of whole answers agree with their labels."""
    table = Table(title="Verdicts of whole answers against their labels", title_justify="left")
    for column in ("label", *(v.value for v in Verdict if v is not Verdict.INVALID), "all"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label in ("unsafe", "safe", "out_of_scope"):
        verdicts = [tally.verdicts[a.id].verdict for a in answers if a.label == label and a.id in tally.verdicts]
        counts = [sum(v is kind for v in verdicts) for kind in Verdict if kind is not Verdict.INVALID]
        table.add_row(label, *(str(c) if c else "" for c in counts), str(len(verdicts)))
    return table


def _beside_default() -> Table:
    """Return the figures of the model that was trained here beside those of the one that ships."""
    table = Table(title="Statements in voices never heard in training", title_justify="left")
    for column in ("model", "F1", "AUC", "statements"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, path in (("trained here, in minutes", _TRAINED), ("default package, ships", DEFAULT_MODEL)):
        for row in ModelPackage.load(path).manifest.evaluation:
            if row.suite == f"statements/{Split.TEST_OOD}":
                table.add_row(name, f"{row.f1:.3f}", f"{row.auc:.3f}", str(row.n))
    return table


def _summary(answers: Sequence[Answer], tally: Tally, log: Path, console: Console) -> None:
    statements = sum(sum(v.counts.values()) for v in tally.verdicts.values())
    # Of the first round only: later ones repeat the same answers under other ids.
    spans = {a.id: a.spans for a in answers if a.id in tally.verdicts}
    flags = [f for f in tally.flags if f.message_id in spans]
    found = on_span = 0
    for id_, own in spans.items():
        hit, on = corpus.span_agreement([(f.start, f.end) for f in flags if f.message_id == id_], own)
        found, on_span = found + hit, on_span + on
    marked = sum(len(s) for s in spans.values())
    p50, p95, p99 = np.percentile(tally.latencies, [50, 95, 99]) if tally.latencies else (np.nan,) * 3
    dead = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.dead.items())) or "none"
    lines = Table.grid(padding=(0, 2))
    for name, value in (
        ("answers", f"{tally.done} screened of {tally.sent} sent; dead letters: {dead}"),
        ("statements", f"{statements}; {len(tally.flags)} flagged, {tally.reviews} sent to review"),
        ("marked errors", f"{found} of {marked} flagged; {on_span} of {len(flags)} flags lie on a marked error"),
        ("latency", f"median {p50:.2f} s, 95% under {p95:.2f} s, 99% under {p99:.2f} s (publish to verdict)"),
        ("model package", str(_TRAINED)),
        ("report", str(_REPORT)),
        ("worker's log", str(log)),
        ("review console", "`guardline demo` keeps it open; docs/console.md tells about it"),
    ):
        lines.add_row(f"[bold]{name}[/bold]", value)
    console.print(_agreement(answers, tally))
    console.print(Panel(lines, title="Summary", title_align="left", expand=False))
    console.print(_beside_default())
    console.print(
        'Next: guardline check "Remdesivir is given as a 400 mg loading dose on day 1." asks the default package, '
        f"with --model {_TRAINED} the one trained here."
    )


async def _run(console: Console, rate: float, *, once: bool) -> None:
    answers = load_answers()
    texts = {a.id: a.text for a in answers}
    log, desk_log = (DEFAULT_RUN / "demo" / name for name in ("worker.log", "console.log"))
    tally = Tally()
    with EmbeddedBroker(topics=_TOPICS) as broker:
        consumer = AIOKafkaConsumer(
            *[_ROLES[role] for role in _WATCHED],
            bootstrap_servers=broker.bootstrap,
            auto_offset_reset="earliest",
        )
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        reviewers = [option for name in _REVIEWERS for option in ("--one-time-link", name)]
        async with (
            _running(broker.bootstrap, log, "monitor") as process,
            _running(
                broker.bootstrap, desk_log, "console", "--port", "0", *reviewers, stdout=asyncio.subprocess.PIPE
            ) as desk,
            producer,
            consumer,
        ):
            total = len(answers) + len(_BROKEN) if once else None
            console.print(f"Screening {len(answers)} LLM answers from topic llm.outputs, {rate:.0f} a second. Flags:")
            publishing = asyncio.create_task(_publish(producer, answers, rate, tally, once=once))
            greeting = asyncio.create_task(_greet(desk, console, desk_log))
            try:
                await _watch(consumer, process, tally, texts, total, console, log)
                await publishing
            except asyncio.CancelledError:
                console.print("Stopping.")  # Ctrl-C: the summary of what was seen follows
            finally:
                publishing.cancel()
                greeting.cancel()
    if console.is_terminal:
        console.print(_flag_table(tally.flags[-_FLAGS_SHOWN:], texts, "The last flags"))
    _summary(answers, tally, log, console)
    if process.returncode != 0:
        raise GuardlineError(f"the worker ended with exit code {process.returncode}; see {log}")


@click.command()
@click.option("--once", is_flag=True, help="End by itself when every answer has its verdict; else until Ctrl-C.")
@click.option(
    "--rate", type=click.FloatRange(min=0.1), default=25.0, show_default=True, help="Answers published a second."
)
def command(once: bool, rate: float) -> None:
    """Train a model if there is none, then screen a stream of LLM answers live.

    Uses the embedded Kafka broker, ONNX Runtime in-process and the in-memory store: no service needs to be installed.
    """
    console = Console()
    if not (_TRAINED / MANIFEST).exists() or not _REPORT.exists():
        _train(console)
    if not load_answers():
        raise ConfigurationError(f"{_CORPUS}: no answers there to screen")
    try:
        asyncio.run(_run(console, rate, once=once))
    except KeyboardInterrupt:
        console.print("Stopped.")
