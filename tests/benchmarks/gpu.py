"""Encoders on one NVIDIA GPU: how much of the card's matrix products go into tokens that count.

Needs PyTorch and the card, nothing else: no network, no file of this project, random weights. Encoders of the sizes
that a package may have (MiniLM-L6, BERT-base), forward and a contrastive training step, on statements of mixed lengths:

    padded          arrival order, every batch as wide as its longest row
    grouped         sorted by length, cut at a budget of tokens or 10% padding
    grouped-graphs  a few fixed shapes, each captured as a CUDA graph
    packed          no padding at all: variable-length attention over one long row
    one-by-one      a statement a batch, where launching kernels takes longer than they do
    one-by-one-graphs

Useful FLOPs are those of a statement's own tokens: 24 h^2 a token and layer for the products with weights, 4 h t for
the attention over t tokens (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with both attention products); three
times that for a training step. They are divided by the bf16 matrix product measured in the same round. Rounds
alternate between the cases, so that a card that slows down slows all of them.

    python gpu.py                         the table; and JSON, in build/results/gpu.json or where --output says
    python gpu.py --device cpu --small    proves in seconds that the code runs; its figures mean nothing
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_VOCABULARY = 30522
_HALF = torch.bfloat16
_TEMPERATURE = 0.1
#: Share of padding that a group may have; shapes of graphs are multiples of this many tokens.
_PADDING, _STEP = 0.10, 16
#: Packed and padded outputs are the same but for rounding in bf16; both are unit vectors.
_AGREE = 0.03


@dataclass(frozen=True)
class Size:
    """An encoder: layers, width, heads, and a feed-forward layer of four times the width."""

    name: str
    layers: int
    width: int
    heads: int

    def flops(self, length: int) -> float:
        """Return the FLOPs that a statement of `length` tokens needs in a forward pass."""
        return float(length * self.layers * (24 * self.width**2 + 4 * self.width * length))


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: tuple[Size, ...]
    statements: int
    longest: int
    arrival: int  # statements of a batch in arrival order
    tokens: int  # budget of a grouped or packed batch
    training: int  # statements of a training step
    alone: int  # statements of the cases one by one
    gemm: int  # rows and columns of the product that is the peak
    rounds: int


FULL = Plan((Size("MiniLM-L6", 6, 384, 12), Size("BERT-base", 12, 768, 12)), 8192, 256, 128, 16384, 512, 64, 8192, 7)
SMALL = Plan((Size("tiny", 2, 64, 4),), 48, 64, 8, 256, 16, 4, 256, 1)


@dataclass(frozen=True)
class Batch:
    """Rows of one shape: ids and mask, int64 [rows, tokens]; `full` where there is no padding to be masked."""

    ids: Tensor
    mask: Tensor
    full: bool = False


@dataclass(frozen=True)
class Pack:
    """Rows without padding: ids and positions, int64 [tokens]; where rows begin, int32 [rows + 1]; the longest."""

    ids: Tensor
    positions: Tensor
    starts: Tensor
    rows: Tensor
    longest: int


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> Tensor:
    """Attend within rows, [tokens, heads, dim] in and out: one kernel on a GPU, row by row on a CPU (the reference)."""
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        own = varlen_attn(q, k, v, pack.starts, pack.starts, pack.longest, pack.longest)
        return own if isinstance(own, Tensor) else own[0]
    bounds = pack.starts.tolist()
    rows = [
        functional.scaled_dot_product_attention(*(x[a:b].transpose(0, 1)[None] for x in (q, k, v)))[0].transpose(0, 1)
        for a, b in itertools.pairwise(bounds)
    ]
    return torch.cat(rows)


class Layer(nn.Module):
    """A post-norm transformer layer, as BERT's."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)
        self.up, self.down = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)
        self.norms = nn.ModuleList([nn.LayerNorm(size.width), nn.LayerNorm(size.width)])

    def forward(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return the layer's output for x, [..., width]; `attend` gets [..., heads, dim] three times."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        x = self.norms[0](x + self.out(attend(q, k, v).flatten(-2)))
        return torch.as_tensor(self.norms[1](x + self.down(functional.gelu(self.up(x)))))


class Encoder(nn.Module):
    """Token ids in, unit vectors out, [rows, width]; mean of the tokens that are no padding."""

    def __init__(self, size: Size, longest: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(_VOCABULARY, size.width), nn.Embedding(longest, size.width)
        self.norm = nn.LayerNorm(size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def forward(self, batch: Batch) -> Tensor:
        """Encode padded rows."""
        x = self.norm(self.words(batch.ids) + self.positions.weight[: batch.ids.shape[1]])
        seen = None if batch.full else batch.mask.bool()[:, None, None]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (a.transpose(1, 2) for a in (q, k, v))
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)

        for layer in self.layers:
            x = layer(x, attend)
        weight = batch.mask[..., None].to(x.dtype)
        return functional.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)

    def packed(self, pack: Pack) -> Tensor:
        """Encode rows without padding."""
        x = self.norm(self.words(pack.ids) + self.positions(pack.positions))
        for layer in self.layers:
            x = layer(x, lambda q, k, v: _packed_attention(q, k, v, pack))
        rows = len(pack.starts) - 1
        total = torch.zeros(rows, x.shape[-1], dtype=x.dtype, device=x.device).index_add(0, pack.rows, x)
        return functional.normalize(total / pack.starts.diff()[:, None], dim=-1)


def statements(plan: Plan, device: torch.device) -> list[Tensor]:
    """Return token ids of statements in arrival order; lengths as those of clinical statements, some 30 and a tail."""
    torch.manual_seed(5)
    lengths = torch.exp(3.3 + 0.6 * torch.randn(plan.statements)).round().long().clamp(6, plan.longest)
    return [torch.randint(1000, _VOCABULARY, (int(n),), device=device) for n in lengths]


def padded(rows: Sequence[Tensor], shape: tuple[int, int] | None = None) -> Batch:
    """Return rows as one batch, as wide as the longest or of the given shape."""
    n, width = shape or (len(rows), max(map(len, rows)))
    ids = torch.zeros(n, width, dtype=torch.int64, device=rows[0].device)
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1  # of rows that only fill the shape
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return Batch(ids, mask, full=shape is None and min(map(len, rows)) == width)


def pack(rows: Sequence[Tensor]) -> Pack:
    """Return rows end to end."""
    device = rows[0].device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    owners = torch.arange(len(rows), device=device).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])
    return Pack(torch.cat(list(rows)), positions, starts, owners, int(lengths.max()))


