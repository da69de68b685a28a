"""`guardline train`: the stages in order, each skipped when its inputs have not changed.

    extract -> passages -> summaries -> generate -> corpus -> encoder -> classifier -> export -> evaluate

A language model takes part in the first four and as a judge in the fifth where a provider is named; without one, rules,
an extractive summary and the pack's recorded statements stand in. Evaluation comes last because it measures the
exported package, through the monitor's own path.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monitor.errors import ConfigurationError
from monitor.package import MANIFEST, SCHEMA_VERSION
from monitor.settings import DEFAULT_RUN
from trainer import (
    assembly,
    classifier,
    contrastive,
    corpus,
    encoder,
    evaluation,
    export,
    generation,
    guidelines,
    report,
    retrieval,
    summaries,
)
from trainer.artifacts import RunFolder, digest, fingerprint, read_rows, write_json
from trainer.errors import StageMissing
from trainer.generation import Context
from trainer.guidelines import DEFAULT_PACK, Pack, read_sources
from trainer.llm import Completer, Completion, Request, ignore
from trainer.provider_options import ProviderOptions, provider_options
from trainer.providers import ProviderSettings, load_provider
from trainer.settings import PROFILES, TrainSettings
from trainer.suites import further_suites
from trainer.types import Recommendation, Split

STAGES = ("extract", "passages", "summaries", "generate", "corpus", "encoder", "classifier", "export", "evaluate")
#: Stages in which every process takes part; `accelerate launch` is for these.
_DISTRIBUTED = ("encoder",)


@dataclass(frozen=True)
class _Stage:
    """A stage: the fingerprint of its inputs, the artefacts it leaves, and how to run it."""

    name: str
    inputs: Callable[[], str]
    artifacts: Sequence[Path]
    run: Callable[[Progress], dict[str, Any]]


class Pipeline:
    """One run folder, one pack, one set of settings; a language model and a judge where they are named."""

    def __init__(
        self,
        folder: RunFolder,
        pack: Pack,
        settings: TrainSettings,
        completer: Completer | None = None,
        judge: Completer | None = None,
        provider: ProviderSettings | None = None,
    ) -> None:
        self.folder = folder
        self.pack = pack
        self.settings = settings
        self.completer = completer
        self.judge = judge
        self.provider = provider

    def recommendations(self) -> list[Recommendation]:
        """Return what the stage `extract` found."""
        return read_rows(self.folder.recommendations, Recommendation)

    def _ids(self) -> list[str]:
        return [r.id for r in self.recommendations()]

    @property
    def _model(self) -> str:
        return self.completer.model if self.completer else ""

    @cached_property
    def _frozen(self) -> encoder.Embedder:
        """The encoder before training, for retrieval and near-duplicates."""
        own = self.settings.encoder
        loaded = encoder.load_pretrained(own.base, own.pooling)
        return encoder.Embedder(*loaded, max_length=own.max_length, sub_batch=2 * own.sub_batch)

    def _passages(self, progress: Progress) -> dict[str, Any]:
        sources = read_sources(self.pack, self.folder.root / guidelines.SOURCES)
        return retrieval.run_passages(
            [(source, document.text) for source, document in sources],
            self._frozen.embed,
            self.folder,
            progress,
            lambda number, offset: sources[number][1].page_of(offset),
        )

    def _summaries(self, progress: Progress) -> dict[str, Any]:
        own = self.pack.spec
        return summaries.run_summaries(
            own.questions, own.treatment, own.condition, self.folder, self._frozen.embed, progress, self.completer
        )

    def context(self) -> Context:
        """Return what a writer of statements reads beside each recommendation."""
        index = retrieval.HybridIndex.of_folder(self.folder, self._frozen.embed)
        known = summaries.read_summaries(self.folder)
        own = self.pack.spec
        return Context(
            own.condition,
            own.treatment,
            {r.id: [summaries.context_for(r, index, known)] for r in self.recommendations()},
        )

    def _generate(self, progress: Progress) -> dict[str, Any]:
        if self.completer is None:
            return {"no provider": "the pack's recorded statements are used"}
        return generation.run(
            self.recommendations(), self.context(), self.folder, self.completer, self.settings.generation, progress
        )

    def _corpus(self, progress: Progress) -> dict[str, Any]:
        return assembly.run(
            self.pack,
            self.recommendations(),
            self.folder,
            self.settings.corpus,
            self._frozen.embed,
            progress,
            self.judge,
        )

    def _encoder(self, progress: Progress) -> dict[str, Any]:
        parts = corpus.load_split(self.folder)
        return contrastive.run(
            parts[Split.TRAIN],
            parts[Split.VALIDATION],
            self.recommendations(),
            self.folder,
            self.settings.encoder,
            progress,
        )

    def _embedder(self) -> tuple[encoder.Embedder, Any]:
        model, tokenizer = encoder.load_trained(self.folder)
        own = self.settings.encoder
        return encoder.Embedder(model, tokenizer, max_length=own.max_length, sub_batch=2 * own.sub_batch), tokenizer

    def _classifier(self, progress: Progress) -> dict[str, Any]:
        embedder, _ = self._embedder()
        examples = corpus.load_split(self.folder)
        return classifier.run(embedder, examples, self._ids(), self.folder, self.settings.classifier, progress)

    def _export(self, progress: Progress) -> dict[str, Any]:
        embedder, tokenizer = self._embedder()
        own = self.settings.encoder
        fitted = classifier.load(self.folder)
        return export.run(
            self.pack,
            self.recommendations(),
            embedder,
            tokenizer,
            fitted,
            self.folder,
            own.base,
            embedder.max_length,
            progress,
        )

    def _evaluate(self, progress: Progress) -> dict[str, Any]:
        own = self.settings
        recommendations = self.recommendations()
        measured = evaluation.run(
            self.pack.corpus if self.pack.spec.corpus else self.folder.generated,
            self._ids(),
            self.folder,
            own.encoder,
            own.classifier,
            own.evaluation,
            progress,
            suites=further_suites(self.pack, recommendations, self.folder, self._frozen.embed, own.evaluation),
        )
        report.write_report(self.folder, measured)
        return {s.suite: f"AUC {s.auc:.3f}, F1 {s.f1:.3f}" for s in measured.summary}

    def _exported(self) -> str:
        """Return what export wrote into the manifest: all but the summary that evaluate adds to it."""
        manifest = json.loads((self.folder.package / MANIFEST).read_text())
        return fingerprint({**manifest, "evaluation": []})

    def _stages(self) -> list[_Stage]:
        folder, settings, pack = self.folder, self.settings, self.pack
        served = [folder.package / "encoder", folder.package / "tokenizer.json"]
        base = (settings.encoder.base, settings.encoder.pooling)

        def of(*paths: Path) -> str:
            return "".join(map(digest, paths))

        def statements() -> list[Path]:
            return [folder.recommendations, folder.generated, *([pack.corpus] if pack.spec.corpus else [])]

        return [
            _Stage(
                "extract",
                lambda: fingerprint(pack.fingerprint(), self._model),
                [folder.recommendations, folder.root / guidelines.REPORT, folder.root / guidelines.REJECTED],
                lambda progress: guidelines.run(pack, folder, self.completer, progress),
            ),
            _Stage(
                "passages",
                lambda: fingerprint(pack.fingerprint(), base, of(folder.recommendations)),
                [folder.passages],
                self._passages,
            ),
            _Stage(
                "summaries",
                lambda: fingerprint(pack.fingerprint(), base, self._model, of(folder.passages)),
                [folder.summaries, summaries.rejected_file(folder)],
                self._summaries,
            ),
            _Stage(
                "generate",
                lambda: fingerprint(
                    settings.generation, self._model, of(folder.recommendations, folder.passages, folder.summaries)
                ),
                [folder.generated] if self.completer else [],
                self._generate,
            ),
            _Stage(
                "corpus",
                lambda: fingerprint(
                    pack.fingerprint(),
                    settings.corpus,
                    base,
                    self.judge.model if self.judge else "",
                    of(*statements(), pack.path.with_suffix(".vignettes.yaml")),
                ),
                [folder.statements, folder.rejected, folder.splits],
                self._corpus,
            ),
            _Stage(
                "encoder",
                lambda: fingerprint(settings.encoder, of(folder.statements, folder.splits)),
                [folder.encoder],
                self._encoder,
            ),
            _Stage(
                "classifier",
                lambda: fingerprint(settings.classifier, of(folder.encoder, folder.statements, folder.splits)),
                [folder.classifier],
                self._classifier,
            ),
            _Stage(
                "export",
                lambda: fingerprint(
                    pack.fingerprint(),
                    settings.encoder,
                    of(folder.encoder, folder.classifier, folder.statements),
                ),
                served,
                self._export,
            ),
            _Stage(
                "evaluate",
                lambda: fingerprint(
                    settings.evaluation,
                    settings.encoder,
                    settings.classifier,
                    self._exported(),
                    of(folder.passages, folder.statements, folder.splits, *statements()),
                ),
                [folder.evaluation],
                self._evaluate,
            ),
        ]

    def record_settings(self) -> None:
        """Write pack and settings into the run folder, for those who evaluate it again."""
        provider = self.provider.model_dump(mode="json") if self.provider else None
        content = {"pack": str(self.pack.path.resolve()), "provider": provider, **asdict(self.settings)}
        write_json(self.folder.root / "settings.json", content)

    def run(self, wanted: Sequence[str], console: Console, *, again: bool = False) -> None:
        """Run the wanted stages in order, skipping those that are current unless `again`.

        Raises:
            StageMissing: a stage before the first wanted one has not been run.
            ConfigurationError: several processes were started for a stage that one process runs.
        """
        if encoder.processes().num_processes > 1 and set(wanted) != set(_DISTRIBUTED):
            raise ConfigurationError(
                f"several processes run the stage {', '.join(_DISTRIBUTED)} only: run the others without "
                f"`accelerate launch`, and this one as `accelerate launch -m monitor.cli train {_DISTRIBUTED[0]}`"
            )
        main = encoder.processes().is_main_process
        for stage in self._stages():
            whole = stage.name != "export" or (self.folder.package / MANIFEST).exists()
            if stage.name not in wanted:
                if not (whole and all(path.exists() for path in stage.artifacts)) and STAGES.index(stage.name) < max(
                    map(STAGES.index, wanted)
                ):
                    raise StageMissing(
                        f"{self.folder.root}: run `guardline train {stage.name}` first, or `guardline train` for all"
                    )
                continue
            print_ = fingerprint(stage.name, version("guardline"), SCHEMA_VERSION, stage.inputs())
            if not again and whole and self.folder.is_current(stage.name, print_):
                console.print(f"[dim]{stage.name:<11} is current[/dim]")
                continue
            if main:
                self.record_settings()
            started = time.monotonic()
            with _progress(console) as progress:
                summary = stage.run(progress)
            seconds = time.monotonic() - started
            if main:
                self.folder.finish(stage.name, print_, stage.artifacts, seconds)
                console.print(
                    f"[bold]{stage.name:<11}[/bold] {seconds:6.1f} s   "
                    + ", ".join(f"{k} {v}" for k, v in summary.items())
                )


class _Collector:
    """A completer that sends nothing: it notes what it is asked and answers what is recorded."""

    def __init__(self, recorded: Completer) -> None:
        self._recorded = recorded
        self.model = recorded.model
        self.requests: list[Request] = []

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Answer as recorded."""
        self.requests += requests
        return self._recorded.complete(requests, advance)


