"""A package with a verifier: the graphs that the trainer exports, in-process and behind a real tritonserver.

Both models are tiny and random (`tests.fixtures_model`); what is compared is how they are fed and read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from monitor.assessment import Verifier
from monitor.errors import ModelMismatch
from monitor.factory import build_assessment, build_screening, build_verifier
from monitor.memory import MemoryStore
from monitor.package import ModelPackage
from monitor.settings import Settings
from monitor.types import Message
from tests.fixtures_services import TRITON_VENV, LocalTriton
from trainer.statements.corpus import read_json_lines
from trainer.verifier import crossencoder
from trainer.verifier.pairs import RELATIONS, Relation

CORPUS = Path(__file__).parents[2] / "trainer" / "data" / "corpus"
RULE = "Adults and children of 40 kg or more receive 200 mg on day 1, then 100 mg once daily."
PAIRS = [
    (RULE, "Yes."),
    (RULE, "Remdesivir is given as a 200 mg loading dose on day 1."),
    (RULE, "Remdesivir is given as a 400 mg loading dose on day 1."),
    ("Avoid.", "Infuse over 30 to 120 minutes. " * 60),
    (RULE, ""),
]


@pytest.fixture(scope="module")
def own_triton(verified_package: ModelPackage) -> Iterator[LocalTriton]:
    """A tritonserver with both models of the tiny package."""
    if not (TRITON_VENV / "bin" / "python").exists():
        pytest.skip("no .venv-triton: `make test` makes it (deploy/triton/requirements.txt)")
    with LocalTriton(verified_package.path, venv=TRITON_VENV) as server:
        yield server


def statements() -> list[str]:
    """Return statements that the package has not been fitted on, all about the treatment."""
    rows = list(read_json_lines(CORPUS / "llm_style_b.jsonl"))[:60]
    return [str(row["text"]) for row in rows]


def verifier_of(settings: Settings, package: ModelPackage) -> Verifier:
    verifier = build_verifier(settings, package)
    assert verifier is not None
    return verifier


async def test_the_graph_gives_what_the_trained_verifier_gives(verified_package: ModelPackage) -> None:
    """From text to probability: the monitor's tokenizing, batching and graph against the trainer's."""
    spec = verified_package.manifest.verifier
    assert spec is not None
    encoder, tokenizer = crossencoder.load(str(verified_package.path.parent / "tiny-verifier"))
    expected = crossencoder.PairReader(encoder, tokenizer, max_length=spec.max_length).probabilities(PAIRS)
    served = verifier_of(Settings(scorer="onnx"), verified_package)
    found = await served.verify(PAIRS)
    alone = np.concatenate([await served.verify([pair]) for pair in PAIRS])
    await served.close()
    columns = [RELATIONS.index(Relation.CONTRADICTS), RELATIONS.index(Relation.NEUTRAL)]
    # In training some CPUs multiply in bfloat16.
    np.testing.assert_allclose(found, expected[:, columns], atol=2e-3)
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert len({*map(tuple, found.round(4).tolist())}) == len(PAIRS)


def test_the_exported_tokenizer_ends_each_text_of_a_pair_with_a_separator(verified_package: ModelPackage) -> None:
    tokenizer = Tokenizer.from_file(str(verified_package.verifier_tokenizer))
    for rule, statement in PAIRS:
        tokens = tokenizer.encode(rule, statement).tokens
        assert (tokens[0], tokens[-1], tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)


@pytest.mark.connected
async def test_the_verifier_gives_the_same_through_triton(
    own_triton: LocalTriton, verified_package: ModelPackage
) -> None:
    found = []
    for own in (Settings(scorer="onnx"), Settings(scorer="triton", triton_url=own_triton.url)):
        verifier = verifier_of(own, verified_package)
        found.append(await verifier.verify(PAIRS))
        assert (await verifier.verify([])).shape == (0, 2)
        await verifier.close()
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.connected
async def test_scores_and_verdicts_are_the_same_through_triton(
    own_triton: LocalTriton, verified_package: ModelPackage
) -> None:
    texts = statements()
    messages = [Message(str(i), " ".join(texts[i : i + 3])) for i in range(0, len(texts), 3)]
    scores, verdicts = [], []
    for own in (Settings(scorer="onnx"), Settings(scorer="triton", triton_url=own_triton.url)):
        assessment = build_assessment(own, verified_package)
        assert assessment.path == "verified"
        scores.append(await assessment.assess(texts))
        await assessment.close()
        screening = build_screening(own, verified_package, MemoryStore())
        verdicts.append(await screening.screen(messages))
        await screening.close()
    for a, b in zip(*scores, strict=True):
        assert (a.recommendation, a.category, a.reason) == (b.recommendation, b.category, b.reason)
        assert a.p_unsafe == pytest.approx(b.p_unsafe, abs=2e-4)
        assert a.p_in_scope == pytest.approx(b.p_in_scope, abs=2e-4)
    assert len({s.p_unsafe for s in scores[0]}) > len(texts) // 2
    both = [(a, b) for x, y in zip(*verdicts, strict=True) for a, b in zip(x.statements, y.statements, strict=True)]
    assert [(a.verdict, a.evidence, a.reason) for a, _ in both] == [(b.verdict, b.evidence, b.reason) for _, b in both]
    assert [v.verdict for v in verdicts[0]] == [v.verdict for v in verdicts[1]]


@pytest.mark.connected
async def test_a_triton_with_another_verifier_is_a_mismatch(
    own_triton: LocalTriton, verified_package: ModelPackage
) -> None:
    files = verified_package.manifest.files | {"verifier/1/model.onnx": "0" * 64}
    manifest = verified_package.manifest.model_copy(update={"files": files})
    own = Settings(scorer="triton", triton_url=own_triton.url)
    verifier = verifier_of(own, ModelPackage(verified_package.path, manifest))
    with pytest.raises(ModelMismatch, match="another verifier"):
        await verifier.verify(PAIRS)
    await verifier.close()
