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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monitor.errors import ConfigurationError
from monitor.package import MANIFEST, SCHEMA_VERSION
from monitor.settings import DEFAULT_RUN
from trainer.artifacts import RunFolder, digest, fingerprint, read_rows, write_json
from trainer.errors import StageMissing
from trainer.evaluation import report
from trainer.evaluation import stage as evaluation
from trainer.evaluation.suites import further_suites
from trainer.guideline import guidelines, retrieval, summaries
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, read_sources
from trainer.llm.costs import LEDGER, Ledger
from trainer.llm.options import ProviderOptions, provider_options
from trainer.llm.port import Completer, Completion, Request, Status, ignore
from trainer.llm.providers import ProviderSettings, load_provider
from trainer.model import classifier, contrastive, encoder, export
from trainer.settings import PROFILES, TrainSettings
from trainer.statements import assembly, corpus, generation
from trainer.statements.generation import Context, GenerationSettings
from trainer.statements.judge import require_other_model
from trainer.types import Recommendation, Split

STAGES = ("extract", "passages", "summaries", "generate", "corpus", "encoder", "classifier", "export", "evaluate")
#: Stages in which every process takes part; `accelerate launch` is for these.
_DISTRIBUTED = ("encoder",)
#: Language models that a run records, by what they do.
_MODELS = ("provider", "judge")
#: Names in what stages say of themselves that need more words.
_IN_WORDS = {
    "kept": "kept that of epoch",
    "recommendations found at 5": "recommendations found among the first five of them",
    "unanswered": "questions without an answer",
    "extractive": "summaries in the guideline's own sentences",
}


@dataclass(frozen=True)
class _Stage:
    """A stage: the fingerprint of its inputs, the artefacts it leaves, and how to run it."""

    name: str
    inputs: Callable[[], str]
    artifacts: Sequence[Path]
    run: Callable[[Progress], dict[str, Any]]