def forecast(pack: Pack, settings: TrainSettings, recorded: Completer, console: Console) -> list[Request]:
    """Return what a language model would be asked in a whole run, from recorded answers where there are some.

    The stages before the statements run in a folder of their own, rules and extracts standing in for what is not
    recorded; so the requests are the very ones of the next run up to the first answer that is missing, and about as
    many and as long from there on.
    """
    collector = _Collector(recorded)
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = Pipeline(RunFolder(Path(scratch)), pack, settings, collector)
        pipeline.run(STAGES[: STAGES.index("generate")], console)
        asked = generation.forecast(pipeline.recommendations(), pipeline.context(), settings.generation, recorded)
    return [*collector.requests, *asked]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip


def _load_settings(folder: RunFolder) -> tuple[Pack, TrainSettings]:
    """Return pack and settings of an earlier run."""
    file = folder.root / "settings.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: nothing was trained there: run `guardline train --run {folder.root}`")
    content = json.loads(file.read_text())
    try:
        settings = TypeAdapter(TrainSettings).validate_python(content)
        pack = Path(content["pack"])
        own = {name: value for name, value in content.items() if name not in ("pack", "provider")}
        if json.loads(json.dumps(asdict(settings))) != own:
            raise ValueError("it holds settings that are not known here")
    except (KeyError, ValueError) as error:
        raise StageMissing(f"{file}: written by another version: run `guardline train --run {folder.root}`") from error
    return Pack.load(pack), settings


