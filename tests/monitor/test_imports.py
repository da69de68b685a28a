"""Promises about what is imported: the monitor stays free of ML frameworks, `check` of brokers and their clients."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""
SERVICES = {
    "aiokafka",
    "confluent_kafka",
    "faust",
    "grpc",
    "mode",
    "prometheus_client",
    "redis",
    "tritonclient",
    "uvloop",
}
FRAMEWORKS = {"sklearn", "torch", "trainer", "transformers"}


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_the_worker_loads_no_framework_and_nothing_of_the_trainer() -> None:
    result = python(
        "import sys, monitor.app, monitor.check, monitor.worker, monitor.triton, monitor.redis_store\n"
        "print(*sys.modules)"
    )
    assert result.returncode == 0, result.stderr
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert {"faust", "onnxruntime", "tokenizers"} <= loaded
    assert not loaded & FRAMEWORKS


@pytest.mark.parametrize("module", ["monitor.check", "monitor.cli", "monitor.doctor"])
def test_the_command_line_needs_no_client_of_a_service(module: str) -> None:
    result = python(BLOCK.format(blocked=SERVICES | FRAMEWORKS) + f"import {module}\nprint(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert not {name.partition(".")[0] for name in result.stdout.split()} & SERVICES


def test_without_the_extra_the_worker_says_which_one_it_needs() -> None:
    result = python(BLOCK.format(blocked=SERVICES) + "from monitor.cli import main\nmain(['monitor'])")
    assert result.returncode == 2
    assert "pip install 'guardline[monitor]'" in result.stderr


def test_check_gives_a_verdict_without_any_client_of_a_service() -> None:
    script = """
import asyncio, orjson
from monitor.assessment import Assessment
from monitor.check import check_lines
from monitor.memory import MemoryStore
from monitor.package import Manifest, ModelPackage
from monitor.screening import Screening
from monitor.types import ModelScores
import numpy as np
from pathlib import Path

class Scorer:
    async def score(self, texts):
        embeddings = np.array([[1, 0]] * len(texts), dtype=np.float32)
        return ModelScores(embeddings, np.full(len(texts), 0.9, dtype=np.float32))

head = {"classes": ["r", "out_of_scope"], "weights": [[9, 0], [0, 9]], "bias": [0, 0]}
manifest = {
    "schema_version": 1, "name": "n", "version": "1", "created_at": "2026-01-01T00:00:00Z",
    "encoder": {"base": "b", "dimension": 2, "max_length": 8},
    "thresholds": {"unsafe": 0.5, "review": 0.4, "in_scope": 0.5},
    "calibration": {"method": "m", "slope": 1, "intercept": 0, "fitted_on": "v"},
    "scope": {"language": "en", "terms": ["drug"]},
    "guideline": {"id": "g", "title": "t", "condition": "c", "treatment": "t", "version": "1", "sha256": ""},
    "corpus": {"sha256": "", "statements": 1, "origin": "o"},
    "recommendations": [{"id": "r", "section": "1", "text": "t", "embedding": [1, 0]}],
    "alignment": head, "category": head, "evaluation": [], "files": {},
}
package = ModelPackage(Path("none"), Manifest.model_validate(manifest))
assessment = Assessment(package.manifest, Scorer(), None)
screening = Screening(package, assessment=assessment, store=MemoryStore())
print(asyncio.run(check_lines([b'{"id": "a", "text": "Take the drug."}'], screening, package))[0]["verdict"])
"""
    result = python(BLOCK.format(blocked=SERVICES | FRAMEWORKS) + script)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "unsafe"
