"""The encoder every way it is served, side by side in one run: `make bench-serving`.

    padded          fp32 graph as torch wrote it, arrival order, 32 statements a batch
    grouped-fp32    the same graph, batches of like length (`monitor.batching`)
    fused-fp32      attention, norms and activations fused at export, batches of like length
    int8            the package that ships, batches of like length
    in-process-N    the package that ships, N statements a request, one request after the other
    triton-N        the same requests to the bundled tritonserver over gRPC

Statements are those of the shipped answers, in stream order. Rounds alternate, so that a machine that slows down slows
all of them, and each measures the fp32 matrix product on all cores anew (the best of two libraries and six sizes).
`fraction_of_peak` is the FLOPs that the statements' own tokens need (24 h^2 a token and layer, and 4 h t for the
attention over t tokens) over that product; eight bits can be above 1. `ratio_to_in_process` sets `triton-N` against
`in-process-N`, and all else against `int8`, which is what the monitor does by itself. Medians of rounds.

OpenVINO is not among them: in fp32 it was no faster than the fused graph.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from monitor.batching import BatchLimits
from monitor.encoding import TextEncoder
from monitor.microbatching import Backend
from monitor.onnx_scorer import OnnxBackend
from monitor.package import TOKENIZER, ModelPackage
from monitor.segmentation import segment
from monitor.settings import DEFAULT_MODEL
from monitor.triton import TritonBackend
from tests.benchmarks.results import report
from tests.fixtures_services import TRITON_VENV, LocalTriton
from trainer.model.encoder import SentenceEncoder, load_pretrained
from trainer.model.graphs import encoder_graph, to_onnx
from trainer.model.heads import JointHead
from trainer.settings import DEFAULT_ENCODER
from trainer.statements.corpus import load_answers

_CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"
_REQUESTS = (1, 32, 128)
_BASELINE = "int8"
#: Products whose best is the peak: torch's of square matrices, and ONNX Runtime's of a batch's tokens with weights of
#: the encoder's sizes. No library is the fastest at every size on every processor.
_SIDES = (512, 1024, 2048)
_LAYERS = ((1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384))
_TRIES = 5
#: As they come: nothing is sorted, nothing split.
_ARRIVAL = BatchLimits(max_tokens=10**9, max_padding=1.0, max_rows=32, window=32)
#: A request is alone: nobody's company is waited for.
_ALONE = BatchLimits(wait=0)


@dataclass(frozen=True)
class Case:
    """One way: what scores, how many statements a call, and the case it is set against."""

    name: str
    encoder: TextEncoder
    size: int
    against: str

    async def run(self, texts: Sequence[str]) -> None:
        """Score all texts, one call after the other."""
        for start in range(0, len(texts), self.size):
            await self.encoder.score(texts[start : start + self.size])


class Peak:
    """The fp32 matrix product on all cores, FLOP/s: the best of several sizes and of both libraries."""

    def __init__(self) -> None:
        self._squares = [(torch.rand(side, side), torch.rand(side, side)) for side in _SIDES]
        self._layers = [(_product(*shape), np.random.rand(*shape[:2]).astype(np.float32), shape) for shape in _LAYERS]

    def __call__(self) -> float:
        """Measure it now."""
        best = 0.0
        for a, b in self._squares:
            best = max(best, 2 * len(a) ** 3 / _least(lambda a=a, b=b: torch.mm(a, b)))
        for session, rows, (m, k, n) in self._layers:
            best = max(best, 2 * m * k * n / _least(lambda s=session, x=rows: s.run(None, {"x": x})))
        return best


def _least(call: Callable[[], object]) -> float:
    """Return the seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _product(m: int, k: int, n: int) -> onnxruntime.InferenceSession:
    """Return a graph of one product: rows fp32 [m, k] with weights [k, n]."""
    weights = numpy_helper.from_array(np.random.rand(k, n).astype(np.float32), "w")
    value = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [m, k]), ("y", [m, n]))
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [value["x"]], [value["y"]], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def useful_flops(config: object, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Return the FLOPs that an encoder of this configuration spends on the texts' own tokens."""
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)  # type: ignore[attr-defined]
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    return float(sum(t * layers * (24 * width**2 + 4 * width * t) for t in lengths))