def chunks(rows: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield rows in arrival order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def budgeted(rows: Sequence[Tensor], tokens: int, padding: float = 1.0) -> Iterator[list[Tensor]]:
    """Yield rows until they fill the budget, or are padded by more than this share of the batch."""
    batch: list[Tensor] = []
    own = 0
    for row in rows:
        area = (len(batch) + 1) * max(len(row), *(len(r) for r in batch), 0)
        full = own + len(row) > tokens if padding >= 1 else area > tokens or area - own - len(row) > padding * area
        if batch and full:
            yield batch
            batch, own = [], 0
        batch.append(row)
        own += len(row)
    if batch:
        yield batch


def shaped(rows: Sequence[Tensor], tokens: int) -> Iterator[tuple[tuple[int, int], list[Tensor]]]:
    """Yield rows sorted by length with the shape they are padded to: one of a few, each of `tokens` tokens at most."""
    groups: dict[int, list[Tensor]] = {}
    for row in rows:
        groups.setdefault(-(-len(row) // _STEP) * _STEP, []).append(row)
    for width, own in sorted(groups.items()):
        rows_each = min(max(1, tokens // width), len(own))
        for batch in chunks(own, rows_each):
            yield (rows_each, width), batch


class Graphs:
    """Forward passes captured as CUDA graphs, one a shape; without CUDA they just run."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[int, int], tuple[Any, Batch, Tensor]] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Return the vectors of a batch; they are overwritten by the next one of its shape."""
        if not batch.ids.is_cuda:
            return self._encode(batch)
        shape = (batch.ids.shape[0], batch.ids.shape[1])
        if shape not in self._known:
            self._known[shape] = self._capture(batch)
        graph, inputs, output = self._known[shape]
        inputs.ids.copy_(batch.ids)
        inputs.mask.copy_(batch.mask)
        graph.replay()
        return output

    def _encode(self, batch: Batch) -> Tensor:
        return torch.as_tensor(self._encoder(batch))

    def _capture(self, batch: Batch) -> tuple[Any, Batch, Tensor]:
        inputs = Batch(batch.ids.clone(), batch.mask.clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are chosen before the capture
            for _ in range(3):
                self._encode(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._encode(inputs)
        return graph, inputs, output


def contrast(vectors: Tensor, labels: Tensor) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, equation 2) of unit vectors."""
    logits = vectors.float() @ vectors.float().T / _TEMPERATURE
    self_ = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels[None]) & ~self_
    log_p = logits - logits.masked_fill(self_, float("-inf")).logsumexp(1, keepdim=True)
    return -(log_p * positive).sum(1).div(positive.sum(1).clamp(min=1)).mean()


@dataclass(frozen=True)
class Case:
    """One way of doing the same work: `run` does all of it, `flops` is what it is worth."""

    name: str
    run: Callable[[], object]
    statements: int
    flops: float
    baseline: str  # name of the case that it is set against


def forward_cases(size: Size, plan: Plan, encoder: Encoder, rows: list[Tensor]) -> list[Case]:
    """Return the ways of encoding; batches are made before, because a server has other threads for that."""
    by_length = sorted(rows, key=len)
    arrival = [padded(own) for own in chunks(rows, plan.arrival)]
    grouped = [padded(own) for own in budgeted(by_length, plan.tokens, _PADDING)]
    fixed = [padded(own, shape) for shape, own in shaped(rows, plan.tokens)]
    packs = [pack(own) for own in budgeted(rows, plan.tokens)]
    alone = [padded([row]) for row in rows[: plan.alone]]
    alone_fixed = [padded([row], (1, -(-len(row) // _STEP) * _STEP)) for row in rows[: plan.alone]]
    graphs, work = Graphs(encoder), sum(size.flops(len(row)) for row in rows)
    few = sum(size.flops(len(row)) for row in rows[: plan.alone])

    def each(encode: Callable[[Any], Tensor], batches: Sequence[Any]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                for batch in batches:
                    encode(batch)

        return run

    n, base, single = len(rows), "padded", "one-by-one"
    return [
        Case(base, each(encoder, arrival), n, work, base),
        Case("grouped", each(encoder, grouped), n, work, base),
        Case("grouped-graphs", each(graphs, fixed), n, work, base),
        Case("packed", each(encoder.packed, packs), n, work, base),
        Case(single, each(encoder, alone), len(alone), few, single),
        Case("one-by-one-graphs", each(graphs, alone_fixed), len(alone), few, single),
    ]


def training_cases(size: Size, plan: Plan, encoder: Encoder, rows: list[Tensor]) -> list[Case]:
    """Return the ways of a training step: one contrastive loss over the whole batch, however it is encoded."""
    own = rows[: plan.training]
    by_length = sorted(own, key=len)
    order = torch.arange(len(own), device=own[0].device) % max(2, len(own) // 8)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-5, fused=own[0].is_cuda)
    arrival, grouped = [padded(own)], [padded(g) for g in budgeted(by_length, plan.tokens, _PADDING)]
    packs = [pack(p) for p in budgeted(own, plan.tokens)]

    def step(encode: Callable[[Any], Tensor], batches: Sequence[Any]) -> Callable[[], None]:
        def run() -> None:
            optimiser.zero_grad(set_to_none=True)
            contrast(torch.cat([encode(batch) for batch in batches]), order).backward()
            optimiser.step()

        return run

    work, base = 3 * sum(size.flops(len(row)) for row in own), "training-padded"
    return [
        Case(base, step(encoder, arrival), len(own), work, base),
        Case("training-grouped", step(encoder, grouped), len(own), work, base),
        Case("training-packed", step(encoder.packed, packs), len(own), work, base),
    ]


def check(encoder: Encoder, rows: Sequence[Tensor]) -> None:
    """Make sure that all ways give the same vectors before they are timed.

    Raises:
        SystemExit: packed and padded rows differ by more than bf16 rounds.
    """
    with torch.inference_mode():
        expected = encoder(padded(rows))
        for name, given in (("packed", encoder.packed(pack(rows))), ("graphs", Graphs(encoder)(padded(rows)))):
            if (worst := float((expected - given).abs().max())) > _AGREE or worst != worst:
                raise SystemExit(f"{name} and padded rows differ by {worst:.3f}: nothing was measured")


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return how long a run takes, its last kernel included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(plan: Plan, device: torch.device) -> Callable[[], float]:
    """Return a function that measures the bf16 matrix product, FLOP/s: the best of ten."""
    a, b = (torch.randn(plan.gemm, plan.gemm, device=device, dtype=_HALF) for _ in range(2))
    return lambda: 2 * plan.gemm**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def measure(size: Size, plan: Plan, device: torch.device) -> list[dict[str, object]]:
    """Return a row a case for one size of encoder; medians of rounds."""
    torch.manual_seed(7)
    rows = statements(plan, device)
    served = Encoder(size, plan.longest).to(device, _HALF).eval()
    check(served, rows[: plan.arrival])
    trained = Encoder(size, plan.longest).to(device, _HALF).train()
    cases = forward_cases(size, plan, served, rows) + training_cases(size, plan, trained, rows)
    product = peak(plan, device)
    for case in cases:  # kernels are chosen, graphs captured, memory claimed
        case.run()
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    fractions: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(plan.rounds):
        for case in cases:
            best = product()
            taken = seconds(case.run, device)
            times[case.name].append(taken)
            fractions[case.name].append(case.flops / taken / best)
    return [
        {
            "encoder": size.name,
            "case": case.name,
            "statements_per_s": case.statements / statistics.median(times[case.name]),
            "useful_tflops": case.flops / statistics.median(times[case.name]) / 1e12,
            "fraction_of_peak": statistics.median(fractions[case.name]),
            "ratio_to_baseline": statistics.median(
                b / t for b, t in zip(times[case.baseline], times[case.name], strict=True)
            ),
        }
        for case in cases
    ]


def show(rows: Sequence[dict[str, object]]) -> None:
    """Print rows as a table."""
    cells = [[*rows[0]], *([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a toy encoder and few statements")
    parser.add_argument("--output", type=Path, default=Path("build/results/gpu.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU that this PyTorch can use: try --device cpu --small")
    plan = SMALL if arguments.small else FULL
    rows = [row for size in plan.sizes for row in measure(size, plan, device)]
    card = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {platform.machine()}"
    print(f"{card}, PyTorch {torch.__version__}")
    show(rows)
    if arguments.small:
        print("A toy: these figures mean nothing.")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "gpu",
        "card": card,
        "torch": str(torch.__version__),
        "small": arguments.small,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
