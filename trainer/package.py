"""`guardline package`: a model package for a guideline that nothing is trained on.

Recommendations as the stage `extract` finds them, the frozen encoder, the general verifier that ships, and the generic
alignment and combination (`trainer.verifier.zero_shot`). The encoder alone cannot tell safe from unsafe there: on the
fast path every statement in scope goes to review.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.metrics import f1_score, roc_auc_score

from monitor import claims
from monitor.combination import Readings, apply, gather
from monitor.errors import ConfigurationError
from monitor.factory import build_scorer, build_verifier
from monitor.package import (
    MANIFEST,
    TOKENIZER,
    VERIFIER_TOKENIZER,
    CombinationSpec,
    CorpusSpec,
    LinearHead,
    Manifest,
    ModelPackage,
)
from monitor.settings import Settings
from trainer.artifacts import RunFolder, read_rows
from trainer.errors import CorpusError
from trainer.guideline import guidelines
from trainer.guideline.guidelines import Pack
from trainer.model import canaries, encoder, export
from trainer.model.classifier import Classifier
from trainer.model.graphs import encoder_graph, verifier_graph
from trainer.model.heads import JointHead, is_unsafe
from trainer.pipeline import SHIPPED
from trainer.settings import DEFAULT_ENCODER, Precision
from trainer.statements import corpus
from trainer.statements.edits import guideline_example, number_edits
from trainer.types import Example, Label, Recommendation
from trainer.verifier import combining, shipped, zero_shot
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pretraining import DATA, read_all
from trainer.verifier.zero_shot import Generic

#: The only category: none was learnt. A claim that the structured reading can tell gets that reading's own.
UNSPECIFIED = "unspecified"
_MAX_LENGTH = 256
_SUB_BATCH = 64
#: Where what is no calibrated score is decided.
_HALF = 0.5
_SEED = 3
#: Statements about other treatments among which the package's out-of-scope canaries are found.
_OTHERS = 60


@dataclass(frozen=True)
class Packaged:
    """A package that was written, and what the extraction said of itself."""

    path: Path
    manifest: Manifest
    extraction: dict[str, Any]

    @property
    def megabytes(self) -> float:
        """Size on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()) / 1e6


def _heads(
    recommendations: Sequence[Recommendation], pack: Pack, embedder: encoder.Embedder, own: Generic
) -> Classifier:
    """Return the heads of a guideline without statements: the score is even odds, there is one category."""
    width = embedder.encoder.dimension
    directions = zero_shot.directions(recommendations, [*pack.spec.names, pack.spec.condition], embedder)
    return Classifier(
        joint=JointHead(np.zeros((2, width)), np.zeros(2)),
        alignment=own.likeness.head([r.id for r in recommendations], directions),
        category=LinearHead(classes=[UNSPECIFIED], weights=[[0.0] * width], bias=[0.0]),
        unsafe=1.0,
        review=0.0,
        in_scope=round(float(own.spec.verify_from), 4),
    )


def _usable(output: Path) -> None:
    """Refuse to replace what is no package.

    Raises:
        ConfigurationError: `output` is a file, or a folder that holds something else.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file()):
        raise ConfigurationError(f"{output}: holds something that is no model package: name a new folder as --output")


def _canary_texts(recommendations: Sequence[Recommendation]) -> list[str]:
    """Return the guideline's own sentences, some with one number changed, and statements about other things."""
    own = [guideline_example(r) for r in recommendations]
    edited = number_edits(own, recommendations, random.Random(_SEED))
    return [*(e.text for e in (*own, *edited)), *(pair.hypothesis for pair in read_all(DATA, None)[:_OTHERS])]


