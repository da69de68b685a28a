"""Statements whose verdicts a package carries: what it decides here must be what it decided when it was exported.

They find what digests cannot: another version of ONNX Runtime that computes otherwise, a server with other weights, a
tokenizer library that cuts differently, a change of the monitor's own code. Scores far from the thresholds were chosen,
so that rounding flips none.
"""

from __future__ import annotations

from monitor.errors import ModelMismatch
from monitor.package import CanarySpec, ModelPackage
from monitor.screening import Screening
from monitor.types import Message

#: Largest difference of a score. A GPU's fp16 graph differs from fp32 by up to 0.02.
TOLERANCE = 0.05


async def failures(screening: Screening, canaries: list[CanarySpec]) -> list[str]:
    """Return one line for each canary that is decided otherwise than it should be; none means that all is well.

    Where settings ask for other decisions than the package's own (the encoder alone, other thresholds), canaries are
    scored, so that a model that does not work is found, and their verdicts are not compared.

    Raises:
        ScorerUnavailable: the model does not answer now.
        ScorerFailed: it answered with an error or nonsense.
        ModelMismatch: it is another model than the package's.
    """
    verdicts = await screening.screen([Message(id=f"canary-{i}", text=c.text) for i, c in enumerate(canaries)])
    return [
        f"canary {i + 1}: {found.verdict.value} at {found.score:.3f}, not {expected.verdict.value} at "
        f"{expected.score:.3f}"
        for i, (expected, found) in enumerate(zip(canaries, verdicts, strict=True))
        if screening.as_exported
        and (found.verdict is not expected.verdict or abs(found.score - expected.score) > TOLERANCE)
    ]


async def require(screening: Screening, package: ModelPackage) -> None:
    """Let a package decide its canaries.

    Raises:
        ModelMismatch: some are decided otherwise; the message says how the first one is. Else as `failures`.
    """
    canaries = package.manifest.canaries
    if found := await failures(screening, canaries):
        raise ModelMismatch(
            f"{package.path}: {len(found)} of {len(canaries)} canaries fail, decided otherwise than at export "
            f"({found[0]}): is it served by another engine, or made by another version of Guardline?"
        )
