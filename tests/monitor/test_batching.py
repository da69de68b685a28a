import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.batching import BatchLimits, plan


@pytest.mark.parametrize(
    ("lengths", "limits", "expected"),
    [
        ([], BatchLimits(), []),
        ([7], BatchLimits(), [[0]]),
        ([5, 3, 5, 3], BatchLimits(), [[1, 3], [0, 2]]),
        ([10, 10, 10], BatchLimits(max_tokens=20), [[0, 1], [2]]),
        ([10, 10, 10], BatchLimits(max_rows=2), [[0, 1], [2]]),
        ([2000, 5], BatchLimits(max_tokens=100), [[1], [0]]),
        ([9, 10], BatchLimits(max_padding=0.05), [[0, 1]]),
        ([8, 10], BatchLimits(max_padding=0.05), [[0], [1]]),
        ([1, 100], BatchLimits(max_padding=1.0), [[0, 1]]),
        ([4, 4], BatchLimits(max_padding=0.0), [[0, 1]]),
    ],
)
def test_plan(lengths: list[int], limits: BatchLimits, expected: list[list[int]]) -> None:
    assert list(plan(lengths, limits)) == expected


@given(
    st.lists(st.integers(1, 600), max_size=200),
    st.builds(BatchLimits, max_tokens=st.integers(1, 2000), max_padding=st.floats(0, 1), max_rows=st.integers(1, 64)),
)
def test_every_index_once_and_within_the_limits(lengths: list[int], limits: BatchLimits) -> None:
    batches = list(plan(lengths, limits))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    widths = [lengths[index] for batch in batches for index in batch]
    assert widths == sorted(widths)
    for batch in batches:
        assert 1 <= len(batch) <= limits.max_rows
        padded = len(batch) * max(lengths[index] for index in batch)
        padding = padded - sum(lengths[index] for index in batch)
        assert padding <= limits.max_padding * padded + 1e-9
        assert len(batch) == 1 or padded <= limits.max_tokens
