import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.batching import BatchLimits
from monitor.encoding import PairVerifier, TextEncoder, windows
from monitor.errors import ModelMismatch, ScorerFailed, ScorerUnavailable
from monitor.package import ModelPackage
from tests.monitor.fakes import (
    DIMENSION,
    MAX_LENGTH,
    NONE_AXIS,
    PAIR_LENGTH,
    FakeBackend,
    FakePairBackend,
    Outputs,
    make_tokenizer,
    write_package,
)

ONE_BY_ONE = BatchLimits(max_rows=1)
CLS, SEP = 2, 3


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return ModelPackage.load(write_package(tmp_path / "package"))


def encoder(package: ModelPackage, backend: FakeBackend, limits: BatchLimits | None = None) -> TextEncoder:
    return TextEncoder(package, backend, limits=limits or BatchLimits())


@given(st.integers(0, 300), st.integers(3, 64))
def test_windows_cover_every_token(length: int, max_length: int) -> None:
    ids = [CLS, *range(10, 10 + length), SEP]
    result = windows(ids, max_length)
    assert all(len(window) <= max_length for window in result)
    assert all((window[0], window[-1]) == (CLS, SEP) for window in result)
    assert all(
        window[1:-1] == list(range(window[1], window[1] + len(window) - 2)) for window in result if len(window) > 2
    )
    assert {token for window in result for token in window} == {*ids}


@pytest.mark.parametrize(
    ("ids", "max_length", "expected"),
    [
        ([CLS, SEP], 4, [[CLS, SEP]]),
        ([CLS, 7, 8, SEP], 4, [[CLS, 7, 8, SEP]]),
        ([CLS, 7, 8, 9, SEP], 4, [[CLS, 7, 8, SEP], [CLS, 8, 9, SEP]]),
        ([CLS, 5, 6, 7, 8, 9, SEP], 6, [[CLS, 5, 6, 7, 8, SEP], [CLS, 7, 8, 9, SEP]]),
        ([CLS, 7, 8, SEP], 3, [[CLS, 7, SEP], [CLS, 8, SEP]]),
    ],
)
def test_windows(ids: list[int], max_length: int, expected: list[list[int]]) -> None:
    assert windows(ids, max_length) == expected


async def test_scores_come_back_in_the_order_of_the_texts(package: ModelPackage) -> None:
    texts = [
        "wrong loading dose of the remdesivir " * 2,
        "kidney",
        "maybe the children",
        "is of the and",
        "wrong kidney",
    ]
    expected_p = [0.95, 0.05, 0.6, 0.05, 0.95]
    expected_axis = [0, 1, 2, NONE_AXIS, 1]
    for limits in (BatchLimits(), ONE_BY_ONE, BatchLimits(max_tokens=12, max_padding=1)):
        backend = FakeBackend(make_tokenizer())
        scores = await encoder(package, backend, limits).score(texts)
        assert scores.p_unsafe == pytest.approx(expected_p)
        assert scores.embeddings.argmax(axis=1).tolist() == expected_axis
        assert sum(rows for rows, _ in backend.shapes) == len(texts)


async def test_many_texts_keep_their_order_across_batches(package: ModelPackage) -> None:
    words = ["loading", "kidney", "children", "filler"]
    texts = [f"{words[i % 4]} {'filler ' * (i * 7 % 11)}" for i in range(200)]
    backend = FakeBackend(make_tokenizer())
    scores = await encoder(package, backend, BatchLimits(max_tokens=64)).score(texts)
    assert len(backend.shapes) > 10
    assert scores.embeddings.argmax(axis=1).tolist() == [i % 4 for i in range(200)]


@pytest.mark.parametrize("position", [0, 20, 39])
async def test_a_long_text_takes_the_score_of_its_most_unsafe_window(package: ModelPackage, position: int) -> None:
    words = ["filler"] * 40
    words[position] = "wrong"
    backend = FakeBackend(make_tokenizer())
    scores = await encoder(package, backend).score([" ".join(words), "filler", " ".join(["filler"] * 40)])
    assert scores.p_unsafe == pytest.approx([0.95, 0.05, 0.05])
    assert max(width for _, width in backend.shapes) <= MAX_LENGTH
    assert sum(rows for rows, _ in backend.shapes) > 3


async def test_the_embedding_is_that_of_the_most_unsafe_window(package: ModelPackage) -> None:
    text = "kidney " + "filler " * 30 + "wrong children"
    scores = await encoder(package, FakeBackend(make_tokenizer())).score([text])
    assert scores.embeddings[0].argmax() == 2


