"""Run one fault on one broker with one pipeline, and say in a row what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.brokers import FaultyBroker
from tests.faults.catalogue import Fault, Sizes
from tests.faults.stage import FaultMissedError, stage


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; `problems` is empty where every invariant and bound was kept. `bound` limits duplicates."""

    pipeline: str
    broker: str
    fault: str
    inputs: int
    lost: int
    duplicates: int
    recovery_s: float
    unfinished: int
    flags_missing: int
    different_bytes: int
    early: int
    bound: int
    problems: str

    def as_dict(self) -> dict[str, object]:
        """Return the row for the table and the file."""
        return asdict(self)


async def run(fault: Fault, broker: FaultyBroker, pipeline: str, package: Path, folder: Path, sizes: Sizes) -> Row:
    """Bring the fault about and account for every input; never raises for what the pipeline did."""
    missed: list[str] = []
    async with stage(
        broker,
        pipeline,
        package,
        folder,
        fault.settings,
        missing=fault.missing if broker.name == "kafka" else "",
        topic_settings=fault.topic_settings,
        verdict_partitions=fault.verdict_partitions,
    ) as place:
        try:
            await fault.script(place, sizes)
        except FaultMissedError as error:
            missed.append(str(error))
        stock = pipeline == "stock"
        finished = await place.finish(30.0 if stock else fault.finish_s)
        for worker in place.workers:
            if not worker.ended:
                code = await worker.stop()
                if code and not stock:
                    missed.append(f"exit code {code} at the end")
        findings, bound = await place.judge(fault.bounds, fault.workers)
        recovery = place.recovery
    problems = findings.problems(bound) + missed
    if bound >= findings.inputs:
        problems.append(f"a bound of {bound} duplicates for {findings.inputs} inputs says nothing")
    if not finished:
        problems.append("commit not at the end")
    if recovery is None or recovery > fault.bounds.recovery_s:
        problems.append(f"no progress within {fault.bounds.recovery_s:.0f} s")
    return Row(
        pipeline=pipeline,
        broker=broker.name,
        fault=fault.name,
        inputs=findings.inputs,
        lost=findings.lost,
        duplicates=findings.duplicates,
        recovery_s=-1.0 if recovery is None else round(recovery, 2),
        unfinished=findings.unfinished,
        flags_missing=findings.flags_missing,
        different_bytes=findings.different_bytes,
        early=findings.early,
        bound=bound,
        problems="; ".join(problems),
    )
