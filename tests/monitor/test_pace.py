import pytest

from monitor.pace import ChunkPace


def test_chunks_grow_while_they_are_quick_and_shrink_at_once_when_they_are_slow() -> None:
    pace = ChunkPace(512)
    sizes = []
    for _ in range(7):
        sizes.append(pace.records)
        pace.observe(pace.records, 0.01)
    assert sizes == [16, 32, 64, 128, 256, 512, 512]
    pace.observe(512, 8.0)
    assert pace.records == 32, "what would have taken half a second"
    pace.observe(32, 60.0)
    assert pace.records == 16


@pytest.mark.parametrize("most", [1, 4, 16])
def test_no_chunk_is_larger_than_the_most(most: int) -> None:
    pace = ChunkPace(most)
    assert pace.records == most
    pace.observe(most, 0.0)
    assert pace.records == most


def test_a_few_quick_records_let_the_next_chunk_grow_only_by_so_much() -> None:
    pace = ChunkPace(512)
    pace.observe(1, 0.001)
    assert pace.records == 32
