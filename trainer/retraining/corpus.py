"""The champion's corpus: its statements and its splits, to the byte, because the sets that measure must stay frozen.

In order: of a champion that was retrained here, what it was retrained on, decisions apart; the run folder, where the
stage `corpus` ran there; for the package that ships, its recorded splits, from
which the statements are put together in seconds; else the stages up to `corpus` with the settings of the profile
`full`. What comes out is held against the digest in the champion's manifest. Where they differ the champion may have
been trained on what now measures it, and that is said.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder, digest, read_rows, write_json, write_rows
from trainer.errors import CorpusError, StageMissing
from trainer.guideline import guidelines
from trainer.guideline.guidelines import DEFAULT_PACK, Pack
from trainer.pipeline import STAGES, Pipeline, load_settings
from trainer.settings import PROFILES
from trainer.statements import assembly, corpus
from trainer.types import Example, Recommendation, Split

#: How the statements of the package that ships were split: ids by split, and families that checks joined.
RECORDED = Path(__file__).parents[1] / "data" / "default_splits.json.gz"
#: In a retraining's folder: where its corpus is.
_NOTED = "base.json"


@dataclass(frozen=True)
class Base:
    """A corpus that was split; `exact`: it is the very one that the champion was trained on."""

    folder: RunFolder
    pack: Pack
    exact: bool


def record(folder: RunFolder, path: Path = RECORDED) -> None:
    """Write how a run of the profile `full` split its corpus, for the package that ships."""
    pack, settings = load_settings(folder)
    found, _ = corpus.load(pack.corpus, read_rows(folder.recommendations, Recommendation))
    written = {e.id: e.family for e in found}
    kept = [e for e in read_rows(folder.statements, Example) if e.id in written]
    splits = json.loads(folder.splits.read_text())
    content = {
        "sha256": digest(folder.statements),
        "vignettes": settings.corpus.vignettes,
        "seed": settings.corpus.split.seed,
        "splits": {part: [i for i in ids if i in written] for part, ids in splits.items()},
        "joined": {e.id: e.family for e in kept if e.family != written[e.id]},
    }
    with gzip.GzipFile(path, "wb", 9, mtime=0) as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())


def recorded() -> dict[str, Any]:
    """Read it."""
    content: dict[str, Any] = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return content


def rebuild(pack: Pack, folder: RunFolder, content: dict[str, Any]) -> None:
    """Write recommendations, statements and splits of the package that ships into a run folder.

    Raises:
        CorpusError: the corpus is not the one that was split; nothing is left there to train on.
    """
    guidelines.run(pack, folder)
    recommendations = read_rows(folder.recommendations, Recommendation)
    found, _ = corpus.load(pack.corpus, recommendations)
    side = {i: part for part, ids in content["splits"].items() for i in ids}
    joined = content["joined"]
    kept = [replace(e, family=joined.get(e.id, e.family)) for e in found if e.id in side]
    training = content["splits"][Split.TRAIN]
    rng = random.Random(content["seed"])
    n = round(content["vignettes"] * len(training))
    drawn = assembly.numeric_vignettes(pack, recommendations, n, rng.randrange(2**32))
    write_rows(folder.statements, [*kept, *drawn])
    if digest(folder.statements) != content["sha256"]:
        folder.statements.unlink()
        raise CorpusError(f"{pack.corpus}: not the corpus that {RECORDED.name} was recorded from")
    write_json(folder.splits, {**content["splits"], Split.TRAIN: [*training, *(e.id for e in drawn)]})


def _finished(folder: RunFolder) -> bool:
    return folder.stamp("corpus").exists() and folder.statements.exists() and folder.splits.exists()


def note(attempt: Path, own: Base) -> None:
    """Note in a retraining's folder what its corpus is, for the retraining after it."""
    content = {"corpus": str(own.folder.root.resolve()), "pack": str(own.pack.path.resolve()), "exact": own.exact}
    write_json(attempt / _NOTED, content)


def _noted(champion: ModelPackage) -> Base | None:
    file = champion.path.parent / _NOTED
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    folder = RunFolder(Path(content["corpus"]))
    if not (folder.statements.exists() and folder.splits.exists()):
        raise StageMissing(f"{folder.root}: the corpus of {champion.path} is gone: bring it back, or train anew")
    return Base(folder, Pack.load(Path(content["pack"])), bool(content["exact"]))


def base(run: Path, champion: ModelPackage, console: Console, pack: Path = DEFAULT_PACK) -> Base:
    """Return the corpus that the champion was trained on, made where it is not there.

    Args:
        run: the run folder; what has to be made goes to `retraining/corpus` in it.
        champion: the package in use.
        console: told what is done.
        pack: the guideline, where the run folder does not say.

    Raises:
        CorpusError: there are no statements to learn from.
        StageMissing: the corpus that the champion was retrained on is gone.
    """
    if (known := _noted(champion)) is not None:
        return known
    digest_ = champion.manifest.corpus.sha256
    own = RunFolder(run)
    try:
        of_run, settings = load_settings(own)
    except StageMissing:
        of_run, settings = Pack.load(pack), PROFILES["full"]
    if _finished(own):
        return Base(own, of_run, digest(own.statements) == digest_)
    made = RunFolder(run / "retraining" / "corpus")
    content = recorded()
    if digest_ == content["sha256"]:
        if not (made.splits.exists() and made.statements.exists()):
            console.print("Corpus of the package that ships: put together from its recorded splits")
            made.root.mkdir(parents=True, exist_ok=True)
            rebuild(of_run, made, content)
        return Base(made, of_run, exact=True)
    console.print(f"Corpus: no statements in {run} yet, so the stages up to `corpus` run (minutes, once)")
    Pipeline(made, of_run, settings).run(STAGES[: STAGES.index("corpus") + 1], console)
    return Base(made, of_run, digest(made.statements) == digest_)


if __name__ == "__main__":
    record(RunFolder(Path(sys.argv[1])))
