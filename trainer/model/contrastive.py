"""Stage `encoder`: splits -> a transformer whose space separates what agrees with a recommendation from what does not.

Supervised contrastive fine-tuning: SupCon over (recommendation, label) plus cross-entropy over the same classes.
Batches are PK-sampled in whole families, so every anchor meets its hard negatives: the wrong statements on its own
recommendation. One loss is taken over the whole batch, whatever sub-batches it was encoded in; with `gradient_cache`
only one sub-batch's graph is held at a time, and under `accelerate launch` each process encodes its share of the rows.
After each epoch the validation split is scored: the best epoch is what is kept. A checkpoint lets a killed run go on.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from rich.progress import Progress
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from trainer.artifacts import RunFolder, fingerprint, write_json
from trainer.errors import CorpusError
from trainer.model import checkpoint as checkpoints
from trainer.model.encoder import Embedder, SubBatch, agreed, joint_classes, load_pretrained, processes, save
from trainer.model.losses import (
    batch_hard_triplet,
    joint_cross_entropy,
    supervised_contrastive,
    supervised_contrastive_in,
)
from trainer.model.memory import keep_freed_memory
from trainer.settings import EncoderSettings, Objective
from trainer.statements.edits import guideline_example, number_edits
from trainer.types import Example, Label, Recommendation

HISTORY = "history.json"  # in the encoder's folder: one row an epoch


def batches(
    examples: Sequence[Example], *, batch_size: int, recommendations: int, rng: random.Random
) -> list[list[Example]]:
    """Return one epoch of PK-sampled batches: whole families of at most `recommendations` recommendations each.

    P recommendations with K statements each (Hermans et al. 2017, arXiv:1703.07737). Recommendations with many families
    left are drawn more often, so that the last batches of an epoch are not made of one recommendation only.
    Out-of-scope statements are dealt out evenly over the batches: a batch of nothing else would pull the encoder away
    from what it is for.
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


