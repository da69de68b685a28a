"""The canary with exactly the grants that `guardline acls` prints, and without each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fixtures_secured import SecuredKafka
from tests.security.guardline import Guardline
from tests.security.test_acls import Deployment, has_records, needs_each_grant

pytestmark = pytest.mark.connected
TOPICS: Sequence[str] = ("outputs", "flags", "verdicts")


async def test_it_works_with_its_grants_and_stops_without_any_one_of_them(
    kafka_with_acls: SecuredKafka, tmp_path: Path
) -> None:
    own = Deployment(tmp_path)
    kafka_with_acls.topics(map(own.topic, TOPICS), partitions=1)
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text('{"text": "a", "verdict": "unsafe"}\n{"text": "b", "verdict": "safe"}\n')

    async def works(process: Guardline) -> None:
        await has_records(kafka_with_acls, [own.topic("outputs")], process)
        await process.says("overdue")  # nobody screens here

    arguments = ["canary", "--messages", str(canaries), "--every", "0.5", "--within", "1"]
    await needs_each_grant(kafka_with_acls, own, "canary", arguments, works)
