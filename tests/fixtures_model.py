"""The models that end-to-end tests use: the package that ships, and one with a tiny random encoder and verifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monitor.package import OUT_OF_SCOPE, LinearHead, ModelPackage
from monitor.settings import DEFAULT_MODEL
from tests.monitor.fakes import make_tokenizer
from trainer.artifacts import RunFolder, read_json_lines, write_rows
from trainer.types import Difficulty, Example, Label, Split


@pytest.fixture(scope="session")
def model_package() -> ModelPackage:
    """The package that ships."""
    return ModelPackage.load(DEFAULT_MODEL)


_HIDDEN = 32
#: Statements of one style, and texts about other things, that the combination of the tiny package is fitted on.
_VALIDATION, _OUTSIDE = 160, 60


def _save_tiny_bert(path: Path) -> Path:
    """Save a random BERT of two layers, with a tokenizer that reads pairs, where transformers finds it."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.3,  # so that different texts get different scores
    )
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _examples(corpus: Path) -> list[Example]:
    """Return labelled statements of the shipped corpus, in scope and out."""
    inside = [
        Example(
            id=row["id"],
            text=row["text"],
            label=Label(row["label"]),
            recommendation=row["recommendation"],
            category=row["category"],
            difficulty=Difficulty(row["difficulty"]) if row["difficulty"] else None,
            family=row["parent"] or row["id"],
            style="a",
        )
        for row in list(read_json_lines(corpus / "llm_style_a.jsonl"))[:_VALIDATION]
    ]
    outside = [
        Example(row["id"], row["text"], Label.OUT_OF_SCOPE, None, None, None, row["id"], "none")
        for row in list(read_json_lines(corpus / "out_of_scope.jsonl"))[:_OUTSIDE]
    ]
    return inside + outside


@pytest.fixture(scope="session")
def verified_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """A package with encoder and verifier, exported by the trainer's own stage; its models have learnt nothing."""
    import torch
    from rich.progress import Progress

    from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
    from trainer.model import export
    from trainer.model.classifier import Classifier
    from trainer.model.encoder import Embedder, load_pretrained
    from trainer.model.heads import JointHead
    from trainer.settings import ClassifierSettings, ExportSettings
    from trainer.verifier import crossencoder

    torch.manual_seed(11)
    rng = np.random.default_rng(11)
    folder = RunFolder(tmp_path_factory.mktemp("verified"))
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    write_rows(folder.recommendations, recommendations)
    examples = _examples(pack.corpus)
    write_rows(folder.statements, examples)

    def head(classes: list[str]) -> LinearHead:
        weights = rng.normal(size=(len(classes), _HIDDEN))
        return LinearHead(classes=classes, weights=(6 * weights).tolist(), bias=[0.0] * len(classes))

    fitted = Classifier(
        JointHead(3 * rng.normal(size=(2, _HIDDEN)), np.zeros(2)),
        head([*(r.id for r in recommendations), OUT_OF_SCOPE]),
        head(["dose", "population", "timing"]),
        unsafe=0.7,
        review=0.5,
        in_scope=0.3,
    )
    encoder, tokenizer = load_pretrained(str(_save_tiny_bert(folder.root / "tiny-encoder")))
    start = crossencoder.load(str(_save_tiny_bert(folder.root / "tiny-start")))
    reader = crossencoder.PairReader(*start, max_length=96)
    crossencoder.save(reader, folder.root / "tiny-verifier")
    models = export.Models(
        Embedder(encoder, tokenizer, max_length=64, sub_batch=16),
        tokenizer,
        "tiny-encoder",
        fitted,
        reader,
        "tiny-verifier",
    )
    with Progress(disable=True) as progress:
        export.run(
            pack,
            recommendations,
            models,
            {Split.TRAIN: examples, Split.VALIDATION: examples},
            [],
            folder,
            ExportSettings(),
            ClassifierSettings(folds=3),
            progress,
        )
    return ModelPackage.load(folder.package)
