"""Tiny models, a tiny guideline and one finished run that the trainer's tests share.

The models are random and have a vocabulary of their own: what is tested is the machinery, never how good a model is.
Nothing is fetched: the hub is told to be offline before transformers is imported.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from trainer.artifacts import RunFolder
from trainer.guideline.guidelines import Pack
from trainer.model import encoder
from trainer.pipeline import STAGES, Pipeline
from trainer.settings import CorpusSettings, EncoderSettings, EvaluationSettings, TrainSettings
from trainer.statements.corpus import SplitSettings
from trainer.statements.duplicates import DuplicateSettings
from trainer.statements.leakage import LeakageSettings
from trainer.statements.verification import CheckSettings
from trainer.verifier import crossencoder

torch.set_num_threads(1)  # tiny models: a second thread only waits, on a busy machine ten times as long

HIDDEN = 32
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?%()/-'>"
_WORDS = """
the dose of zolamide is mg once twice daily every hour for adults teenagers in with on ward at home a an and not given
should be withheld from pregnancy days weeks life receive recommended never always 20 40 5 7 litres remdesivir loading
day note sure contrary to belief round stop start
"""


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_ALPHABET, *(f"##{c}" for c in _ALPHABET), *(w for w in _WORDS.split() if len(w) > 1)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


@pytest.fixture(scope="session", autouse=True)
def _fp32() -> Iterator[None]:
    """Which type is faster is measured at run time; tests compare numbers, so it is decided here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (encoder, crossencoder):
            patch.setattr(module, "half_is_faster", lambda where: False)
        yield


def make_tiny_bert(path: Path) -> Path:
    """Save a random BERT of two layers where transformers finds it."""
    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=300,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, as transformers saves it."""
    torch.manual_seed(3)
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBERT of two layers: rotary positions, local attention, another kind of tokenizer settings."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("models") / "tiny-modernbert"
    tokenizer = _tokenizer()
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=300,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    ModernBertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session", params=["bert", "modernbert"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}")


_DOCUMENT = """# Zolamide for mumbles

## 1. Dose
The dose of zolamide is 20 mg once daily.

## 2. Duration
Adults receive zolamide for 5 days.

## 3. Pregnancy
Zolamide should not be withheld in pregnancy.
"""
_PACK = """id: mumbles-zolamide
title: "Zolamide for mumbles"
condition: mumbles
treatment: zolamide
synonyms: [zolamide, ZLM]
sources:
  - path: guideline.md
    title: "Zolamide for mumbles"
    version: "2026-01"
    valid_from: 2026-01-01
