"""Print a table of measured rows and keep them in `build/results/<name>.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CHECKOUT = Path(__file__).resolve().parents[2]


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def report(name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Print `rows` (all with the same keys) and write them beside commit and machine."""
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    path = CHECKOUT / "build" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    path.write_text(json.dumps({"name": name, "commit": _commit(), "machine": machine, "rows": list(rows)}, indent=1))
    return path