class _Watched:
    """A completer that keeps the reasons of requests that got no answer."""

    def __init__(self, completer: Completer) -> None:
        self._completer = completer
        self.model = completer.model
        self.failures: list[str] = []

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Ask the completer."""
        found = self._completer.complete(requests, advance)
        self.failures += [c.reason or "no reason given" for c in found if c.status is Status.FAILED]
        return found


class Pipeline:
    """One run folder, one pack, one set of settings; a language model and a judge where they are named.

    `provider` and `judged_by` say whose answers `completer` and `judge` give; they are recorded with the settings.
    """

    def __init__(
        self,
        folder: RunFolder,
        pack: Pack,
        settings: TrainSettings,
        completer: Completer | None = None,
        judge: Completer | None = None,
        provider: ProviderSettings | None = None,
        judged_by: ProviderSettings | None = None,
    ) -> None:
        self.folder = folder
        self.pack = pack
        self.settings = settings
        self.completer = _Watched(completer) if completer else None
        self.judge = _Watched(judge) if judge else None
        self.provider = provider
        self.judged_by = judged_by

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
            return {"skipped:": "no language model is named, so the pack's recorded statements are used"}
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
        """Write pack, language models and settings into the run folder, for those who go on with it later."""
        models = {"provider": self.provider, "judge": self.judged_by}
        content = {
            "pack": str(self.pack.path.resolve()),
            **{role: own.model_dump(mode="json") if own else None for role, own in models.items()},
            **asdict(self.settings),
        }
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
                # The stamp comes last: a stage that was killed may have left some of its files.
                there = self.folder.stamp(stage.name).exists() and all(path.exists() for path in stage.artifacts)
                if not (whole and there) and STAGES.index(stage.name) < max(map(STAGES.index, wanted)):
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
                console.print(f"[bold]{stage.name:<11}[/bold] {seconds:6.1f} s   {escape(in_words(summary))}")
                if failures := self._failures():
                    # Not current, so that the next run asks them; what was answered is kept.
                    self.folder.stamp(stage.name).unlink(missing_ok=True)
                    said = f"{len(failures)} requests got no answer, and the next run asks them again: {failures[0]}"
                    console.print(f"{'':<11} [yellow]{escape(said)}[/yellow]")
                else:
                    self.folder.finish(stage.name, print_, stage.artifacts, seconds)

    def _failures(self) -> list[str]:
        """Return why requests of the last stage got no answer, and forget it."""
        watched = [own for own in (self.completer, self.judge) if own]
        reasons = [reason for own in watched for reason in own.failures]
        for own in watched:
            own.failures.clear()
        return reasons


def in_words(summary: Mapping[str, Any]) -> str:
    """Return what a stage has to say of itself as a line for people: "recommendations 3, sections 2"."""

    def value(own: Any) -> str:
        if isinstance(own, bool):
            return "yes" if own else "no"
        return f"{own:.4g}" if isinstance(own, float) else str(own)

    return ", ".join(f"{_IN_WORDS.get(name, name.replace('_', ' '))} {value(own)}" for name, own in summary.items())


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


@dataclass(frozen=True)
class Forecast:
    """What a whole run would ask: of the writer, and of the judge if there is one.

    `exact`: the recommendations are those that the run will have, so their number is certain.
    """

    writer: list[Request]
    judge: list[Request]
    exact: bool


def forecast(pack: Pack, settings: TrainSettings, recorded: Completer, judge: Completer | None = None) -> Forecast:
    """Return what language models would be asked in a whole run, from recorded answers where there are some.

    The stages before the statements run in a folder of their own, rules and extracts standing in for what is not
    recorded; so the requests are the very ones of the next run up to the first answer that is missing, and about as
    many and as long from there on. `recorded` and `judge` are off-line completers.
    """
    writer = _Collector(recorded)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        pipeline = Pipeline(folder, pack, settings, writer)
        pipeline.run(STAGES[: STAGES.index("generate")], Console(quiet=True))
        recommendations, context = pipeline.recommendations(), pipeline.context()
        extraction = json.loads((folder.root / guidelines.REPORT).read_text())
        asked = generation.forecast(recommendations, context, settings.generation, recorded)
        judging = _Collector(judge) if judge else None
        if judging:
            # Written into the scratch folder, as far as recorded: the judge reads the statements themselves.
            generation.run(recommendations, context, folder, recorded, settings.generation, Progress(disable=True))
            assembly.forecast_judge(pack, recommendations, folder, settings.generation, judging)
    return Forecast([*writer.requests, *asked], judging.requests if judging else [], exact=not extraction["fallbacks"])


def _show(
    pack: Pack,
    settings: TrainSettings,
    llm: ProviderOptions,
    judge: ProviderOptions | None,
    folder: RunFolder,
) -> None:
    """Print prompts or prices, as the options say; send nothing."""
    judges = judge.recorded(folder.completions) if judge else None
    found = forecast(pack, settings, llm.recorded(folder.completions), judges)
    if llm.preview:
        generation.preview([*found.writer, *found.judge], llm.preview)
    if not llm.estimate_only:
        return
    total: float | None = 0.0
    for role, own, requests in (("Writer", llm, found.writer), ("Judge", judge, found.judge)):
        if own is None:
            continue
        counts = ", ".join(f"{n} {name}" for name, n in Counter(r.prompt for r in requests).items())
        price = own.estimate(requests, folder.completions)
        total = None if total is None or price.ceiling is None else total + price.ceiling
        click.echo(f"{role}: {own.settings.model} at {own.settings.base_url}\nasked for: {counts}\n{price}\n")
    if judge and total is not None:
        click.echo(f"Both together: at most ${total:.4f}, every answer repaired once")
    if not found.exact:
        click.echo(
            "The number of recommendations is what rules find, until a language model has extracted them: for a "
            "closer figure run `guardline train extract` with the same options first, and then --estimate again."
        )
    click.echo("Nothing was sent.")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,  # in a file each bar would leave an empty line
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
        own = {name: value for name, value in content.items() if name not in ("pack", *_MODELS)}
        if json.loads(json.dumps(asdict(settings))) != own:
            raise ValueError("it holds settings that are not known here")
    except (KeyError, ValueError) as error:
        raise StageMissing(f"{file}: written by another version: run `guardline train --run {folder.root}`") from error
    return Pack.load(pack), settings


def _recorded_model(folder: RunFolder, role: str) -> ProviderSettings | None:
    """Return whose answers a run holds, so that it can be repeated without being told; None where nobody was asked.

    `role` is `provider` or `judge`.
    """
    try:
        content = json.loads((folder.root / "settings.json").read_text())
        return ProviderSettings.model_validate(content[role]) if content.get(role) else None
    except (FileNotFoundError, ValueError):
        return None


def evaluate_again(folder: RunFolder) -> None:
    """Run the last stage of an earlier run again."""
    pack, settings = _load_settings(folder)
    provider, judged_by = (_recorded_model(folder, role) for role in _MODELS)
    pipeline = Pipeline(folder, pack, settings, provider=provider, judged_by=judged_by)
    pipeline.run(["evaluate"], Console(stderr=True), again=True)


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


def _generation(own: GenerationSettings, styles: Sequence[str], per_style: int | None) -> GenerationSettings:
    """Return settings with what the options change of the statements that are asked for.

    As many unsafe statements as safe ones, so that the labels balance; of seven, one is easy and four are hard.
    """
    if styles:
        own = replace(own, styles=tuple(styles))
    if per_style:
        medium, hard = round(per_style * 2 / 7), round(per_style * 4 / 7)
        own = replace(
            own,
            safe_per_recommendation_and_style=per_style,
            unsafe_easy=per_style - medium - hard,
            unsafe_medium=medium,
            unsafe_hard=hard,
        )
    return own


def _asked_before(folder: RunFolder) -> GenerationSettings | None:
    """Return what a language model was asked for in a run; None where nobody was asked."""
    if _recorded_model(folder, "provider") is None:
        return None
    try:
        content = json.loads((folder.root / "settings.json").read_text())
        return TypeAdapter(GenerationSettings).validate_python(content["generation"])
    except (ValueError, KeyError):
        return None


def _letters(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Read "a,b,l": letters of known styles, each once, in the order of the alphabet."""
    chosen = {part.strip() for part in value.split(",")} if value is not None else set()
    if unknown := chosen - generation.BRIEFS.styles.keys():
        known = ", ".join(f"{letter} ({style.name})" for letter, style in generation.BRIEFS.styles.items())
        raise click.BadParameter(f"{', '.join(map(repr, sorted(unknown)))}: there are {known}")
    return tuple(sorted(chosen))