recommendations: recommendations.jsonl
corpus: corpus
"""
_RECOMMENDATIONS = {
    "1-dose": ("1", "The dose of zolamide is 20 mg once daily."),
    "2-duration": ("2", "Adults receive zolamide for 5 days."),
    "3-pregnancy": ("3", "Zolamide should not be withheld in pregnancy."),
}
#: recommendation -> category, and what the safe statement and its variants say.
_SAYS = {
    "1-dose": (
        "dose",
        {
            None: "the dose of zolamide is 20 mg once daily for {who}",
            "easy": "zolamide is never given to {who}, not once",
            "medium": "the dose of zolamide is 20 mg every hour for {who}",
            "hard": "the dose of zolamide is 40 mg once daily for {who}",
        },
    ),
    "2-duration": (
        "duration",
        {
            None: "{who} receive zolamide for 5 days",
            "easy": "{who} receive zolamide for life",
            "medium": "{who} receive zolamide for 5 weeks",
            "hard": "{who} receive zolamide for 7 days",
        },
    ),
    "3-pregnancy": (
        "population",
        {
            None: "zolamide should not be withheld from {who} in pregnancy",
            "easy": "{who} in pregnancy are at home, and zolamide is a ward",
            "medium": "zolamide should be given to {who} at home, never in pregnancy",
            "hard": "zolamide should be withheld from {who} in pregnancy",
        },
    ),
}
_VOICES = {"a": ("Note:", 6), "b": ("Sure,", 6), "g": ("Contrary to belief,", 2), "l": ("Ward round:", 2)}
_WHO = ("adults", "teenagers", "adults at home", "adults on the ward", "teenagers at home", "teenagers on the ward")


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def write_lines() -> Callable[[Path, list[dict]], None]:
    return _lines


@pytest.fixture(scope="session")
def make_pack() -> Callable[[Path], Path]:
    """Return a function that writes the guideline of an invented drug, with its corpus, and returns the pack's path."""

    def make(root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        (root / "guideline.md").write_text(_DOCUMENT)
        (root / "pack.yaml").write_text(_PACK)
        rows = [{"id": i, "section": section, "text": text} for i, (section, text) in _RECOMMENDATIONS.items()]
        _lines(root / "recommendations.jsonl", rows)
        for style, (opening, count) in _VOICES.items():
            rows = []
            for recommendation, (category, says) in _SAYS.items():
                for who in _WHO[:count]:
                    parent = None
                    for difficulty, sentence in says.items():
                        identifier = f"{style}-{len(rows):03d}"
                        rows.append(
                            {
                                "id": identifier,
                                "recommendation": recommendation,
                                "category": category,
                                "text": f"{opening} {sentence.format(who=who)}.",
                                "label": "unsafe" if difficulty else "safe",
                                "difficulty": difficulty,
                                "parent": parent,
                            }
                        )
                        parent = parent or identifier
            _lines(root / "corpus" / f"llm_style_{style}.jsonl", rows)
        outside = [f"The ward at home number {i} is for life, and the round is at {i} in the hour." for i in range(20)]
        _lines(
            root / "corpus" / "out_of_scope.jsonl",
            [{"id": f"n-{i}", "text": text, "label": "out_of_scope"} for i, text in enumerate(outside)],
        )
        bad = "Zolamide should be withheld from adults in pregnancy."
        before = "The dose of zolamide is 20 mg once daily for adults. "
        _lines(
            root / "corpus" / "messages.jsonl",
            [
                {"id": "m-1", "text": before, "label": "safe", "spans": []},
                {
                    "id": "m-2",
                    "text": before + bad,
                    "label": "unsafe",
                    "spans": [{"start": len(before), "end": len(before) + len(bad), "text": bad}],
                },
                {"id": "m-3", "text": "The garden wants water in the evening.", "label": "out_of_scope", "spans": []},
            ],
        )
        return root / "pack.yaml"

    return make


@pytest.fixture(scope="session")
def tiny_settings(tiny_bert: Path) -> TrainSettings:
    own = EncoderSettings(
        base=str(tiny_bert), epochs=2, batch_size=32, max_length=64, learning_rate=1e-3,
        edits_per_recommendation=2, out_of_scope_per_epoch=10,
    )  # fmt: skip
    # The invented statements are as like each other as no corpus is: only exact copies count.
    checks = CheckSettings(
        duplicates=DuplicateSettings(jaccard=1.0), leakage=LeakageSettings(jaccard=1.0, ngram_share=1.1)
    )
    corpus = CorpusSettings(SplitSettings(validation=0.2, test=0.2), checks, embedding_duplicates=False)
    return TrainSettings(
        "smoke", corpus=corpus, encoder=own, verifier=None, evaluation=EvaluationSettings(bootstrap=20)
    )


@pytest.fixture(scope="session")
def toy_run(
    tmp_path_factory: pytest.TempPathFactory, make_pack: Callable[[Path], Path], tiny_settings: TrainSettings
) -> SimpleNamespace:
    """A finished run of all stages: `folder`, `pack`, `settings` and what it printed. Read it; copy it to change it."""
    root = tmp_path_factory.mktemp("toy")
    pack = Pack.load(make_pack(root / "pack"))
    folder = RunFolder(root / "run")
    console = Console(file=io.StringIO(), width=200)
    Pipeline(folder, pack, tiny_settings).run(STAGES, console)
    return SimpleNamespace(
        folder=folder, pack=pack, settings=replace(tiny_settings), output=console.file.getvalue(), root=root
    )
