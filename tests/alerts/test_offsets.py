from __future__ import annotations

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.offsets import OffsetLedger

P = TopicPartition("safety.flags", 0)


def test_nothing_is_committed_past_the_lowest_unfinished_record() -> None:
    ledger = OffsetLedger()
    for offset in (5, 6, 7):
        ledger.read(P, offset)
        epoch = ledger.hold(P, offset)
    ledger.hold(P, 6)
    ledger.release(P, 5, epoch)
    ledger.release(P, 7, epoch)
    assert ledger.to_commit() == {P: 6}
    ledger.committed({P: 6})
    ledger.release(P, 6, epoch)
    assert ledger.to_commit() == {}
    ledger.release(P, 6, epoch)
    assert ledger.to_commit() == {P: 8}
    assert ledger.pending == 0


def test_late_releases_of_a_partition_that_came_back_are_without_effect() -> None:
    ledger = OffsetLedger()
    ledger.read(P, 3)
    before = ledger.hold(P, 3)
    ledger.revoke([P])
    assert ledger.to_commit() == {}
    ledger.read(P, 3)
    now = ledger.hold(P, 3)
    ledger.release(P, 3, before)
    assert ledger.to_commit() == {}
    ledger.release(P, 3, now)
    assert ledger.to_commit() == {P: 4}


@given(st.permutations(range(12)), st.integers(0, 12))
def test_the_commit_is_the_lowest_of_what_is_left(order: list[int], finished: int) -> None:
    ledger = OffsetLedger()
    for offset in range(12):
        ledger.read(P, offset)
        epoch = ledger.hold(P, offset)
    for offset in order[:finished]:
        ledger.release(P, offset, epoch)
    lowest = min(order[finished:], default=12)
    assert ledger.to_commit() == ({P: lowest} if lowest else {})
