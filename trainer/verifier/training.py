"""Training a verifier: cross-entropy over the three relations, and for twins a ranking loss between the two.

The ranking loss is RankNet's (Burges et al., ICML 2005) on the log-odds of contradiction: what two nearly equal
statements have in common cancels, so the gradient is of what differs. Batches hold twins whole. Length-grouped
sub-batches, bfloat16 where it is faster, a linear warm-up and decay, a checkpoint to go on from.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from trainer.artifacts import fingerprint
from trainer.model import checkpoint
from trainer.model.memory import keep_freed_memory
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pairs import RELATIONS, Pair, Relation

_CONTRADICTS = RELATIONS.index(Relation.CONTRADICTS)
_CONSISTENT = RELATIONS.index(Relation.CONSISTENT)


@dataclass(frozen=True)
class VerifierTraining:
    """How a verifier is trained on a stream of pairs."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 2e-4
    head_learning_rate: float = 1e-3
    warmup: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    ranking_weight: float = 0.5  # of the loss between twins; 0: cross-entropy alone
    label_smoothing: float = 0.02
    average: float = 0.0  # decay a step of the averaged weights that are kept; 0: the last ones are
    freeze_words: bool = False  # leave the word embeddings as they are
    seed: int = 5
    source_weights: dict[str, float] = field(default_factory=dict)  # of the cross-entropy, by source; else 1


