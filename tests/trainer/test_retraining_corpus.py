"""The champion's corpus: to the byte that of the package that ships, and that of a retrained champion."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from monitor.package import ModelPackage
from trainer.artifacts import RunFolder, digest
from trainer.errors import CorpusError, StageMissing
from trainer.guideline.guidelines import DEFAULT_PACK, Pack
from trainer.retraining import corpus
from trainer.statements.corpus import load_split
from trainer.types import Split


@pytest.mark.model
def test_the_corpus_of_the_package_that_ships_is_put_together_again(
    model_package: ModelPackage, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO())
    own = corpus.base(tmp_path, model_package, console)
    assert own.exact
    assert digest(own.folder.statements) == model_package.manifest.corpus.sha256, (
        "the default package was made again: record its splits with `python -m trainer.retraining.corpus RUN`"
    )
    parts = load_split(own.folder)
    families = [{e.family for e in parts[part]} for part in Split]
    assert sum(map(len, families)) == len(set().union(*families))
    # The second time it is there.
    made = own.folder.statements.stat().st_mtime_ns
    assert corpus.base(tmp_path, model_package, console).folder.statements.stat().st_mtime_ns == made


def test_another_corpus_than_the_recorded_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(CorpusError, match="not the corpus"):
        corpus.rebuild(Pack.load(DEFAULT_PACK), folder, corpus.recorded() | {"sha256": "0" * 64})
    assert not folder.statements.exists()


def test_the_run_folder_comes_first_and_says_whether_it_is_the_champions(toy_run, tmp_path: Path) -> None:
    champion = ModelPackage.load(toy_run.folder.package)
    own = corpus.base(toy_run.folder.root, champion, Console(quiet=True))
    assert (own.folder, own.exact) == (toy_run.folder, True)
    other = champion.manifest.model_copy(
        update={"corpus": champion.manifest.corpus.model_copy(update={"sha256": "0" * 64})}
    )
    assert not corpus.base(toy_run.folder.root, ModelPackage(champion.path, other), Console(quiet=True)).exact


def test_a_retrained_champion_names_its_corpus(toy_run, model_package: ModelPackage, tmp_path: Path) -> None:
    package = ModelPackage(tmp_path / "0001" / "package", model_package.manifest)
    package.path.mkdir(parents=True)
    corpus.note(package.path.parent, corpus.Base(toy_run.folder, toy_run.pack, True))
    own = corpus.base(tmp_path, package, Console(quiet=True))
    assert (own.folder.root, own.pack.path, own.exact) == (toy_run.folder.root, toy_run.pack.path, True)
    file = package.path.parent / "base.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"corpus": str(tmp_path / "gone")}))
    with pytest.raises(StageMissing, match="bring it back"):
        corpus.base(tmp_path, package, Console(quiet=True))