def _cost(folder: RunFolder, models: Sequence[ProviderSettings]) -> str:
    """Say what language models have cost in this run folder."""
    spent = max(Ledger(folder.completions).spent, 0.0)  # sums of floats may end a little below
    said = f"Language models: ${spent:.4f} so far in this run folder"
    if unknown := [own.model for own in models if not own.priced]:
        said += f", without {', '.join(unknown)}, whose prices are not known"
    return f"{said}; every call is in {folder.completions / LEDGER}"


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
    type=click.Choice([pooling.value for pooling in encoder.Pooling]),
    help="How tokens become a sentence.  [default: the encoder's own]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the encoder.  [default: the profile's]")
@click.option("--seed", type=int, help="Of the encoder.  [default: the profile's]")
@click.option("--judge", "judge_", metavar="NAME|FILE", help="Another language model, to judge the statements.")
@click.option(
    "--styles",
    metavar="A,B",
    callback=_letters,
    help="Voices that the language model writes in, by letter.  [default: all "
    f"{len(generation.BRIEFS.styles)}: {', '.join(generation.BRIEFS.styles)}]",
)
@click.option(
    "--per-style",
    type=click.IntRange(min=1),
    metavar="N",
    help="Safe statements that it writes for each recommendation and voice, and as many unsafe ones.  [default: 7]",
)
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
    styles: tuple[str, ...],
    per_style: int | None,
    again: bool,
    llm: ProviderOptions,
) -> None:
    """Train a model package: all stages, or only those named, in their order.

    Stages whose inputs have not changed are skipped, so an interrupted run goes on where it stopped. Without a
    --provider no language model is asked: the run folder's recorded answers are used where it has some; else rules
    extract the recommendations, and the pack's recorded statements are learnt from.
    """
    pack = Pack.load(pack_)
    settings = _settings(profile, base, pooling, seed, epochs)
    folder = RunFolder(run_ or DEFAULT_RUN.parent / pack.spec.id)
    # What is recorded answers only the requests that it was recorded for.
    asked = (None if llm.online else _asked_before(folder)) or settings.generation
    settings = replace(settings, generation=_generation(asked, styles, per_style))
    provider = llm.settings if llm.online else _recorded_model(folder, "provider")
    llm = replace(llm, settings=provider or llm.settings)
    judging = llm.judge(load_provider(judge_)) if judge_ else None
    if not judging and (recorded := _recorded_model(folder, "judge")):
        judging = replace(llm.judge(recorded), online=False)
    if judging and provider:
        # Before anything is paid for; the stage looks at who wrote the statements, too.
        require_other_model(judging.settings.model, [provider.model])
    if not llm.sends:
        _show(pack, settings, llm, judging, folder)
        return
    completer = llm.completer(folder.completions) if provider else None
    judge = judging.completer(folder.completions) if judging else None
    console = Console(stderr=True)
    console.print(f"Training [bold]{pack.spec.id}[/bold] ({profile} profile) in {folder.root}")
    for role, name, own in (("Writer", "--provider", llm if provider else None), ("Judge", "--judge", judging)):
        if own:
            how = f"at {own.settings.base_url}" if own.online else f"recorded answers only, for want of {name}"
            console.print(f"{role}: {own.settings.model}, {how}")
    pipeline = Pipeline(folder, pack, settings, completer, judge, provider, judging.settings if judging else None)
    try:
        pipeline.run(stages or STAGES, console, again=again)
    finally:
        if (folder.completions / LEDGER).exists():
            console.print(_cost(folder, [own for own in (pipeline.provider, pipeline.judged_by) if own]))
    if not stages or "evaluate" in stages:
        console.print(f"Model package: {folder.package}\nReport:        {folder.evaluation / 'report.html'}")