async def test_padding_and_truncation_in_the_tokenizer_file_do_not_apply(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", files={})
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    backend = FakeBackend(make_tokenizer())
    scores = await encoder(ModelPackage.load(folder), backend).score(["the dose of the dose is wrong", "kidney"])
    assert scores.p_unsafe == pytest.approx([0.95, 0.05])
    assert sorted(width for _, width in backend.shapes) == [3, 9]


async def test_nothing_to_score_asks_nobody(package: ModelPackage) -> None:
    backend = FakeBackend(make_tokenizer())
    scores = await encoder(package, backend).score([])
    assert scores.embeddings.shape == (0, DIMENSION)
    assert scores.p_unsafe.shape == (0,)
    assert backend.shapes == []


async def test_a_text_without_tokens_has_a_score(package: ModelPackage) -> None:
    assert (await encoder(package, FakeBackend(make_tokenizer())).score([""])).p_unsafe == pytest.approx([0.05])


Change = Callable[[NDArray[Any]], NDArray[Any]]


def _first_row(value: float) -> Change:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = array.copy()
        array.flat[0] = value
        return array

    return change


def spoil(
    *,
    embeddings: Change | None = None,
    p: Change | None = None,
) -> Callable[[Outputs], Outputs]:
    def change(outputs: Outputs) -> Outputs:
        return [own(output) if own else output for own, output in zip((embeddings, p), outputs, strict=True)]

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(spoil(p=_first_row(np.nan)), ScorerFailed, id="NaN score"),
        pytest.param(spoil(p=_first_row(np.inf)), ScorerFailed, id="infinite score"),
        pytest.param(spoil(embeddings=_first_row(np.nan)), ScorerFailed, id="NaN embedding"),
        pytest.param(spoil(embeddings=lambda e: e[:, :-1]), ModelMismatch, id="other dimension"),
        pytest.param(spoil(embeddings=lambda e: e[:-1]), ModelMismatch, id="embedding missing"),
        pytest.param(spoil(p=lambda p: p[:, None]), ModelMismatch, id="score as column"),
        pytest.param(spoil(p=lambda p: p[:-1]), ModelMismatch, id="score missing"),
    ],
)
@pytest.mark.parametrize("limits", [BatchLimits(), ONE_BY_ONE], ids=["one batch", "many batches"])
async def test_a_bad_answer_is_no_score(
    package: ModelPackage, change: Callable[[Outputs], Outputs], error: type[Exception], limits: BatchLimits
) -> None:
    with pytest.raises(error):
        await encoder(package, FakeBackend(make_tokenizer(), change), limits).score(
            ["wrong dose", "kidney", "children"]
        )


@pytest.mark.parametrize("error", [ScorerUnavailable("away"), ModelMismatch("other"), RuntimeError("bug")], ids=repr)
async def test_the_error_of_a_backend_arrives_as_itself_not_as_a_group(package: ModelPackage, error: Exception) -> None:
    def refuse(_: Outputs) -> Outputs:
        raise error

    with pytest.raises(type(error)) as caught:
        await encoder(package, FakeBackend(make_tokenizer(), refuse), ONE_BY_ONE).score(["a", "b", "c"])
    assert caught.value is error


async def test_at_most_two_batches_are_in_flight(package: ModelPackage) -> None:
    class Counting(FakeBackend):
        now = most = 0

        async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().infer(input_ids, attention_mask)

    backend = Counting(make_tokenizer())
    await encoder(package, backend, ONE_BY_ONE).score(["dose"] * 10)
    assert backend.most == 2


async def test_close_closes_the_backend(package: ModelPackage) -> None:
    backend = FakeBackend(make_tokenizer())
    await encoder(package, backend).close()
    assert backend.closed


# Pairs

RULE = "about the loading dose"


@pytest.fixture
def verified_package(tmp_path: Path) -> ModelPackage:
    return ModelPackage.load(write_package(tmp_path / "package", verified=True))


def pair_verifier(
    package: ModelPackage, backend: FakeBackend | None = None, limits: BatchLimits | None = None
) -> PairVerifier:
    return PairVerifier(package, backend or FakePairBackend(make_tokenizer()), limits=limits or BatchLimits())


@pytest.mark.parametrize("limits", [BatchLimits(), ONE_BY_ONE, BatchLimits(max_tokens=24, max_padding=1)], ids=str)
async def test_pairs_come_back_in_their_order(verified_package: ModelPackage, limits: BatchLimits) -> None:
    pairs = [
        (RULE, "the loading dose " * 3),
        (RULE, "kidney"),
        ("the kidney", "wrong kidney"),
        ("the kidney", "the wrong loading dose of the remdesivir"),
    ]
    backend = FakePairBackend(make_tokenizer())
    found = await pair_verifier(verified_package, backend, limits).verify(pairs)
    np.testing.assert_allclose(found, [[0.05, 0.02], [0.05, 0.9], [0.95, 0.02], [0.95, 0.9]], atol=1e-6)
    assert found.dtype == np.float32
    assert sum(rows for rows, _ in backend.shapes) == len(pairs)


