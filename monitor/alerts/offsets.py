"""Which offset of a partition may be committed: below the lowest record that a lane has not finished."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aiokafka import TopicPartition


@dataclass(slots=True)
class _Partition:
    """One assignment of a partition.

    `epoch` tells it from others, `next` is one past the highest record read, `holders` counts who works on an offset.
    """

    epoch: int
    next: int
    committed: int
    holders: dict[int, int] = field(default_factory=dict)
    heap: list[int] = field(default_factory=list)


class OffsetLedger:
    """Keeps the account. A partition that was taken away is forgotten.

    Releases that come late, from before a partition was taken away and given back, are without effect: a hold returns
    the epoch that its release has to name.
    """

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._epoch = 0

    def read(self, partition: TopicPartition, offset: int) -> None:
        """Note that a record was read. Records of a partition come in order."""
        known = self._partitions.get(partition)
        if known is None:
            self._partitions[partition] = _Partition(self._epoch, offset + 1, offset)
        else:
            known.next = offset + 1

    def hold(self, partition: TopicPartition, offset: int) -> int:
        """Keep a record that was read from being committed until it is released as often as held; return the epoch."""
        known = self._partitions[partition]
        if offset not in known.holders:
            heapq.heappush(known.heap, offset)
        known.holders[offset] = known.holders.get(offset, 0) + 1
        return known.epoch

    def release(self, partition: TopicPartition, offset: int, epoch: int) -> None:
        """Undo one hold of that epoch."""
        known = self._partitions.get(partition)
        if known is None or known.epoch != epoch or offset not in known.holders:
            return
        known.holders[offset] -= 1
        if not known.holders[offset]:
            del known.holders[offset]

    def _committable(self, known: _Partition) -> int:
        while known.heap and known.heap[0] not in known.holders:
            heapq.heappop(known.heap)
        return known.heap[0] if known.heap else known.next

    def to_commit(self) -> dict[TopicPartition, int]:
        """Return the partitions whose offset to commit has moved since `committed` was told."""
        found = {partition: self._committable(known) for partition, known in self._partitions.items()}
        return {p: offset for p, offset in found.items() if offset > self._partitions[p].committed}

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note what the broker has taken."""
        for partition, offset in offsets.items():
            if (known := self._partitions.get(partition)) is not None:
                known.committed = max(known.committed, offset)

    def revoke(self, partitions: Collection[TopicPartition]) -> None:
        """Forget partitions."""
        self._epoch += 1
        for partition in partitions:
            self._partitions.pop(partition, None)

    @property
    def pending(self) -> int:
        """Records that are not finished."""
        return sum(len(known.holders) for known in self._partitions.values())
