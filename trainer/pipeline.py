"""`guardline train`: the stages in order, each skipped when its inputs have not changed.

    extract -> corpus -> encoder -> classifier -> export -> evaluate

Evaluation comes last because it measures the exported package, through the monitor's own path.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monitor.package import MANIFEST, SCHEMA_VERSION
from monitor.settings import DEFAULT_RUN
from trainer import classifier, corpus, encoder, evaluation, export, guidelines, report
from trainer.artifacts import RunFolder, digest, fingerprint, read_rows, write_json
from trainer.corpus import SplitSettings
from trainer.errors import StageMissing
from trainer.guidelines import DEFAULT_PACK, Pack
from trainer.settings import PROFILES, ClassifierSettings, EncoderSettings, EvaluationSettings, TrainSettings
from trainer.types import Recommendation, Split

STAGES = ("extract", "corpus", "encoder", "classifier", "export", "evaluate")


@dataclass(frozen=True)
class _Stage:
    """A stage: the fingerprint of its inputs, the artefacts it leaves, and how to run it."""

    name: str
    inputs: Callable[[], str]
    artifacts: Sequence[Path]
    run: Callable[[Progress], dict[str, Any]]


class Pipeline:
    """One run folder, one pack, one set of settings."""

    def __init__(self, folder: RunFolder, pack: Pack, settings: TrainSettings) -> None:
        self.folder = folder
        self.pack = pack
        self.settings = settings

    def _recommendations(self) -> list[Recommendation]:
        return read_rows(self.folder.recommendations, Recommendation)

    def _ids(self) -> list[str]:
        return [r.id for r in self._recommendations()]

    def _encoder(self, progress: Progress) -> dict[str, Any]:
        examples = corpus.load_split(self.folder)[Split.TRAIN]
        return encoder.run(examples, self._recommendations(), self.folder, self.settings.encoder, progress)

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
            self._recommendations(),
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
        measured = evaluation.run(
            self.pack.corpus, self._ids(), self.folder, own.encoder, own.classifier, own.evaluation, progress
        )
        report.write_report(self.folder, measured)
        return {s.suite: f"AUC {s.auc:.3f}, F1 {s.f1:.3f}" for s in measured.summary}

    def _exported(self) -> str:
        """Return what export wrote into the manifest: all but the summary that evaluate adds to it."""
        manifest = json.loads((self.folder.package / MANIFEST).read_text())
        return fingerprint({**manifest, "evaluation": []})

    def _stages(self) -> list[_Stage]:
        folder, settings = self.folder, self.settings
        served = [folder.package / "encoder", folder.package / "tokenizer.json"]

        def of(*paths: Path) -> str:
            return "".join(map(digest, paths))

        return [
            _Stage(
                "extract",
                self.pack.fingerprint,
                [folder.recommendations],
                lambda _: guidelines.run(self.pack, folder),
            ),
            _Stage(
                "corpus",
                lambda: fingerprint(settings.split, of(folder.recommendations, self.pack.corpus)),
                [folder.statements, folder.rejected, folder.splits],
                lambda _: corpus.run(self.pack.corpus, folder, settings.split),
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
                    self.pack.fingerprint(),
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
                    of(folder.statements, folder.splits, self.pack.corpus),
                ),
                [folder.evaluation],
                self._evaluate,
            ),
        ]

    def record_settings(self) -> None:
        """Write pack and settings into the run folder, for those who evaluate it again."""
        content = {"pack": str(self.pack.path.resolve()), **asdict(self.settings)}
        write_json(self.folder.root / "settings.json", content)

    def run(self, wanted: Sequence[str], console: Console, *, again: bool = False) -> None:
        """Run the wanted stages in order, skipping those that are current unless `again`.

        Raises:
            StageMissing: a stage before the first wanted one has not been run.
        """
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
            self.record_settings()
            started = time.monotonic()
            with _progress(console) as progress:
                summary = stage.run(progress)
            seconds = time.monotonic() - started
            self.folder.finish(stage.name, print_, stage.artifacts, seconds)
            console.print(
                f"[bold]{stage.name:<11}[/bold] {seconds:6.1f} s   " + ", ".join(f"{k} {v}" for k, v in summary.items())
            )


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
        split = SplitSettings(**{**content["split"], "held_out_styles": tuple(content["split"]["held_out_styles"])})
        settings = TrainSettings(
            profile=content["profile"],
            split=split,
            encoder=EncoderSettings(**content["encoder"]),
            classifier=ClassifierSettings(**content["classifier"]),
            evaluation=EvaluationSettings(**content["evaluation"]),
        )
    except (KeyError, TypeError) as error:
        raise StageMissing(
            f"{file}: written by another version ({error}): run `guardline train --run {folder.root}`"
        ) from error
    return Pack.load(Path(content["pack"])), settings


def evaluate_again(folder: RunFolder) -> None:
    """Run the last stage of an earlier run again."""
    pack, settings = _load_settings(folder)
    Pipeline(folder, pack, settings).run(["evaluate"], Console(stderr=True), again=True)


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
    "--encoder", "base", help="Encoder to start from: a Hugging Face name or a path.  [default: all-MiniLM-L6-v2]"
)
@click.option("--again", is_flag=True, help="Run the stages even where nothing has changed.")
def command(
    stages: tuple[str, ...], run_: Path | None, pack_: Path, profile: str, base: str | None, again: bool
) -> None:
    """Train a model package: all stages, or only those named, in their order.

    Stages whose inputs have not changed are skipped, so an interrupted run goes on where it stopped.
    """
    pack = Pack.load(pack_)
    settings = PROFILES[profile]
    if base:
        settings = replace(settings, encoder=replace(settings.encoder, base=base))
    folder = RunFolder(run_ or DEFAULT_RUN.parent / pack.spec.id)
    console = Console(stderr=True)
    console.print(f"Training [bold]{pack.spec.id}[/bold] ({profile} profile) in {folder.root}")
    Pipeline(folder, pack, settings).run(stages or STAGES, console, again=again)
    console.print(f"Model package: {folder.package}\nReport:        {folder.evaluation / 'report.html'}")