async def test_many_pairs_keep_their_order_across_batches(verified_package: ModelPackage) -> None:
    pairs = [(RULE, f"{('wrong', 'maybe')[i % 2]} {'filler ' * (i * 7 % 11)}") for i in range(200)]
    backend = FakePairBackend(make_tokenizer())
    found = await pair_verifier(verified_package, backend, BatchLimits(max_tokens=96)).verify(pairs)
    assert len(backend.shapes) > 10
    assert found[:, 0] == pytest.approx([0.95, 0.05] * 100)


async def test_a_pair_is_one_sequence_with_a_separator_after_each_text(verified_package: ModelPackage) -> None:
    sequences: list[list[int]] = []

    class Watching(FakePairBackend):
        async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
            sequences.extend(input_ids.tolist())
            return await super().infer(input_ids, attention_mask)

    tokenizer = make_tokenizer()
    await pair_verifier(verified_package, Watching(tokenizer)).verify([("the dose", "kidney"), ("", "")])
    shown = [[tokenizer.id_to_token(i) for i in row] for row in sequences]
    assert sorted(shown) == [["[CLS]", "[SEP]", "[SEP]"], ["[CLS]", "the", "dose", "[SEP]", "kidney", "[SEP]"]]


@pytest.mark.parametrize(
    ("rule", "statement", "p"),
    [
        pytest.param("dose " * 100, "the wrong dose", 0.95, id="long recommendation"),
        pytest.param("the dose", "wrong " + "dose " * 100, 0.95, id="long statement, error at its beginning"),
        pytest.param("dose " * 100, "wrong " + "dose " * 100, 0.95, id="both long"),
        pytest.param("the dose", "dose " * 100 + "wrong", 0.05, id="long statement, error cut off"),
    ],
)
async def test_of_a_pair_that_is_too_long_the_longer_text_loses_its_end(
    verified_package: ModelPackage, rule: str, statement: str, p: float
) -> None:
    backend = FakePairBackend(make_tokenizer())
    found = await pair_verifier(verified_package, backend).verify([(rule, statement)])
    assert found[0, 0] == pytest.approx(p)
    assert backend.shapes == [(1, PAIR_LENGTH)]


async def test_padding_and_truncation_in_the_verifiers_tokenizer_file_do_not_apply(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", verified=True, files={})
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "verifier_tokenizer.json"))
    backend = FakePairBackend(make_tokenizer())
    await pair_verifier(ModelPackage.load(folder), backend).verify([("the dose of the dose", "is wrong")])
    assert backend.shapes == [(1, 10)]


async def test_no_pairs_ask_nobody(verified_package: ModelPackage) -> None:
    backend = FakePairBackend(make_tokenizer())
    assert (await pair_verifier(verified_package, backend).verify([])).shape == (0, 2)
    assert backend.shapes == []


def spoil_pairs(contradicts: Change | None = None, neutral: Change | None = None) -> Callable[[Outputs], Outputs]:
    return spoil(embeddings=contradicts, p=neutral)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(spoil_pairs(_first_row(np.nan)), ScorerFailed, id="NaN contradicts"),
        pytest.param(spoil_pairs(neutral=_first_row(np.inf)), ScorerFailed, id="infinite neutral"),
        pytest.param(spoil_pairs(lambda p: p[:, None]), ModelMismatch, id="column"),
        pytest.param(spoil_pairs(neutral=lambda p: p[:-1]), ModelMismatch, id="one missing"),
        pytest.param(lambda outputs: outputs[:1], ModelMismatch, id="one output"),
    ],
)
@pytest.mark.parametrize("limits", [BatchLimits(), ONE_BY_ONE], ids=["one batch", "many batches"])
async def test_a_bad_answer_on_pairs_is_no_score(
    verified_package: ModelPackage, change: Callable[[Outputs], Outputs], error: type[Exception], limits: BatchLimits
) -> None:
    backend = FakePairBackend(make_tokenizer(), change)
    with pytest.raises(error, match="verifier"):
        await pair_verifier(verified_package, backend, limits).verify([(RULE, "wrong dose"), (RULE, "the kidney")])


def test_a_package_without_a_verifier_makes_none(package: ModelPackage) -> None:
    with pytest.raises(ModelMismatch, match="no verifier"):
        pair_verifier(package)


@pytest.mark.parametrize("content", [None, b"", b"{}"], ids=repr)
def test_a_tokenizer_that_cannot_be_read_is_a_mismatch(tmp_path: Path, content: bytes | None) -> None:
    folder = write_package(tmp_path / "package", verified=True, files={})
    file = folder / "verifier_tokenizer.json"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ModelMismatch, match=r"verifier_tokenizer\.json"):
        pair_verifier(ModelPackage.load(folder))


async def test_closing_the_verifier_closes_its_backend(verified_package: ModelPackage) -> None:
    backend = FakePairBackend(make_tokenizer())
    await pair_verifier(verified_package, backend).close()
    assert backend.closed