def build(
    pack: Pack,
    output: Path,
    *,
    base: str = DEFAULT_ENCODER,
    start: Path = shipped.FOLDER,
    precision: Precision = Precision.INT8,
    progress: Progress | None = None,
) -> Packaged:
    """Write a package; an old one stays until the new one is complete.

    Args:
        pack: the guideline.
        output: folder of the package.
        base: the frozen encoder, by preset, name or path. The generic combination was fitted with the default.
        start: folder of the general verifier and the generic combination.
        precision: of the graphs.
        progress: shows the steps.

    Raises:
        PackError: the guideline cannot be read or holds no recommendation.
        ConfigurationError: `output` holds something else, or verifier or combination are not there.
    """
    _usable(output)
    progress = progress or Progress(disable=True)
    task = progress.add_task("extract", total=4)
    generic = zero_shot.load(start)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".package-") as temporary:
        folder, root = RunFolder(Path(temporary) / "run"), Path(temporary) / "package"
        folder.root.mkdir()
        root.mkdir()
        guidelines.run(pack, folder)
        recommendations = read_rows(folder.recommendations, Recommendation)
        extraction = json.loads((folder.root / guidelines.REPORT).read_text(encoding="utf-8"))
        progress.update(task, advance=1, description="encoder")
        model, tokenizer = encoder.load_pretrained(base)
        embedder = encoder.Embedder(model, tokenizer, max_length=_MAX_LENGTH, sub_batch=_SUB_BATCH)
        reader = PairReader(*shipped.load(start))
        heads = _heads(recommendations, pack, embedder, generic)
        models = export.Models(embedder, tokenizer, base, heads, reader, SHIPPED)
        fixed = export.fixed_set(recommendations, [])
        own = encoder_graph(
            copy.deepcopy(embedder.encoder).cpu().float(),
            heads.joint,
            tokenizer,
            embedder.max_length,
            fixed=[text for _, text in fixed],
        )
        export.write_graph(root, own, precision=precision)
        tokenizer.save(str(root / TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="verifier")
        read = verifier_graph(
            copy.deepcopy(reader.encoder).cpu().float(), reader.tokenizer, reader.max_length, fixed=fixed
        )
        export.write_graph(root, read, precision=precision)
        reader.tokenizer.no_truncation()
        reader.tokenizer.save(str(root / VERIFIER_TOKENIZER), pretty=False)
        progress.update(task, advance=1, description="manifest")
        manifest = export.build_manifest(root, pack, recommendations, models, folder)
        manifest = manifest.model_copy(
            update={
                "combination": generic.spec,
                "calibration": manifest.calibration.model_copy(update={"fitted_on": "nothing: nothing was trained"}),
                "corpus": CorpusSpec(sha256=manifest.corpus.sha256, statements=0, origin="none: nothing was trained"),
            }
        )
        chosen = canaries.choose(ModelPackage(root, manifest), _canary_texts(recommendations))
        manifest = export.write_manifest(root, manifest.model_copy(update={"canaries": chosen}))
        ModelPackage.load(root)
        shutil.rmtree(output, ignore_errors=True)
        root.replace(output)
        progress.update(task, advance=1)
    return Packaged(output, manifest, extraction)


# -------------------------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True, slots=True)
class Figure:
    """How one way of reading separates unsafe from safe statements in scope; `f1` at `threshold`."""

    name: str
    auc: float
    f1: float
    threshold: float


@dataclass(frozen=True)
class Measured:
    """Figures of a package on statements that nothing was trained on, and shares of `others`, in [0, 1]."""

    statements: int
    figures: list[Figure]
    others: dict[str, float]


def _first(readings: Readings, k: int) -> Readings:
    """Return the readings of the first k candidates."""
    return replace(
        readings,
        alignment=readings.alignment[:, :k],
        contradicts=readings.contradicts[:, :k],
        neutral=readings.neutral[:, :k],
        claims=readings.claims[:, :k],
    )


async def _read(
    package: ModelPackage, spec: CombinationSpec, examples: Sequence[Example]
) -> tuple[combining.Read, Readings]:
    """Read all statements as they come, and those in scope beside their own recommendation."""
    settings = Settings(scorer="onnx")
    scorer, verifier = build_scorer(settings, package), build_verifier(settings, package)
    if verifier is None:
        raise ConfigurationError("GUARDLINE_VERIFY is off: there is nothing to measure without the verifier")
    try:
        texts = [e.text for e in examples]
        served = await combining.read_served(
            package, scorer, verifier, texts, most=spec.candidates, mass=spec.mass, weighing=spec.claims
        )
        rules = {r.id: r.text for r in package.manifest.recommendations}
        own = [(rules[e.recommendation], e.text) for e in examples if e.recommendation is not None]
        found = (await verifier.verify(own)).astype(np.float64)
    finally:
        await scorer.close()
        await verifier.close()
    n = len(own)
    # As if the alignment were sure and right: each statement has one candidate, a rule of its own.
    sure, even = np.eye(n), np.full(n, _HALF)
    read, stated = [claims.read(rule) for rule, _ in own], [claims.read(text) for _, text in own]
    return served, gather(sure, np.ones(n), even, [[i] for i in range(n)], found, read, stated, spec.claims)


def measure(path: Path, examples: Sequence[Example]) -> Measured:
    """Measure a package through its own graphs on labelled statements, in scope and out.

    Raises:
        CorpusError: there are no safe or no unsafe statements among them.
        ConfigurationError: there is no package, or it has no verifier.
    """
    package = ModelPackage.load(path)
    known = {r.id for r in package.manifest.recommendations}
    examples = [e for e in examples if e.recommendation is None or e.recommendation in known]
    inside = np.array([e.label is not Label.OUT_OF_SCOPE for e in examples], dtype=bool)
    truth = is_unsafe(examples)[inside]
    if len(set(truth.tolist())) < 2:
        raise CorpusError("safe and unsafe statements on the package's recommendations are needed to measure it")
    spec = package.manifest.combination
    if spec is None:
        raise ConfigurationError(f"{path}: has no verifier to measure")
    served, sure = asyncio.run(_read(package, spec, examples))
    features = served.features
    combined, scope = apply(spec.unsafe, features), apply(spec.scope, features)
    judged = np.round(scope, 4) >= spec.thresholds.in_scope
    final = np.where(judged, combined, 0.0)
    scores = {
        "right recommendation given: verifier": (sure.mixture(), _HALF),
        "right recommendation given: combined": (apply(spec.unsafe, sure.features()), spec.thresholds.unsafe),
        "likeliest recommendation: verifier": (_first(served.readings, 1).mixture()[inside], _HALF),
        "three likeliest: mixture": (_first(served.readings, 3).mixture()[inside], _HALF),
        "all candidates: mixture": (served.readings.mixture()[inside], _HALF),
        "as served: combined": (final[inside], spec.thresholds.unsafe),
    }
    figures = [
        Figure(name, float(roc_auc_score(truth, p)), float(f1_score(truth, p >= at)), at)
        for name, (p, at) in scores.items()
    ]
    scoped = [(own, e.recommendation) for own, e in zip(served.candidates, examples, strict=True) if e.recommendation]
    found = [[served.ids[k] for k in own] for own, _ in scoped]
    best = [own[0] for own, e in zip(served.ranked(), examples, strict=True) if e.recommendation]
    right = [name for _, name in scoped]
    flagged = final >= spec.thresholds.unsafe
    safe = np.array([e.label is Label.SAFE for e in examples], dtype=bool)
    others = {
        "right recommendation likeliest": float(np.mean([own[0] == r for own, r in zip(found, right, strict=True)])),
        "right recommendation among three": float(np.mean([r in own[:3] for own, r in zip(found, right, strict=True)])),
        "right recommendation read": float(np.mean([r in own for own, r in zip(found, right, strict=True)])),
        "evidence is the right recommendation": float(np.mean([b == r for b, r in zip(best, right, strict=True)])),
        "safe statements flagged": float(np.mean(flagged[safe])),
        "statements in scope, judged": float(np.mean(judged[inside])),
    }
    if not inside.all():
        others["out-of-scope statements flagged"] = float(np.mean(flagged[~inside]))
    return Measured(len(examples), figures, others)


def statements_of(pack: Pack, recommendations: Sequence[Recommendation], most: int) -> list[Example]:
    """Return a random sample of the pack's own statements.

    Raises:
        PackError: the pack names no corpus.
        CorpusError: it holds no statements.
    """
    examples, _ = corpus.load(pack.corpus, recommendations)
    return random.Random(_SEED).sample(examples, min(most, len(examples)))


# ------------------------------------------------------------------------------------------------------------ command


def _print_made(made: Packaged, pack: Pack, pack_path: Path, console: Console) -> None:
    own, manifest = made.extraction, made.manifest
    sections = len({r.section for r in manifest.recommendations})
    console.print(
        f"{len(manifest.recommendations)} recommendations in {sections} sections ({own['extracted_by']}), "
        f"{len(own['rejected'])} rejected"
    )
    if own["score"] and own["extracted_by"] == "rules":
        console.print(
            f"Beside the reference list: precision {own['score']['precision']:.2f}, recall {own['score']['recall']:.2f}"
        )
    for note in own["notes"]:
        console.print(f"Not read: {note}", markup=False)
    if pack.spec.language.lower().partition("-")[0] != "en":
        console.print(f"The general verifier has read English only; this guideline's language is {pack.spec.language}.")
    console.print(
        f"Model package: {made.path} ({manifest.name} {manifest.version}, {made.megabytes:.0f} MB)", markup=False
    )
    console.print(
        f'Nothing was trained. Try it:   guardline check --model {made.path} "..."\n'
        f"For better verdicts, train it: guardline train --pack {pack_path}",
        markup=False,
        soft_wrap=True,  # commands are there to be copied
    )


def _print_measured(measured: Measured, console: Console) -> None:
    table = Table("Untrained", "AUC", "F1", "threshold", title=f"{measured.statements} statements of the pack's corpus")
    for row in measured.figures:
        table.add_row(row.name, f"{row.auc:.3f}", f"{row.f1:.3f}", f"{row.threshold:.2f}")
    console.print(table)
    for name, share in measured.others.items():
        console.print(f"{name}: {share:.1%}")


@click.command()
@click.option(
    "--pack",
    "pack_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Guideline pack.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the model package; a package that is there is replaced.",
)
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    default=Precision.INT8.value,
    show_default=True,
    help="int8 for CPUs, fp16 for GPUs, fp32 for either.",
)
@click.option(
    "--measure",
    "most",
    type=click.IntRange(min=20),
    metavar="N",
    help="Then measure the package on N statements of the pack's corpus.",
)
def command(pack_: Path, output: Path, precision: str, most: int | None) -> None:
    """Make a model package for a guideline without training on it.

    Recommendations come from the pack's curated list, or by rules from its documents. The general verifier that ships
    reads them beside each statement.
    """
    pack = Pack.load(pack_)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        made = build(pack, output, precision=Precision(precision), progress=progress)
    _print_made(made, pack, pack_, console)
    if most is not None:
        known = guidelines.extract(pack)
        _print_measured(measure(output, statements_of(pack, known, most)), Console())