def _recorded_provider(folder: RunFolder) -> ProviderSettings | None:
    """Return whose answers a run holds, so that it can be repeated without a provider; None where nobody was asked."""
    try:
        content = json.loads((folder.root / "settings.json").read_text())
        return ProviderSettings.model_validate(content["provider"]) if content["provider"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def evaluate_again(folder: RunFolder) -> None:
    """Run the last stage of an earlier run again."""
    pack, settings = _load_settings(folder)
    Pipeline(folder, pack, settings).run(["evaluate"], Console(stderr=True), again=True)


def _settings(
    profile: str, base: str | None, pooling: str | None, seed: int | None, epochs: int | None
) -> TrainSettings:
    """Return a profile with what the options change of its encoder."""
    settings = PROFILES[profile]
    own = settings.encoder
    return replace(
        settings,
        encoder=replace(
            own,
            base=base or own.base,
            pooling=pooling or own.pooling,
            seed=own.seed if seed is None else seed,
            epochs=epochs or own.epochs,
        ),
    )


@click.command()
@click.argument("stages", nargs=-1, type=click.Choice(STAGES))
@click.option(
    "--run",
    "run_",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Run folder.  [default: {DEFAULT_RUN.parent}/<pack id>]",
)
@click.option(
    "--pack",
    "pack_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DEFAULT_PACK,
    help="Guideline pack.  [default: remdesivir for COVID-19]",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="full",
    show_default=True,
    help="quick: minutes; full: better; smoke: tests only.",
)
@click.option(
    "--encoder",
    "base",
    help=f"Encoder to start from: {', '.join(encoder.PRESETS)}, a Hugging Face name or a path.  "
    "[default: all-MiniLM-L6-v2]",
)
@click.option(
    "--pooling",
    type=click.Choice(list(encoder.Pooling)),
    help="How tokens become a sentence.  [default: the encoder's own]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the encoder.  [default: the profile's]")
@click.option("--seed", type=int, help="Of the encoder.  [default: the profile's]")
@click.option("--judge", "judge_", metavar="NAME|FILE", help="Another language model, to judge the statements.")
@click.option("--again", is_flag=True, help="Run the stages even where nothing has changed.")
@provider_options
def command(
    stages: tuple[str, ...],
    run_: Path | None,
    pack_: Path,
    profile: str,
    base: str | None,
    pooling: str | None,
    epochs: int | None,
    seed: int | None,
    judge_: str | None,
    again: bool,
    llm: ProviderOptions,
) -> None:
    """Train a model package: all stages, or only those named, in their order.

    Stages whose inputs have not changed are skipped, so an interrupted run goes on where it stopped. Without a
    --provider no language model is asked: rules extract the recommendations, and the pack's recorded statements are
    learnt from.
    """
    pack = Pack.load(pack_)
    settings = _settings(profile, base, pooling, seed, epochs)
    folder = RunFolder(run_ or DEFAULT_RUN.parent / pack.spec.id)
    console = Console(stderr=True)
    if not llm.sends:
        requests = forecast(pack, settings, llm.recorded(folder.completions), console)
        if llm.preview:
            generation.preview(requests, llm.preview)
        if llm.estimate_only:
            click.echo(llm.estimate(requests, folder.completions))
        return
    provider = llm.settings if llm.online else _recorded_provider(folder)
    completer = replace(llm, settings=provider).completer(folder.completions) if provider else None
    judge = (
        ProviderOptions(load_provider(judge_), online=True, max_cost=llm.max_cost).completer(folder.completions)
        if judge_
        else None
    )
    console.print(f"Training [bold]{pack.spec.id}[/bold] ({profile} profile) in {folder.root}")
    Pipeline(folder, pack, settings, completer, judge, provider).run(stages or STAGES, console, again=again)
    if not stages or "evaluate" in stages:
        console.print(f"Model package: {folder.package}\nReport:        {folder.evaluation / 'report.html'}")
