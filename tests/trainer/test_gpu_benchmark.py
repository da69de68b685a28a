"""The benchmark for a GPU runs as it is on a machine without one."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu


def test_the_gpu_benchmark_runs_small_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small", "--output", str(output)])
    gpu.main()
    content = json.loads(output.read_text())
    assert content["small"]
    cases = [row["case"] for row in content["rows"]]
    assert cases == [
        "padded", "grouped", "grouped-graphs", "packed", "one-by-one", "one-by-one-graphs",
        "training-padded", "training-grouped", "training-packed",
    ]  # fmt: skip
    assert all(row["statements_per_s"] > 0 and row["fraction_of_peak"] > 0 for row in content["rows"])
    assert "these figures mean nothing" in capsys.readouterr().out


def test_every_way_of_batching_has_every_statement_once() -> None:
    rows = gpu.statements(gpu.SMALL, torch.device("cpu"))
    ordered = sorted(rows, key=len)
    shaped = [row for _, own in gpu.shaped(rows, 256) for row in own]
    for batches in (gpu.chunks(rows, 8), gpu.budgeted(ordered, 256, 0.1), gpu.budgeted(rows, 256), [shaped]):
        assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    for batch in gpu.budgeted(ordered, 256, 0.1):
        area = len(batch) * max(map(len, batch))
        assert len(batch) == 1 or (area <= 256 and area - sum(map(len, batch)) <= 0.1 * area)


def test_rows_that_differ_stop_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    encoder = gpu.Encoder(gpu.SMALL.sizes[0], gpu.SMALL.longest)
    rows = gpu.statements(gpu.SMALL, torch.device("cpu"))[:4]
    gpu.check(encoder, rows)
    monkeypatch.setattr(encoder, "packed", lambda pack: encoder(gpu.padded(rows[::-1])))
    with pytest.raises(SystemExit, match="nothing was measured"):
        gpu.check(encoder, rows)


def test_the_useful_flops_are_those_of_the_literature() -> None:
    mini, base = gpu.FULL.sizes
    assert mini.flops(128) / 128 == pytest.approx(21.8e6, rel=0.03)
    assert base.flops(128) / 128 == pytest.approx(172e6, rel=0.03)


def test_the_benchmark_needs_nothing_of_the_project() -> None:
    tree = ast.parse(Path(gpu.__file__).read_text())
    modules = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    ours = {m.partition(".")[0] for m in modules} - {*sys.stdlib_module_names, "torch"}
    assert ours == set()