def twin_groups(pairs: Iterable[Pair]) -> list[list[Pair]]:
    """Return twins together and other pairs alone, in order of first appearance."""
    groups: dict[Any, list[Pair]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(pair.twin if pair.twin else i, []).append(pair)
    return list(groups.values())


def batched(groups: Iterable[Sequence[Pair]], size: int) -> Iterator[list[Pair]]:
    """Yield batches of whole groups, of about `size` pairs each."""
    batch: list[Pair] = []
    for group in groups:
        batch += group
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def repeat(pairs: Sequence[Pair], rng: random.Random) -> Iterator[list[Pair]]:
    """Yield the twin groups of the pairs for ever, each epoch in another order."""
    groups = twin_groups(pairs)
    while groups:
        rng.shuffle(groups)
        yield from groups


def log_odds(logits: Tensor) -> Tensor:
    """Return the log-odds of contradiction against agreement, [n], for [n, 3]."""
    return logits[:, _CONTRADICTS] - logits[:, _CONSISTENT]


def _twin_indices(batch: Sequence[Pair]) -> list[tuple[int, int]]:
    """Return (contradicting, consistent) index pairs of the twins of a batch."""
    found: dict[str, dict[Relation, int]] = {}
    for i, pair in enumerate(batch):
        if pair.twin:
            found.setdefault(pair.twin, {})[pair.relation] = i
    return [
        (own[Relation.CONTRADICTS], own[Relation.CONSISTENT])
        for own in found.values()
        if {Relation.CONTRADICTS, Relation.CONSISTENT} <= own.keys()
    ]


class Trainer:
    """An optimiser over a reader, step by step, that can be saved and taken up again."""

    def __init__(self, reader: PairReader, settings: VerifierTraining) -> None:
        torch.manual_seed(settings.seed)
        self.reader = reader
        self.settings = settings
        self.step_number = 0
        self.seconds = 0.0
        model = reader.encoder
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        words = model.model.get_input_embeddings().weight
        words.requires_grad = not settings.freeze_words
        head = [p for p in model.head() if p.requires_grad]
        known = {id(p) for p in head}
        body = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        self.optimiser = torch.optim.AdamW(
            [{"params": body, "lr": settings.learning_rate}, {"params": head, "lr": settings.head_learning_rate}],
            weight_decay=settings.weight_decay,
        )
        self._rates = [group["lr"] for group in self.optimiser.param_groups]
        self.averaged: dict[str, Tensor] = {}

    def factor(self) -> float:
        """Return what the learning rates are multiplied by now: linear up, linear down."""
        done = (self.step_number + 1) / self.settings.steps
        return max(min(done / self.settings.warmup, (1 - done) / (1 - self.settings.warmup)), 0.0)

    def step(self, batch: Sequence[Pair]) -> float:
        """Take one optimiser step; return the loss."""
        started = time.monotonic()
        own = self.settings
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.factor()
        self.reader.encoder.train()
        parts = self.reader.plan([(p.premise, p.hypothesis) for p in batch])
        logits = torch.cat([self.reader.encode(part) for part in parts])
        order = [i for part in parts for i in part.rows]
        rows = [batch[i] for i in order]
        target = torch.tensor([RELATIONS.index(p.relation) for p in rows], device=self.reader.device)
        weight = torch.tensor([own.source_weights.get(p.source, 1.0) for p in rows], device=self.reader.device)
        each = nn.functional.cross_entropy(logits, target, reduction="none", label_smoothing=own.label_smoothing)
        loss = (each * weight).sum() / weight.sum().clamp(min=1e-6)
        twins = _twin_indices(rows)
        if twins and own.ranking_weight:
            wrong, right = (torch.tensor(side, device=self.reader.device) for side in zip(*twins, strict=True))
            odds = log_odds(logits)
            loss = loss + own.ranking_weight * nn.functional.softplus(odds[right] - odds[wrong]).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.reader.encoder.parameters(), 1.0)
        self.optimiser.step()
        self.step_number += 1
        self._average()
        self.seconds += time.monotonic() - started
        return float(loss.item())

    def _average(self) -> None:
        """Keep an exponential moving average of the weights (Polyak and Juditsky 1992), over the second half only."""
        decay = self.settings.average
        if not decay or self.step_number < self.settings.steps // 2:
            return
        for name, value in self.reader.encoder.state_dict().items():
            if name not in self.averaged or not value.is_floating_point():
                self.averaged[name] = value.detach().clone()
            else:
                self.averaged[name].lerp_(value.detach(), 1 - decay)

    def finish(self) -> None:
        """Leave in the reader what is kept."""
        if self.averaged:
            self.reader.encoder.load_state_dict(self.averaged)
        self.reader.encoder.eval()

    def key(self, *data: Any) -> str:
        """Return what a checkpoint must have been made with."""
        return fingerprint(asdict(self.settings), *data)

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint, whole or not at all."""
        checkpoint.write(
            path,
            key,
            {
                "model": self.reader.encoder.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "averaged": self.averaged,
                "step": self.step_number,
                "seconds": self.seconds,
            },
        )

    def resume(self, path: Path, key: str) -> bool:
        """Take up a checkpoint of the same training; tell whether there was one."""
        state = checkpoint.read(path, key, self.reader.device)
        if state is None:
            return False
        self.reader.encoder.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.averaged = state["averaged"]
        self.step_number, self.seconds = state["step"], state["seconds"]
        return True


def train(
    trainer: Trainer,
    batches: Iterator[list[Pair]],
    report: Callable[[float, str], None],
    saved: Path | None = None,
    key: str = "",
    every: int = 500,
) -> dict[str, Any]:
    """Train until the settings' steps are done; return what to say of it.

    Args:
        trainer: what is trained, resumed or not.
        batches: pairs, as many as are asked for; a resumed training skips those that it has seen.
        report: told progress (0 to 1) and a line about it after each step.
        saved: checkpoint that is written every `every` steps, with `key`.
    """
    keep_freed_memory()
    steps = trainer.settings.steps
    losses: list[float] = []
    seen, started = 0, time.monotonic()
    for batch in itertools.islice(batches, trainer.step_number, steps):
        losses.append(trainer.step(batch))
        seen += len(batch)
        speed = seen / (time.monotonic() - started)
        report(trainer.step_number / steps, f"loss {np.mean(losses[-50:]):.3f}, {speed:.0f} pairs/s")
        if saved is not None and trainer.step_number % every == 0:
            trainer.save(saved, key)
    trainer.finish()
    final = float(np.mean(losses[-50:])) if losses else None
    speed = seen / max(time.monotonic() - started, 1e-9)
    return {"steps": trainer.step_number, "final_loss": final, "pairs_per_second": round(speed, 1)}


def contradiction_scores(reader: PairReader, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return the log-odds of contradiction against agreement, fp64 [n]."""
    logits = reader.logits([(p.premise, p.hypothesis) for p in pairs]).astype(np.float64)
    return logits[:, _CONTRADICTS] - logits[:, _CONSISTENT]


def contradiction_auc(reader: PairReader, pairs: Sequence[Pair]) -> float | None:
    """Return the AUC of contradiction against agreement; None where only one of them is there."""
    known = [p for p in pairs if p.relation is not Relation.NEUTRAL]
    truth = [p.relation is Relation.CONTRADICTS for p in known]
    if len(set(truth)) < 2:
        return None
    return float(roc_auc_score(truth, contradiction_scores(reader, known)))
