"""One port, two sides: ONNX Runtime in-process and a real tritonserver give the same scores and verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from monitor.assessment import Scorer
from monitor.errors import ModelMismatch, ScorerUnavailable
from monitor.factory import build_scorer, build_screening
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.settings import Settings
from monitor.types import Message
from tests.fixtures_services import LocalTriton
from trainer.statements.corpus import load_answers

pytestmark = [pytest.mark.model, pytest.mark.connected]

CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"
TEXTS = [
    "Yes.",
    "Remdesivir is given as a 200 mg loading dose on day 1.",
    "Infuse over 30 to 120 minutes. " * 60,
    "½ µg – ☃",
]


def messages() -> list[Message]:
    return [Message(r["id"], r["text"]) for r in load_answers(CORPUS)]


@pytest.fixture(params=["onnx", "triton"])
def settings(request: pytest.FixtureRequest) -> Settings:
    if request.param == "onnx":
        return Settings(scorer="onnx")
    return Settings(scorer="triton", triton_url=request.getfixturevalue("triton").url)


@pytest.fixture
async def scorer(settings: Settings, model_package: ModelPackage) -> AsyncIterator[Scorer]:
    scorer = build_scorer(settings, model_package)
    yield scorer
    await scorer.close()


async def test_scores_have_shape_norm_and_range(scorer: Scorer, model_package: ModelPackage) -> None:
    scores = await scorer.score(TEXTS)
    assert scores.embeddings.shape == (len(TEXTS), model_package.manifest.encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(scores.embeddings, axis=1), 1, atol=1e-5)
    assert ((scores.p_unsafe > 0) & (scores.p_unsafe < 1)).all()


async def test_order_and_batching_do_not_matter(scorer: Scorer) -> None:
    together = await scorer.score(TEXTS)
    backwards = await scorer.score(TEXTS[::-1])
    alone = [(await scorer.score([text])).p_unsafe[0] for text in TEXTS]
    np.testing.assert_allclose(together.p_unsafe, backwards.p_unsafe[::-1], atol=1e-5)
    np.testing.assert_allclose(together.p_unsafe, alone, atol=1e-5)


async def test_nothing_to_score(scorer: Scorer) -> None:
    assert (await scorer.score([])).p_unsafe.shape == (0,)


async def test_triton_and_onnx_give_the_same_verdicts(
    triton: LocalTriton, model_package: ModelPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for own in (Settings(scorer="onnx"), Settings(scorer="triton", triton_url=triton.url)):
        screening = build_screening(own, model_package, MemoryStore())
        results.append(await screening.screen(messages()))
        await screening.close()
    onnx, other = results
    pairs = [(a, b) for x, y in zip(onnx, other, strict=True) for a, b in zip(x.statements, y.statements, strict=True)]
    largest = max(abs(a.score - b.score) for a, b in pairs)
    with capsys.disabled():
        print(f"\n{len(pairs)} statements through Triton and ONNX Runtime: largest score difference {largest:.1e}")
    assert len(pairs) > 1500
    assert [v.verdict for v in onnx] == [v.verdict for v in other]
    assert [(a.verdict, a.evidence) for a, _ in pairs] == [(b.verdict, b.evidence) for _, b in pairs]
    assert largest < 1e-4


async def test_triton_away_and_back(triton: LocalTriton, model_package: ModelPackage) -> None:
    scorer = build_scorer(Settings(scorer="triton", triton_url=triton.url, triton_timeout=5), model_package)
    before = await scorer.score(TEXTS)
    triton.stop()
    with pytest.raises(ScorerUnavailable):
        await scorer.score(TEXTS)
    triton.start()
    for _ in range(100):  # gRPC waits between its attempts to connect
        try:
            after = await scorer.score(TEXTS)
            break
        except ScorerUnavailable:
            await asyncio.sleep(0.2)
    np.testing.assert_allclose(before.p_unsafe, after.p_unsafe, atol=1e-6)
    await scorer.close()


async def test_fallback_scores_while_triton_is_away(model_package: ModelPackage) -> None:
    own = Settings(scorer="triton", triton_url="127.0.0.1:1", triton_timeout=2, triton_fallback=True)
    fallback, direct = build_scorer(own, model_package), build_scorer(Settings(scorer="onnx"), model_package)
    np.testing.assert_allclose((await fallback.score(TEXTS)).p_unsafe, (await direct.score(TEXTS)).p_unsafe, atol=1e-6)
    await fallback.close()
    await direct.close()


async def test_a_model_that_triton_does_not_have_is_a_mismatch(
    triton: LocalTriton, model_package: ModelPackage
) -> None:
    spec = model_package.manifest.encoder.model_copy(update={"model": "another"})
    files = model_package.manifest.files | {"another/1/model.onnx": "0" * 64}
    manifest = model_package.manifest.model_copy(update={"encoder": spec, "files": files})
    own = Settings(scorer="triton", triton_url=triton.url)
    scorer = build_scorer(own, ModelPackage(model_package.path, manifest))
    with pytest.raises(ModelMismatch, match="another"):
        await scorer.score(TEXTS)
    await scorer.close()


async def test_a_triton_with_other_weights_is_a_mismatch(triton: LocalTriton, model_package: ModelPackage) -> None:
    """After a retraining the monitor may start before Triton has loaded the new package; both call it version 1."""
    files = model_package.manifest.files | {"encoder/1/model.onnx": "0" * 64}
    manifest = model_package.manifest.model_copy(update={"files": files})
    own = Settings(scorer="triton", triton_url=triton.url)
    scorer = build_scorer(own, ModelPackage(model_package.path, manifest))
    with pytest.raises(ModelMismatch, match="another encoder"):
        await scorer.score(TEXTS)
    await scorer.close()