def one_epoch(
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


class _Schedule:
    """Linear warm-up and decay by progress: the greater of steps done and time spent, each as a share of its limit."""

    def __init__(self, steps: int, max_minutes: float | None, warmup: float) -> None:
        self._steps = steps
        self._seconds = max_minutes * 60 if max_minutes else None
        self._warmup = warmup
        self._started = time.monotonic()
        self.step = 0
        self.elapsed = 0.0  # seconds of training when the clock was last read, those before a restart included

    def tick(self) -> None:
        """Read the clock; of several processes the main one's, since one that stops alone leaves the others waiting."""
        own = time.monotonic() - self._started
        self.elapsed = agreed(own) if self._seconds else own

    def resume(self, step: int, elapsed: float) -> None:
        """Go on from an earlier process."""
        self.step, self.elapsed = step, elapsed
        self._started = time.monotonic() - elapsed

    @property
    def progress(self) -> float:
        """Between 0 and 1; training ends at 1."""
        by_time = self.elapsed / self._seconds if self._seconds else 0.0
        return min(max(self.step / self._steps, by_time), 1.0)

    def factor(self) -> float:
        """Return what the learning rates are multiplied by now."""
        progress = self.progress
        return min((progress + 1 / self._steps) / self._warmup, 1.0, (1 - progress) / (1 - self._warmup))


class Criterion(nn.Module):
    """The loss of a batch: a contrastive part on (projected) embeddings, cross-entropy through a linear head.

    Without a cross-entropy weight the head is trained all the same, on embeddings cut off from the encoder: a linear
    probe, by which the validation split is scored whatever the objective.
    """

    def __init__(self, dimension: int, recommendations: int, settings: EncoderSettings) -> None:
        super().__init__()
        self._settings = settings
        self._none = 2 * recommendations  # the class of what is out of scope
        self.head = nn.Linear(dimension, self._none + 1)
        # Two layers, as in SimCLR and SupCon: what the contrastive loss throws away is thrown away behind it.
        self.projection: nn.Module = (
            nn.Sequential(nn.Linear(dimension, dimension), nn.ReLU(), nn.Linear(dimension, settings.projection))
            if settings.projection
            else nn.Identity()
        )

    def _contrastive(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        own = self._settings
        projected = nn.functional.normalize(self.projection(embeddings), dim=1)
        if own.objective is Objective.TRIPLET:
            return batch_hard_triplet(projected, classes, own.margin)
        if own.objective is Objective.LABEL:
            by_label = torch.where(classes == self._none, 2, classes % 2)
            return supervised_contrastive(projected, by_label, own.temperature)
        hard = None
        if own.hard_negative_weight != 1.0:
            hard = (classes[:, None] // 2 == classes[None, :] // 2) & (classes[:, None] != classes[None, :])
        inside = own.objective is Objective.RECOMMENDATION_AWARE_IN
        loss = supervised_contrastive_in if inside else supervised_contrastive
        return loss(projected, classes, own.temperature, hard=hard, hard_weight=own.hard_negative_weight)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return fp32 [n, 2 x recommendations + 1].

        Unit vectors give logits too small for a peaked softmax; 1/tau scales them as it does in SupCon.
        """
        return self.head(embeddings / self._settings.temperature)  # type: ignore[no-any-return]

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return the scalar loss of fp32 [n, dim] and int64 [n] as `joint_classes` numbers them."""
        own = self._settings
        if own.cross_entropy_weight:
            loss = own.cross_entropy_weight * joint_cross_entropy(self.logits(embeddings), classes)
        else:
            loss = joint_cross_entropy(self.logits(embeddings.detach()), classes)
        if own.objective is not Objective.NONE:
            loss = loss + own.contrastive_weight * self._contrastive(embeddings, classes)
        return loss


def backward(
    embedder: Embedder, criterion: Criterion, texts: Sequence[str], classes: Tensor, *, cached: bool
) -> tuple[float, Tensor]:
    """Leave the gradients of one batch in encoder and criterion; return the loss and the embeddings, fp32 [n, dim].

    With `cached` the batch is encoded twice, first without a graph, then one sub-batch at a time with the loss's
    gradient at its rows: GradCache (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup", RepL4NLP 2021, arXiv:2101.06983). The gradients are those of the whole batch, memory that of a sub-batch.

    Under several processes each encodes every n-th row; all see all embeddings, so the loss is that of one process.
    """
    state = processes()
    parts = _share(embedder.plan(texts), state.process_index, state.num_processes)
    rows = torch.tensor([i for part in parts for i in part.rows], dtype=torch.long, device=embedder.device)
    with torch.set_grad_enabled(not cached):
        encoded = [embedder.encode(part) for part in parts]
    own = torch.cat(encoded) if encoded else torch.zeros(0, embedder.encoder.dimension, device=embedder.device)
    leaf = own.detach().requires_grad_()
    everything = torch.zeros(len(texts), own.shape[1], device=embedder.device)
    everything[rows] = leaf.detach()
    if state.num_processes > 1:
        everything = reduce(everything, reduction="sum")
    everything = everything.index_copy(0, rows, leaf)
    loss = criterion(everything, classes)
    loss.backward()
    gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
    if cached:
        start = 0
        for part in parts:
            end = start + len(part.rows)
            embedder.encode(part).backward(gradient[start:end])  # type: ignore[no-untyped-call]
            start = end
    elif own.requires_grad:
        own.backward(gradient)  # type: ignore[no-untyped-call]
    if state.num_processes > 1:
        for parameter in embedder.encoder.parameters():
            if parameter.requires_grad:
                own_gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(own_gradient, reduction="sum")
    return float(loss.item()), everything.detach()


def _share(parts: Sequence[SubBatch], index: int, processes: int) -> list[SubBatch]:
    """Return every n-th sub-batch: neighbours are of similar length, so the shares are of similar cost."""
    return list(parts[index::processes])


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: mean loss, validation AUC of the head (None where nothing can be told apart), seconds so far."""

    epoch: int
    loss: float
    validation_auc: float | None
    seconds: float


def validation_auc(embedder: Embedder, criterion: Criterion, examples: Sequence[Example]) -> float | None:
    """Return the AUC of the head's unsafe share on the in-scope examples; None where they are of one label only."""
    scoped = [e for e in examples if e.recommendation is not None]
    unsafe = [e.label is Label.UNSAFE for e in scoped]
    if len(set(unsafe)) < 2:
        return None
    embeddings = torch.from_numpy(embedder.embed([e.text for e in scoped])).to(embedder.device)
    embedder.encoder.train()
    with torch.inference_mode():
        logits = criterion.logits(embeddings)[:, :-1].float()
        margin = logits[:, 1::2].logsumexp(dim=1) - logits[:, 0::2].logsumexp(dim=1)
    return float(roc_auc_score(unsafe, margin.cpu().numpy()))


class _Training:
    """State of a training that can be saved after an epoch and taken up again."""

    def __init__(
        self,
        embedder: Embedder,
        criterion: Criterion,
        settings: EncoderSettings,
        schedule: _Schedule,
        rng: random.Random,
    ) -> None:
        self.embedder = embedder
        self.criterion = criterion
        self.schedule = schedule
        self.rng = rng
        trained = [p for p in embedder.encoder.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": trained, "lr": settings.learning_rate},
                {"params": criterion.parameters(), "lr": settings.head_learning_rate},
            ],
            weight_decay=settings.weight_decay,
        )
        self._rates = [group["lr"] for group in self.optimiser.param_groups]
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.seen = 0

    def step(self, batch: Sequence[Example], recommendations: Sequence[str], *, cached: bool) -> float:
        """Take one optimiser step; return the loss."""
        factor = self.schedule.factor()
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        classes = torch.from_numpy(joint_classes(batch, recommendations)).to(self.embedder.device)
        self.optimiser.zero_grad()
        loss, _ = backward(self.embedder, self.criterion, [e.text for e in batch], classes, cached=cached)
        torch.nn.utils.clip_grad_norm_(self.embedder.encoder.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step += 1
        self.seen += len(batch)
        return loss

    def close_epoch(self, loss: float, auc: float | None) -> None:
        """Note an epoch, and its weights where it is the best so far."""
        before = [e.validation_auc for e in self.history if e.validation_auc is not None]
        self.history.append(Epoch(len(self.history) + 1, round(loss, 4), auc, round(self.schedule.elapsed)))
        if auc is None or not before or auc > max(before):
            state = self.embedder.encoder.state_dict()
            self.best = {name: value.detach().clone() for name, value in state.items()}

    @property
    def best_epoch(self) -> Epoch:
        """The epoch whose weights are kept: the first of the best validation AUC, or the last one."""
        if all(e.validation_auc is None for e in self.history):
            return self.history[-1]
        return max(self.history, key=lambda e: -1.0 if e.validation_auc is None else e.validation_auc)

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint, whole or not at all."""
        checkpoints.write(
            path,
            key,
            {
                "encoder": self.embedder.encoder.state_dict(),
                "criterion": self.criterion.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "best": self.best,
                "history": [[e.epoch, e.loss, e.validation_auc, e.seconds] for e in self.history],
                "step": self.schedule.step,
                "elapsed": self.schedule.elapsed,
                "seen": self.seen,
                "rng": json.dumps(self.rng.getstate()),
            },
        )

    def resume(self, path: Path, key: str) -> bool:
        """Take up a checkpoint of the same training; tell whether there was one."""
        state = checkpoints.read(path, key, self.embedder.device)
        if state is None:
            return False
        self.embedder.encoder.load_state_dict(state["encoder"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = state["best"]
        self.history = [Epoch(*row) for row in state["history"]]
        self.seen = state["seen"]
        self.schedule.resume(state["step"], state["elapsed"])
        version, numbers, gauss = json.loads(state["rng"])
        self.rng.setstate((version, tuple(numbers), gauss))
        return True


def _exhausted(history: Sequence[Epoch], patience: int) -> bool:
    """Tell whether the last `patience` epochs brought nothing better."""
    known = [e.validation_auc for e in history if e.validation_auc is not None]
    return 0 < patience < len(known) and max(known[-patience:]) <= max(known[:-patience])


def train(
    examples: Sequence[Example],
    validation: Sequence[Example],
    recommendations: Sequence[Recommendation],
    settings: EncoderSettings,
    report: Callable[[float, str], None],
    checkpoint: Path | None = None,
) -> tuple[Embedder, dict[str, Any]]:
    """Fine-tune the base encoder; `report` is told progress (0 to 1) and a line about it.

    Args:
        examples: what is trained on.
        validation: chooses the epoch that is kept and ends training early; empty: the last epoch is kept.
        recommendations: of the guideline.
        settings: hyperparameters.
        report: called after every step.
        checkpoint: written after every epoch and taken up where it is of the same training.

    Returns:
        The embedder of the best epoch's encoder, and what to say of the training (`history`: one row an epoch).

    Raises:
        CorpusError: no example is on the guideline.
    """
    if not any(e.label is not Label.OUT_OF_SCOPE for e in examples):
        raise CorpusError("no statement on the guideline to train on: see splits.json and rejected.jsonl of the run")
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    encoder, tokenizer = load_pretrained(settings.base, settings.pooling)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # few epochs on clean labels: noise only slows it down
    for parameter in encoder.transformer.get_input_embeddings().parameters():  # type: ignore[operator]
        parameter.requires_grad = False  # half of MiniLM's weights; the corpus touches too few words to move them
    embedder = Embedder(encoder, tokenizer, max_length=settings.max_length, sub_batch=settings.sub_batch)
    ids = [r.id for r in recommendations]
    criterion = Criterion(encoder.dimension, len(recommendations), settings).to(embedder.device)
    rows_per_epoch = len(one_epoch(examples, recommendations, settings, random.Random(0)))
    schedule = _Schedule(
        settings.epochs * max(rows_per_epoch // settings.batch_size, 1), settings.max_minutes, settings.warmup
    )
    training = _Training(embedder, criterion, settings, schedule, random.Random(settings.seed))
    key = fingerprint(
        settings,
        [[r.id, r.text] for r in recommendations],
        *([[e.id, e.text, e.label, e.recommendation, e.family] for e in part] for part in (examples, validation)),
    )
    resumed = checkpoint is not None and training.resume(checkpoint, key)
    main = processes().is_main_process
    started, before = time.monotonic(), training.seen
    encoder.train()
    # One step at least, however little time there was.
    while not training.history or (schedule.progress < 1 and not _exhausted(training.history, settings.patience)):
        epoch = one_epoch(examples, recommendations, settings, training.rng)
        losses: list[float] = []
        for batch in batches(
            epoch, batch_size=settings.batch_size, recommendations=settings.recommendations_per_batch, rng=training.rng
        ):
            schedule.tick()
            if schedule.progress >= 1 and (losses or training.history):
                break
            losses.append(training.step(batch, ids, cached=settings.gradient_cache))
            speed = (training.seen - before) / (time.monotonic() - started)
            report(schedule.progress, f"loss {losses[-1]:.2f}, {speed:.0f} statements/s")
        if not losses:
            break  # the time was over before the first batch
        auc = validation_auc(embedder, criterion, validation)
        schedule.tick()
        training.close_epoch(float(np.mean(losses)), None if auc is None else agreed(auc))
        if checkpoint is not None and main:
            training.save(checkpoint, key)
    best = training.best_epoch
    encoder.load_state_dict(training.best)
    seconds = time.monotonic() - started
    return embedder, {
        "epochs": round(training.seen / rows_per_epoch, 2),
        "kept": best.epoch,
        "validation_auc": best.validation_auc,
        "statements_per_second": round((training.seen - before) / seconds, 1),
        "final_loss": training.history[-1].loss,
        "resumed": resumed,
        "history": training.history,
    }


def run(
    examples: Sequence[Example],
    validation: Sequence[Example],
    recommendations: Sequence[Recommendation],
    folder: RunFolder,
    settings: EncoderSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage; return what to say of it."""
    task = progress.add_task("encoder", total=1.0)

    def report(done: float, line: str) -> None:
        progress.update(task, completed=done, description=f"encoder: {line}")

    checkpoint = folder.checkpoint
    embedder, summary = train(examples, validation, recommendations, settings, report, checkpoint)
    history = summary.pop("history")
    if processes().is_main_process:
        save(embedder, settings.base, folder.encoder)
        write_json(folder.encoder / HISTORY, [asdict(epoch) for epoch in history])
        checkpoint.unlink(missing_ok=True)
    return summary
