"""Weights that training goes on from: out of the package that ships, and out of a run folder."""

from pathlib import Path

import numpy as np
import pytest

from monitor.errors import ConfigurationError
from monitor.package import ModelPackage
from trainer.errors import ParityError
from trainer.model import encoder
from trainer.retraining import comparison, weights
from trainer.settings import Precision
from trainer.verifier import crossencoder
from trainer.verifier.crossencoder import PairReader

TEXTS = ["Remdesivir is given as a 400 mg loading dose on day 1.", "It is infused over 30 to 120 minutes."]


@pytest.mark.model
def test_the_shipped_package_gives_back_what_it_computes_with(model_package: ModelPackage, tmp_path: Path) -> None:
    assert weights.precision_of(model_package) is Precision.INT8
    assert weights.encoder_of(model_package, tmp_path / "encoder") == "from its graph"
    assert weights.verifier_of(model_package, tmp_path / "verifier") == "from its graph"
    model, tokenizer = encoder.load_pretrained(str(tmp_path / "encoder"))
    assert tokenizer.encode(TEXTS[0]).tokens == _tokens(model_package.tokenizer, TEXTS[0])
    embedder = encoder.Embedder(model, tokenizer, max_length=256, sub_batch=8)
    served = comparison.asked(model_package, lambda own: own.embed(TEXTS))
    assert (embedder.embed(TEXTS) * served).sum(axis=1).min() > 0.98
    # The head that scores is the graph's own: the same margins, and so the same probabilities.
    head = weights.head_of(model_package)
    assert head is not None
    scored = comparison.asked(model_package, lambda own: own.score(TEXTS, "contrastive"))
    assert np.abs(head.p_unsafe(served) - [s.p_unsafe for s in scored]).max() < 0.1
    reader = PairReader(*crossencoder.load(str(tmp_path / "verifier")))
    rule = {r.id: r.text for r in model_package.manifest.recommendations}["2.1-loading-dose"]
    p = reader.probabilities([(rule, TEXTS[0])])[0]
    (expected,) = comparison.asked(model_package, lambda own: own.contradiction([("2.1-loading-dose", TEXTS[0])]))
    assert abs(p[1] / (1 - p[2]) - expected) < 0.1


def _tokens(file: Path, text: str) -> list[str]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(file)).encode(text).tokens)


def test_a_fused_package_takes_the_weights_of_its_run_and_says_so(toy_run, tmp_path: Path) -> None:
    package = ModelPackage.load(toy_run.folder.package)
    assert weights.precision_of(package) is Precision.FP32
    assert weights.encoder_of(package, tmp_path / "encoder") == "from its run folder"
    assert (tmp_path / "encoder" / "config.json").exists()


def test_weights_of_another_training_are_refused(toy_run, tmp_path: Path, tiny_bert: Path) -> None:
    import shutil

    shutil.copytree(toy_run.folder.package, tmp_path / "run" / "package")
    package = ModelPackage.load(tmp_path / "run" / "package")
    with pytest.raises(ConfigurationError, match="--start pretrained"):
        weights.encoder_of(package, tmp_path / "nothing")
    shutil.copytree(tiny_bert, tmp_path / "run" / "encoder")
    with pytest.raises(ParityError, match="differ from them by"):
        weights.encoder_of(package, tmp_path / "other")
