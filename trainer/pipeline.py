"""`guardline train`: the stages in order, each skipped when its inputs have not changed.

    extract -> passages -> summaries -> generate -> corpus -> encoder -> verifier -> classifier -> export -> evaluate

A language model takes part in the first four and as a judge in the fifth where a provider is named; without one, rules,
an extractive summary and the pack's recorded statements stand in. Evaluation comes last because it measures the
exported package, through the monitor's own path.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from monitor.errors import ConfigurationError
from monitor.package import MANIFEST, SCHEMA_VERSION
from trainer.artifacts import RunFolder, digest, fingerprint, read_rows, write_json
from trainer.errors import StageMissing
from trainer.evaluation import report
from trainer.evaluation import stage as evaluation
from trainer.evaluation.suites import further_suites
from trainer.guideline import guidelines, retrieval, summaries
from trainer.guideline.guidelines import Pack, read_sources
from trainer.llm.port import Completer, Completion, Request, Status, ignore
from trainer.llm.providers import ProviderSettings
from trainer.model import classifier, contrastive, encoder, export
from trainer.settings import TrainSettings
from trainer.statements import assembly, corpus, generation
from trainer.statements.generation import Context
from trainer.types import Example, Recommendation, Split
from trainer.verifier import crossencoder, shipped
from trainer.verifier import stage as verifying
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pretraining import DATA, TOPIC_SOURCES, read_all

STAGES = (
    "extract", "passages", "summaries", "generate", "corpus",
    "encoder", "verifier", "classifier", "export", "evaluate",
)  # fmt: skip
#: Stages in which every process takes part; `accelerate launch` is for these.
_DISTRIBUTED = ("encoder",)
#: Language models that a run records, by what they do.
MODELS = ("provider", "judge")
#: What manifests call the start that ships.
SHIPPED = "guardline's general verifier"
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

    def _verifier(self, progress: Progress) -> dict[str, Any]:
        own = self.settings.verifier
        if own is None:
            shutil.rmtree(self.folder.verifier, ignore_errors=True)
            return {"skipped:": "these settings judge by the encoder alone"}
        parts = corpus.load_split(self.folder)
        return verifying.run(
            parts[Split.TRAIN],
            parts[Split.VALIDATION],
            self.recommendations(),
            self._frozen.embed,
            self.folder,
            own,
            progress,
        )

    def _reader(self) -> PairReader | None:
        """The trained verifier; None where these settings want none."""
        own = self.settings.verifier
        if own is None:
            return None
        return PairReader(*crossencoder.load(str(self.folder.verifier)), max_length=own.max_length)

    def _vocabulary(self) -> Iterator[str]:
        """Yield all text whose words the exported encoder must know."""
        yield from (r.text for r in self.recommendations())
        yield from (e.text for e in read_rows(self.folder.statements, Example))
        for pair in read_all(DATA, None):
            yield pair.premise
            yield pair.hypothesis

    def _classifier(self, progress: Progress) -> dict[str, Any]:
        embedder, _ = self._embedder()
        examples = corpus.load_split(self.folder)
        return classifier.run(embedder, examples, self._ids(), self.folder, self.settings.classifier, progress)

    def _export(self, progress: Progress) -> dict[str, Any]:
        embedder, tokenizer = self._embedder()
        own = self.settings.encoder
        fitted = classifier.load(self.folder)
        verifier = self.settings.verifier
        models = export.Models(
            embedder, tokenizer, own.base, fitted, self._reader(), (verifier.base or SHIPPED) if verifier else ""
        )
        return export.run(
            self.pack,
            self.recommendations(),
            models,
            corpus.load_split(self.folder),
            self._vocabulary(),
            self.folder,
            self.settings.export,
            self.settings.classifier,
            progress,
        )

    def _evaluate(self, progress: Progress) -> dict[str, Any]:
        own = self.settings
        recommendations = self.recommendations()
        measured = evaluation.run(
            self.pack.corpus if self.pack.spec.corpus else self.folder.generated,
            [r.id for r in recommendations],
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
        # What a verifier starts from and is kept general by, where it is trained on files that ship.
        weights = shipped.FOLDER / shipped.WEIGHTS
        start = [weights, *(DATA / name for name in TOPIC_SOURCES)] if settings.verifier else []
        heads = [folder.classifier / name for name in ("classifier.json", "joint.npz")]

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
                "verifier",
                lambda: fingerprint(
                    settings.verifier,
                    base,
                    of(folder.statements, folder.splits, folder.recommendations, *start),
                ),
                [folder.verifier] if settings.verifier else [],
                self._verifier,
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
                    settings.verifier,
                    settings.export,
                    of(folder.encoder, folder.verifier, folder.statements, *heads),
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
            with progress_bar(console) as progress:
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


def progress_bar(console: Console) -> Progress:
    """Return a progress display with the time that is left, on terminals only."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,  # in a file each bar would leave an empty line
    )  # fmt: skip


def load_settings(folder: RunFolder) -> tuple[Pack, TrainSettings]:
    """Return pack and settings of an earlier run."""
    file = folder.root / "settings.json"
    if not file.exists():
        raise StageMissing(f"{folder.root}: nothing was trained there: run `guardline train --run {folder.root}`")
    content = json.loads(file.read_text())
    try:
        settings = TypeAdapter(TrainSettings).validate_python(content)
        pack = Path(content["pack"])
        own = {name: value for name, value in content.items() if name not in ("pack", *MODELS)}
        if json.loads(json.dumps(asdict(settings))) != own:
            raise ValueError("it holds settings that are not known here")
    except (KeyError, ValueError) as error:
        raise StageMissing(f"{file}: written by another version: run `guardline train --run {folder.root}`") from error
    return Pack.load(pack), settings


def recorded_model(folder: RunFolder, role: str) -> ProviderSettings | None:
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
    pack, settings = load_settings(folder)
    provider, judged_by = (recorded_model(folder, role) for role in MODELS)
    pipeline = Pipeline(folder, pack, settings, provider=provider, judged_by=judged_by)
    pipeline.run(["evaluate"], Console(stderr=True), again=True)
