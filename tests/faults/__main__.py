"""Run the faults and print the table: `python -m tests.faults [--only WORD] [--broker NAME] [--short]`.

Exits with 1 when Guardline broke an invariant, or when the negative control lost nothing on a broker: then the harness
could not have seen a loss either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import click
from rich.console import Console
from rich.table import Table

from tests.benchmarks.results import report
from tests.faults.brokers import BROKERS, NoBrokerError, kafka_home
from tests.faults.catalogue import FAULTS, SHORT, Fault, Sizes
from tests.faults.null_model import write_null_package
from tests.faults.run import Row, run
from tests.fixtures_kafka import NO_KAFKA


async def column(name: str, faults: list[Fault], package: Path, folder: Path, sizes: Sizes) -> list[Row]:
    """Run faults on one broker, one after the other, each with the pipelines that it is for."""
    rows = []
    async with BROKERS[name](folder / name) as broker:
        for number, fault in enumerate(faults):
            if name not in fault.brokers:
                continue
            for pipeline in ("guardline", "stock") if fault.stock else ("guardline",):
                started = monotonic()
                row = await run(fault, broker, pipeline, package, folder / f"{name}-{number}-{pipeline}", sizes)
                click.echo(f"{monotonic() - started:4.0f} s  {row.as_dict()}", err=True)
                rows.append(row)
    return rows


async def table(brokers: list[str], faults: list[Fault], folder: Path, sizes: Sizes) -> list[Row]:
    """Run faults on all brokers, the brokers side by side: most of the time is spent waiting."""
    package = write_null_package(folder / "package")
    task = asyncio.current_task()
    if task is not None:  # so that brokers and workers end, too
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    columns = await asyncio.gather(*(column(name, faults, package, folder, sizes) for name in brokers))
    order = [fault.name for fault in faults]
    return sorted((row for rows in columns for row in rows), key=lambda row: (row.pipeline, order.index(row.fault)))


def show(rows: list[Row]) -> None:
    """Print the table fault x broker."""
    brokers = sorted({row.broker for row in rows})
    grid = Table("pipeline", "fault", *brokers, title="fault x broker: lost, duplicates (bound), recovery")
    cells = {(row.pipeline, row.fault, row.broker): row for row in rows}
    for pipeline, fault in dict.fromkeys((row.pipeline, row.fault) for row in rows):
        grid.add_row(pipeline, fault, *(_cell(cells.get((pipeline, fault, broker))) for broker in brokers))
    Console().print(grid)


def _cell(row: Row | None) -> str:
    if row is None:
        return "not possible"
    mark = "" if not row.problems else " *" if row.pipeline == "stock" else " BROKEN"
    return f"{row.lost} of {row.inputs} lost, {row.duplicates} ({row.bound}) twice, {row.recovery_s:.1f} s{mark}"


def verdict(rows: list[Row]) -> list[str]:
    """Return what is wrong with a table: broken invariants, and a negative control that lost nothing."""
    wrong = [f"{r.fault} on {r.broker}: {r.problems}" for r in rows if r.pipeline == "guardline" and r.problems]
    lost: Counter[str] = Counter()
    for row in rows:
        if row.pipeline == "stock":
            lost[row.broker] += row.lost
    idle = [f"stock take() lost nothing on {broker}: the harness proves nothing" for broker in lost if not lost[broker]]
    return wrong + idle


@click.command()
@click.option("--only", multiple=True, help="Part of a fault's name; may be given again.")
@click.option("--broker", "brokers", multiple=True, type=click.Choice([*BROKERS]), help="Default: all.")
@click.option("--short", is_flag=True, help="Two kills, 5 s of outage, 5,000 messages behind, 2 MB messages.")
@click.option("--kills", type=int, default=Sizes.kills, show_default=True)
@click.option("--outage", type=float, default=Sizes.outage, show_default=True, help="Seconds that a broker is down.")
@click.option("--backlog", type=int, default=Sizes.backlog, show_default=True, help="Messages behind.")
@click.option("--megabytes", type=int, default=Sizes.megabytes, show_default=True, help="Size of huge messages.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the workers' logs here.")
def main(
    only: tuple[str, ...],
    brokers: tuple[str, ...],
    short: bool,
    kills: int,
    outage: float,
    backlog: int,
    megabytes: int,
    logs: Path | None,
) -> None:
    """Run the faults of the catalogue; the table also goes to build/results/faults.json."""
    sizes = SHORT if short else Sizes(kills, outage, backlog, megabytes)
    faults = [fault for fault in FAULTS if not only or any(word in fault.name for word in only)]
    if not faults:
        raise click.UsageError("no fault has such a name: " + ", ".join(fault.name for fault in FAULTS))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the harness's own clients, while a broker is down
    names = list(brokers or BROKERS)
    if not brokers and kafka_home() is None:
        names.remove("kafka")
        click.echo(f"kafka is left out: {NO_KAFKA}", err=True)
    started = monotonic()
    with TemporaryDirectory(prefix="guardline-faults-") as folder:
        try:
            rows = asyncio.run(table(names, faults, logs or Path(folder), sizes))
        except NoBrokerError as error:
            raise click.ClickException(str(error)) from error
    os.environ.setdefault("COLUMNS", "150")  # else a table in a file would have 80
    # Only a whole table has the name that others read.
    report(
        "faults-part" if only or brokers or short or len(names) < len(BROKERS) else "faults",
        [row.as_dict() for row in rows],
    )
    show(rows)
    wrong = verdict(rows)
    click.echo("\n".join([*wrong, f"{len(rows)} rows in {monotonic() - started:.0f} s"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
