"""One retraining, stage by stage, in a folder of its own: killed at any point, it goes on where it was.

    decisions -> corpus -> start -> encoder -> verifier -> classifier -> export -> compare -> gate

Each stage reads the artefacts of those before and is skipped while its inputs have not changed, as in
`trainer.pipeline`, whose run folder it uses: `statements.jsonl`, `encoder/`, `verifier/`, `classifier/`, `package/` are
what they are there. Besides, a retraining's folder holds

    export.jsonl      the settled decisions as they were exported
    decisions.jsonl   each with its family, its part, why it was left out, and where it comes from
    start/            the champion's weights
    comparison/       what champion and challenger made of every item of the frozen sets
    gate.json         the verdict; report.html shows it
    outcome.json      how it ended; not there while it has not

Texts of decisions are in the first two and in `statements.jsonl`, which only their owner reads.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from monitor.package import ModelPackage
from monitor.segmentation import segment
from trainer.artifacts import RunFolder, digest, fingerprint, read_json_lines, read_rows, write_json, write_rows
from trainer.errors import CorpusError
from trainer.evaluation.stage import ServedModel
from trainer.model import classifier, contrastive, encoder, export
from trainer.model.classifier import Classifier, Scored
from trainer.model.encoder import Floats
from trainer.pipeline import SHIPPED, in_words, progress_bar
from trainer.retraining import comparison, decisions, feedback, gate, heads, lineage, rendering, weights
from trainer.retraining.comparison import Answer
from trainer.retraining.corpus import Base
from trainer.retraining.decisions import Part, Settled
from trainer.retraining.settings import RetrainSettings, StartFrom
from trainer.settings import PROFILES as TRAINING
from trainer.settings import ClassifierSettings, EncoderSettings, ExportSettings, VerifierSettings
from trainer.statements import assembly
from trainer.statements.corpus import load_answers, load_split
from trainer.types import Example, Recommendation, Split
from trainer.verifier import crossencoder
from trainer.verifier import stage as verifying
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pretraining import DATA, read_all

#: Recommendations among which a wrong one is drawn beside a statement.
_CANDIDATES = 5


@dataclass(frozen=True)
class _Stage:
    name: str
    inputs: Callable[[], str]
    artifacts: Sequence[Path]
    run: Callable[[Progress], dict[str, Any]]


class Retraining:
    """One challenger in the making.

    `before` are the parts of decisions of earlier retrainings, by id. With a `candidate` nothing is trained: that
    package is the challenger, and only held against the champion.
    """

    def __init__(
        self,
        root: Path,
        champion: ModelPackage,
        base: Base,
        settings: RetrainSettings,
        before: Mapping[str, Part],
        candidate: Path | None = None,
    ) -> None:
        self.folder = RunFolder(root)
        self.champion = champion
        self.base = base
        self.settings = settings
        self.before = before
        self.candidate = candidate
        self.export = root / "export.jsonl"
        self.decisions = root / "decisions.jsonl"
        self.start = root / "start"
        self.comparison = root / "comparison"
        self.gate = root / gate.FILE
        self.report = root / "report.html"

    # What stages share

    @cached_property
    def _recommendations(self) -> list[Recommendation]:
        return read_rows(self.base.folder.recommendations, Recommendation)

    @property
    def _ids(self) -> list[str]:
        return [r.id for r in self._recommendations]

    @cached_property
    def settled(self) -> list[Settled]:
        """The decisions, once the stage of that name has run."""
        return decisions.load(self.decisions)

    @cached_property
    def _parts(self) -> dict[Split, list[Example]]:
        return load_split(self.folder)

    @property
    def _same_guideline(self) -> bool:
        return [(r.id, r.text) for r in self._recommendations] == [
            (r.id, r.text) for r in self.champion.manifest.recommendations
        ]

    @cached_property
    def _from_champion(self) -> bool:
        return self.settings.start is StartFrom.CHAMPION

    @property
    def _light(self) -> bool:
        """Whether the encoder stays as it is."""
        return self._from_champion and not self.settings.update.encoder_epochs

    @property
    def _classifier_settings(self) -> ClassifierSettings:
        return replace(TRAINING["full"].classifier, head="joint")

    def _replayed(self, most: int | None) -> list[Example]:
        """Return decisions among whole families of the training split, about `most` statements of it (None: all).

        Each time that a decision stands there it has a family of its own: twins are read together, and one batch of the
        same statement would be one step.
        """
        own = self.settings.update
        decided = decisions.of(self.settled, Part.TRAINING)
        named = {e.id for e in decided}
        families: dict[str, list[Example]] = {}
        for example in self._parts[Split.TRAIN]:
            if example.id not in named:
                families.setdefault(example.family, []).append(example)
        names = sorted(families)
        random.Random(own.seed).shuffle(names)
        chosen: list[Example] = []
        # However many decisions there are, they stay the smaller half.
        enough = None if most is None else max(most, own.weight * len(decided))
        for name in names:
            if enough is not None and len(chosen) >= enough:
                break
            chosen += families[name]
        times = own.times(len(decided), len(chosen))
        return [*chosen, *(replace(e, family=f"{e.family}#{i}") for i in range(times) for e in decided)]

    # Stages

    def _decisions(self, _: Progress) -> dict[str, Any]:
        parts = load_split(self.base.folder)
        pack = self.base.pack
        evaluation = {
            split.value: [e.text for e in parts[split]] for split in (Split.TEST_ID, Split.TEST_OOD, Split.VALIDATION)
        }
        answers = load_answers(pack.corpus) if pack.spec.corpus else []
        evaluation["answers"] = [s.text for answer in answers for s in segment(str(answer["text"]))]
        settled = decisions.assign(
            decisions.read(self.export),
            self._ids,
            evaluation,
            [text for r in self._recommendations for text in (r.text, r.quote)],
            self.before,
            assembly.names_of(pack),
        )
        write_rows(self.decisions, [s.recorded() for s in settled])
        self.decisions.chmod(feedback.PRIVATE)
        self.__dict__.pop("settled", None)
        reasons = decisions.left_out_by_reason(settled)
        return decisions.counted(settled) | {f"left out: {reason}": n for reason, n in reasons.items()}

    def _corpus(self, _: Progress) -> dict[str, Any]:
        learnt = decisions.of(self.settled, Part.TRAINING)
        train = load_split(self.base.folder)[Split.TRAIN]
        gone = decisions.overruled(train, learnt)
        self.folder.root.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.base.folder.recommendations, self.folder.recommendations)
        rows = (row for row in read_json_lines(self.base.folder.statements) if row["id"] not in gone)
        count = write_rows(self.folder.statements, [*rows, *learnt])
        self.folder.statements.chmod(feedback.PRIVATE)
        splits = json.loads(self.base.folder.splits.read_text())
        kept = [i for i in splits[Split.TRAIN] if i not in gone]
        repeated = [e.id for e in learnt for _ in range(self.settings.update.weight)]
        write_json(self.folder.splits, splits | {Split.TRAIN: [*kept, *repeated]})
        self.__dict__.pop("_parts", None)
        return {"statements": count, "decisions among them": len(learnt), "overruled by reviewers": len(gone)}

    def _start(self, _: Progress) -> dict[str, Any]:
        if not self._from_champion:
            self.start.mkdir(parents=True, exist_ok=True)
            return {"from": "the start of `guardline train`"}
        shutil.rmtree(self.start, ignore_errors=True)
        said = {"encoder": weights.encoder_of(self.champion, self.start / "encoder")}
        if self.champion.manifest.verifier is not None:
            said["verifier"] = weights.verifier_of(self.champion, self.start / "verifier")
        return said

    def _encoder_settings(self) -> EncoderSettings:
        own, spec = self.settings.update, self.champion.manifest.encoder
        training = TRAINING[self.settings.profile].encoder
        if not self._from_champion:
            return replace(training, base=spec.base, max_length=spec.max_length)
        return replace(
            training,
            base=str(self.start / "encoder"),
            epochs=own.encoder_epochs,
            learning_rate=own.encoder_learning_rate,
            max_length=spec.max_length,
        )

    def _encoder(self, progress: Progress) -> dict[str, Any]:
        if self._light:
            shutil.rmtree(self.folder.encoder, ignore_errors=True)
            shutil.copytree(self.start / "encoder", self.folder.encoder)
            return {"": "as the champion's"}
        train = self._parts[Split.TRAIN]
        return contrastive.run(
            train, self._parts[Split.VALIDATION], self._recommendations, self.folder, self._encoder_settings(), progress
        )

    def _verifier_settings(self) -> VerifierSettings:
        own, spec = self.settings.update, self.champion.manifest.verifier
        training = TRAINING[self.settings.profile].verifier or VerifierSettings()
        if spec is not None:
            training = replace(training, max_length=spec.max_length)
        if not self._from_champion:
            base = None if spec is None or spec.base == SHIPPED else spec.base
            return replace(training, base=base, epochs=max(training.epochs, 1))
        return replace(
            training,
            base=str(self.start / "verifier"),
            epochs=own.verifier_epochs,
            learning_rate=own.verifier_learning_rate,
            head_learning_rate=2 * own.verifier_learning_rate,
            edits_per_recommendation=1 if own.replay is not None else training.edits_per_recommendation,
            # Averaged over the second half, a short training would keep the weights of its middle.
            average=0.0 if own.replay is not None else training.average,
        )

    def _verifier(self, progress: Progress) -> dict[str, Any]:
        if self.champion.manifest.verifier is None:
            shutil.rmtree(self.folder.verifier, ignore_errors=True)
            return {"skipped:": "the champion has none"}
        own = self._verifier_settings()
        examples = self._replayed(self.settings.update.replay) if self._from_champion else self._parts[Split.TRAIN]
        task = progress.add_task("verifier", total=1.0)
        reader = verifying.start(own)
        ranked = self._ask(lambda served: served.ranked([e.text for e in examples]))
        known = set(self._ids)
        likely = [[name for name in row if name in known][:_CANDIDATES] for row in ranked]

        def report(done: float, line: str) -> None:
            progress.update(task, completed=done, description=f"verifier: {line}")

        summary = verifying.fine_tune(
            reader, examples, likely, self._recommendations, read_all(DATA, None) if own.general else [], own, report,
            self.folder.verifier_checkpoint,
        )  # fmt: skip
        crossencoder.save(reader, self.folder.verifier)
        self.folder.verifier_checkpoint.unlink(missing_ok=True)
        return summary

    def _ask(self, question: Callable[[ServedModel], Awaitable[Answer]]) -> Answer:
        """Ask the champion as it is served."""
        return comparison.asked(self.champion, question)

    def _champions_heads(self) -> Classifier | None:
        manifest = self.champion.manifest
        joint = weights.head_of(self.champion)
        if joint is None or not self._same_guideline:
            return None
        limits = manifest.thresholds
        return Classifier(joint, manifest.alignment, manifest.category, limits.unsafe, limits.review, limits.in_scope)

    def _classifier(self, progress: Progress) -> dict[str, Any]:
        own = self._classifier_settings
        champion = self._champions_heads() if self._light else None
        if champion is not None:
            task = progress.add_task("classifier: embeddings", total=None)
            replayed = self._replayed(self.settings.update.heads_replay)
            validation = self._parts[Split.VALIDATION]
            texts = [e.text for e in [*replayed, *validation]]
            embeddings: Floats = self._ask(lambda served: served.embed(texts))
            stepped = heads.update(
                champion, embeddings[: len(replayed)], replayed, self._ids, self.settings.update.attraction
            )
            progress.update(task, total=1, completed=1)
            if stepped is not None:
                scored = Scored.of(stepped, embeddings[len(replayed) :], validation)
                point, _ = classifier.operating_point(scored, own)
                classifier.save(stepped.at(point), self.folder)
                return {"heads": "a step from the champion's", "unsafe from": point.unsafe, "review from": point.review}
        embedder, _ = self._embedder()
        return classifier.run(embedder, self._parts, self._ids, self.folder, own, progress)

    def _embedder(self) -> tuple[encoder.Embedder, Any]:
        model, tokenizer = encoder.load_trained(self.folder)
        own = self._encoder_settings()
        return encoder.Embedder(model, tokenizer, max_length=own.max_length, sub_batch=2 * own.sub_batch), tokenizer

    def _export(self, progress: Progress) -> dict[str, Any]:
        embedder, tokenizer = self._embedder()
        manifest = self.champion.manifest
        reader, base = None, ""
        if manifest.verifier is not None:
            loaded = crossencoder.load(str(self.folder.verifier))
            reader, base = PairReader(*loaded, max_length=manifest.verifier.max_length), manifest.verifier.base
        models = export.Models(embedder, tokenizer, manifest.encoder.base, classifier.load(self.folder), reader, base)
        combination = manifest.combination
        # Which structured claims count is learnt from thousands of pairs: a few decisions change nothing of it.
        weighing = combination.claims if combination is not None and self._from_champion else None
        summary = export.run(
            self.base.pack, self._recommendations, models, self._parts, [], self.folder,
            ExportSettings(precision=weights.precision_of(self.champion)), self._classifier_settings, progress,
            weighing=weighing,
        )  # fmt: skip
        return {k: summary[k] for k in ("model", "canaries", "megabytes")}

    def _adopt(self, _: Progress) -> dict[str, Any]:
        package = ModelPackage.load(self.candidate or self.folder.package)
        if package.path.resolve() != self.folder.package.resolve():
            shutil.rmtree(self.folder.package, ignore_errors=True)
            shutil.copytree(package.path, self.folder.package)
        return {"model": f"{package.reference.name} {package.reference.version}"}

    def _sets(self) -> comparison.FrozenSets:
        return comparison.draw(
            self.base.pack,
            self._recommendations,
            load_split(self.base.folder),
            decisions.of(self.settled, Part.RECENT),
            decisions.of(self.settled, Part.TRAINING),
            self.settings.frozen,
        )

    def challenger(self) -> ModelPackage:
        """Return the package that was made."""
        return ModelPackage.load(self.folder.package)

    def _compare(self, progress: Progress) -> dict[str, Any]:
        sets = self._sets()
        task = progress.add_task("compare", total=2 * comparison.size(sets))
        known = self.folder.root.parent / "frozen" / f"{self.champion.manifest.version}-{sets.key[:16]}.jsonl"
        for name, package, file in (
            ("champion", self.champion, known), ("challenger", self.challenger(), self.comparison / "challenger.jsonl")
        ):  # fmt: skip
            progress.update(task, description=f"compare: {name}")
            if name == "challenger":
                file.unlink(missing_ok=True)
            comparison.judged(package, sets, file, lambda n: progress.advance(task, n))
        self.comparison.mkdir(exist_ok=True)
        shutil.copy(known, self.comparison / "champion.jsonl")
        self.__dict__.pop("_verdict", None)
        return {suite.value: len(sets.of(suite)) for suite in comparison.Suite if sets.of(suite)}

    def compared(self) -> comparison.Compared:
        """Return what both made of the frozen sets."""
        return comparison.Compared(
            self._sets(),
            comparison.load(self.comparison / "champion.jsonl"),
            comparison.load(self.comparison / "challenger.jsonl"),
        )

    @cached_property
    def _verdict(self) -> gate.Verdict:
        return gate.decide(self.compared(), self.settings.gate, self.settings.frozen)

    def verdict(self) -> gate.Verdict:
        """Return what the gate says; the bootstrap behind it takes seconds and is drawn once."""
        return self._verdict

    def _gate(self, _: Progress) -> dict[str, Any]:
        compared, verdict = self.compared(), self.verdict()
        facts = lineage.Facts(
            self.champion, self.settings, self.settled, exact=self.base.exact, same_guideline=self._same_guideline
        )
        challenger = lineage.write(self.challenger(), facts, compared, verdict)
        write_json(self.gate, verdict.as_json() | {"lineage": challenger.manifest.model_dump(mode="json")["lineage"]})
        rendering.write(self.report, challenger.manifest, facts, compared, verdict)
        learnt = lineage.learnt(compared)
        return {
            "": "passed" if verdict.passed else "refused",
            "decisions learnt": f"{learnt[0]} of {learnt[1]}",
            "not shown for want of statements": len(verdict.not_shown),
        }

    def _stages(self) -> list[_Stage]:
        folder, settings, base = self.folder, self.settings, self.base.folder

        def of(*paths: Path) -> str:
            return "".join(map(digest, paths))

        champion = self.champion.manifest.version
        learnt = [folder.statements, folder.splits]
        started = (settings.start, champion, settings.profile)
        first = _Stage(
            "decisions",
            lambda: fingerprint(of(self.export, base.statements, base.splits), dict(self.before)),
            [self.decisions],
            self._decisions,
        )
        last = [
            _Stage(
                "compare",
                lambda: fingerprint(settings.frozen, self.challenger().manifest.version, of(self.decisions)),
                [self.comparison],
                self._compare,
            ),
            _Stage(
                "gate",
                lambda: fingerprint(settings.gate, settings.frozen, of(self.comparison)),
                [self.gate, self.report],
                self._gate,
            ),
        ]
        if (candidate := self.candidate) is not None:
            adopt = _Stage("adopt", lambda: digest(candidate), [folder.package / "encoder"], self._adopt)
            return [first, adopt, *last]
        return [
            first,
            _Stage(
                "corpus",
                lambda: fingerprint(settings.update.weight, of(self.decisions, base.statements, base.splits)),
                [*learnt, folder.recommendations],
                self._corpus,
            ),
            _Stage("start", lambda: fingerprint(*started), [self.start], self._start),
            _Stage(
                "encoder",
                # As it is, it depends on no statement.
                lambda: fingerprint(*started, settings.update, of(self.start, *([] if self._light else learnt))),
                [folder.encoder],
                self._encoder,
            ),
            _Stage(
                "verifier",
                lambda: fingerprint(*started, settings.update, of(self.start, *learnt)),
                [folder.verifier] if self.champion.manifest.verifier else [],
                self._verifier,
            ),
            _Stage(
                "classifier",
                lambda: fingerprint(*started, settings.update, of(folder.encoder, *learnt)),
                [folder.classifier],
                self._classifier,
            ),
            _Stage(
                "export",
                lambda: fingerprint(*started, of(folder.encoder, folder.verifier, folder.classifier, *learnt)),
                [folder.package / "encoder", folder.package / "tokenizer.json"],
                self._export,
            ),
            *last,
        ]

    def run(self, console: Console, stages: Sequence[str] | None = None) -> None:
        """Run the stages in order, skipping those that are current.

        Raises:
            CorpusError: no decision can be learnt from, or there is nothing else to train on.
            ConfigurationError: the champion's weights cannot be trained further.
            ParityError: what was trained cannot be exported.
        """
        for stage in self._stages():
            if stages is not None and stage.name not in stages:
                continue
            print_ = fingerprint(stage.name, version("guardline"), stage.inputs())
            there = all(path.exists() for path in stage.artifacts)
            if there and self.folder.is_current(stage.name, print_):
                console.print(f"[dim]{stage.name:<11} is current[/dim]")
                continue
            started = time.monotonic()
            with progress_bar(console) as progress:
                summary = stage.run(progress)
            seconds = time.monotonic() - started
            console.print(f"[bold]{stage.name:<11}[/bold] {seconds:6.1f} s   {escape(in_words(summary))}")
            self.folder.finish(stage.name, print_, stage.artifacts, seconds)
            nothing = stage.name == "decisions" and not decisions.of(self.settled, Part.TRAINING)
            if nothing and not self.candidate and self._same_guideline:
                raise CorpusError(f"{self.decisions}: no decision is left to learn from: it says why each was left out")
