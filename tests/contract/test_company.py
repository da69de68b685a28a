"""No score depends on what else is in a batch: the package that ships, in-process and on Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor.factory import build_scorer
from monitor.package import ModelPackage
from monitor.segmentation import segment
from monitor.settings import DEFAULT_MODEL, Settings
from tests.fixtures_services import TRITON_VENV, LocalTriton
from trainer.statements.corpus import load_answers

pytestmark = [pytest.mark.model, pytest.mark.connected]

CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"


@pytest.fixture(scope="module")
def shipped() -> Iterator[LocalTriton]:
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    with LocalTriton(DEFAULT_MODEL, venv=TRITON_VENV) as server:
        yield server


@pytest.mark.parametrize("where", ["onnx", "triton"])
async def test_company_changes_no_score(where: str, request: pytest.FixtureRequest) -> None:
    settings = Settings(scorer="onnx")
    if where == "triton":
        settings = Settings(scorer="triton", triton_url=request.getfixturevalue("shipped").url)
    texts = list(dict.fromkeys(s.normalised for row in load_answers(CORPUS) for s in segment(row["text"])))[:48]
    scorer = build_scorer(settings, ModelPackage.load(DEFAULT_MODEL))
    try:
        together = await scorer.score(texts)
        backwards = await scorer.score(texts[::-1])
        alone = [(await scorer.score([text])) for text in texts]
    finally:
        await scorer.close()
    assert np.array_equal(together.p_unsafe, np.concatenate([one.p_unsafe for one in alone]))
    assert np.array_equal(together.p_unsafe, backwards.p_unsafe[::-1])
    assert np.array_equal(together.embeddings, np.concatenate([one.embeddings for one in alone]))