def _exported(
    folder: Path, like: ModelPackage, model: SentenceEncoder, tokenizer: Tokenizer, fused: bool
) -> OnnxBackend:
    """Export an encoder in fp32 with a head that says nothing, and open it."""
    spec = like.manifest.encoder
    joint = JointHead(np.zeros((2, model.dimension)), np.zeros(2))
    package = ModelPackage(folder, like.manifest)
    package.onnx(spec).parent.mkdir(parents=True)
    to_onnx(encoder_graph(model, joint, tokenizer, spec.max_length), package.onnx(spec), fused=fused)
    tokenizer.save(str(folder / TOKENIZER))
    return OnnxBackend(package, spec)


def _texts(count: int) -> list[str]:
    return [s.normalised for row in load_answers(_CORPUS) for s in segment(row["text"])][:count]


async def _round(cases: Sequence[Case], texts: Sequence[str], peak: Peak) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each case, and the peak beside it: the better of before and after."""
    seconds, peaks = {}, {}
    before = await asyncio.to_thread(peak)
    for case in cases:
        started = time.perf_counter()
        await case.run(texts)
        seconds[case.name] = time.perf_counter() - started
        after = await asyncio.to_thread(peak)
        peaks[case.name], before = max(before, after), after
    return seconds, peaks


async def measure(statements: int, rounds: int) -> list[dict[str, object]]:
    """Return a row a case."""
    shipped = ModelPackage.load(DEFAULT_MODEL)
    spec = shipped.manifest.encoder
    model, tokenizer = load_pretrained(DEFAULT_ENCODER)
    model = model.cpu().float()
    texts = _texts(statements)
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="guardline-serving-")))
        server = opened.enter_context(LocalTriton(shipped.path, venv=TRITON_VENV))

        def encoder(package: ModelPackage, backend: Backend, limits: BatchLimits) -> TextEncoder:
            own = TextEncoder(package, backend, limits=limits)
            opened.push_async_callback(own.close)
            return own

        plain = _exported(folder / "plain", shipped, model, tokenizer, fused=False)
        fused = _exported(folder / "fused", shipped, model, tokenizer, fused=True)
        as_exported = ModelPackage(folder / "plain", shipped.manifest)  # its tokenizer is that of both
        whole = len(texts)
        cases = [
            Case("padded", encoder(as_exported, plain, _ARRIVAL), 32, _BASELINE),
            Case("grouped-fp32", encoder(as_exported, plain, BatchLimits()), whole, _BASELINE),
            Case("fused-fp32", encoder(as_exported, fused, BatchLimits()), whole, _BASELINE),
            Case(_BASELINE, encoder(shipped, OnnxBackend(shipped, spec), BatchLimits()), whole, _BASELINE),
        ]
        for size in _REQUESTS:
            beside = f"in-process-{size}"
            own = encoder(shipped, OnnxBackend(shipped, spec), _ALONE)
            served = encoder(shipped, TritonBackend(shipped, spec, url=server.url), _ALONE)
            cases += [Case(beside, own, size, beside), Case(f"triton-{size}", served, size, beside)]
        for case in cases:
            await case.run(texts[:32])
        peak = Peak()
        measured = [await _round(cases, texts, peak) for _ in range(rounds)]
    own_flops = useful_flops(model.transformer.config, tokenizer, texts)
    return [
        {
            "case": case.name,
            "statements_per_s": statistics.median(len(texts) / seconds[case.name] for seconds, _ in measured),
            "fraction_of_peak": statistics.median(
                own_flops / seconds[case.name] / peaks[case.name] for seconds, peaks in measured
            ),
            "ratio_to_in_process": statistics.median(
                seconds[case.against] / seconds[case.name] for seconds, _ in measured
            ),
        }
        for case in cases
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--statements", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not (TRITON_VENV / "bin" / "python").exists():
        raise SystemExit("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    torch.set_num_threads(os.cpu_count() or 1)
    report("serving", asyncio.run(measure(arguments.statements, arguments.rounds)))


if __name__ == "__main__":
    main()
