"""One table of detection quality: a line for each step from the frozen encoder to what the monitor serves.

    frozen, one hyperplane                      one logistic regression on embeddings before fine-tuning
    frozen                                      the best head on them
    contrastive                                 the fine-tuned encoder alone (SupCon), the monitor's fast path
    verifier                                    the mixture over the candidates that alignment gives, nothing stacked
    verifier, right recommendation in hand      what the verifier could do if alignment never erred
    combined                                    what the monitor serves by default

A cell is None where a column does not apply to a line. F1 and calibration error of statements are at a probability of
one half; everything of whole answers and out-of-scope statements is at the package's thresholds. Intervals are 95%
bootstraps, over families for statements and over answers for whole answers. Nothing is tuned on what is reported.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from monitor.types import Verdict
from trainer.artifacts import RunFolder, read_json_lines, write_json
from trainer.errors import StageMissing
from trainer.evaluation.measures import Doubles, Estimate, draws, estimate, measure
from trainer.evaluation.messages import MessageOutcome, measure_messages
from trainer.evaluation.models import TESTS
from trainer.model.heads import is_unsafe
from trainer.settings import EvaluationSettings
from trainer.types import Difficulty, Example, Split

VERIFIER = "verifier"
INFORMED = "verifier, right recommendation in hand"
FILE = "quality.json"
#: Whole answers that are reported; others of a corpus are for development.
REPORTED = "messages.jsonl"
#: Where benchmarks keep their results, below the working directory.
RESULTS = Path("build") / "results"
_HEARD = {Split.TEST_OOD: "", Split.TEST_ID: "heard: "}

Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """What one model made of the held-out sets; what it does not do is None.

    `p` are probabilities of unsafe by test split, fp64 [n]. Of the statements of `test_ood`, in their order: `aligned`,
    recommendations by the encoder, the likeliest first; `evidence`, the recommendation that is cited after all is read;
    `verdicts`. `outside` are verdicts of out-of-scope statements, `outcomes` of whole answers. `speed` is in statements
    per second with `threads`; `read` the share of the statements of a stream that the verifier reads.
    """

    name: str
    p: Mapping[Split, Doubles]
    aligned: Sequence[Sequence[str]] | None = None
    evidence: Sequence[str] | None = None
    verdicts: Sequence[Verdict] | None = None
    outside: Sequence[Verdict] | None = None
    outcomes: Sequence[MessageOutcome] | None = None
    speed: float | None = None
    threads: int | None = None
    read: float | None = None


@dataclass(frozen=True)
class _Column:
    """A column: its name in the rows, its heading, whether it has an interval, how it is shown."""

    name: str
    heading: str
    interval: bool = False
    form: str = ".3f"


@dataclass(frozen=True)
class _Block:
    """Columns that stand side by side on a terminal."""

    title: str
    columns: Sequence[_Column] = field(default_factory=tuple)


def _statement_columns(prefix: str) -> list[_Column]:
    return [
        _Column(f"{prefix}F1", "F1", interval=True),
        _Column(f"{prefix}AUC", "AUC", interval=True),
        *(_Column(f"{prefix}{d} AUC", f"{d} AUC") for d in Difficulty),
    ]


BLOCKS = (
    _Block("Statements in voices never heard", [*_statement_columns(""), _Column("ECE", "ECE")]),
    _Block("Statements in voices heard in training", _statement_columns(_HEARD[Split.TEST_ID])),
    _Block(
        "Which recommendation, and whether any",
        [
            _Column("alignment top-1", "alignment top-1"),
            _Column("alignment top-3", "top-3"),
            _Column("evidence top-1", "evidence top-1"),
            _Column("out of scope flagged", "out of scope, flagged"),
            _Column("in review", "in scope, in review"),
        ],
    ),
    _Block(
        "Whole answers",
        [
            _Column("message F1", "F1", interval=True),
            _Column("message F1, in scope", "F1, safe and unsafe only", interval=True),
            _Column("safe answers flagged", "safe ones flagged"),
            _Column("abstained", "abstained"),
        ],
    ),
    _Block(
        "Where the errors are",
        [
            _Column("character F1", "F1 by character", interval=True),
            _Column("span F1", "F1 by span", interval=True),
            _Column("spans found", "spans found"),
            _Column("flags on a span", "flags on a span"),
        ],
    ),
    _Block(
        "Cost",
        [
            _Column("statements per second", "statements/s", form=".0f"),
            _Column("threads", "threads", form="d"),
            _Column("read by the verifier", "read by the verifier"),
        ],
    ),
)
COLUMNS = tuple(column for block in BLOCKS for column in block.columns)


def _statements(model: Model, split: Split, examples: Sequence[Example], settings: EvaluationSettings) -> Row:
    """Return the figures of one test split; those that are not defined are out."""
    found: dict[str, Estimate | None] = {}
    p = model.p[split]
    unsafe = is_unsafe(examples)
    if len(examples):
        values = measure(unsafe, p, draws([e.family for e in examples], settings))
        found = {name: estimate(values[name]) for name in ("F1", "AUC", "ECE")}
    for difficulty in Difficulty:
        keep = [i for i, e in enumerate(examples) if e.difficulty in (None, difficulty)]
        if keep:
            once = np.ones((2, len(keep)), dtype=np.uint16)
            found[f"{difficulty} AUC"] = estimate(measure(unsafe[keep], p[keep], once)["AUC"])
    return {_HEARD[split] + name: own for name, own in found.items() if own}


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None


def _alignment(model: Model, examples: Sequence[Example]) -> Row:
    def within(k: int) -> float | None:
        return _share([e.recommendation in own[:k] for e, own in zip(examples, model.aligned or (), strict=True)])

    row: Row = {}
    if model.aligned is not None:
        row |= {"alignment top-1": within(1), "alignment top-3": within(3)}
    if model.evidence is not None:
        row["evidence top-1"] = _share(
            [e.recommendation == own for e, own in zip(examples, model.evidence, strict=True)]
        )
    if model.verdicts is not None:
        row["in review"] = _share([v is Verdict.REVIEW for v in model.verdicts])
    if model.outside is not None:
        row["out of scope flagged"] = _share([v is Verdict.UNSAFE for v in model.outside])
    return row


def row_of(model: Model, examples: Mapping[Split, Sequence[Example]], settings: EvaluationSettings) -> Row:
    """Return one line: `model`, `statements` and every column, with ` low` and ` high` where it has an interval.

    Args:
        model: what it made of the held-out sets.
        examples: statements on the guideline, by test split.
        settings: bootstrap samples and seed.
    """
    found: Row = {}
    for split in TESTS:
        found |= _statements(model, split, examples[split], settings)
    found |= _alignment(model, examples[Split.TEST_OOD])
    if model.outcomes is not None:
        found |= {name: own for name, (own, _) in measure_messages(model.outcomes, settings).items()}
    found["statements per second"] = None if model.speed is None else round(model.speed, 1)
    found["threads"] = model.threads
    found["read by the verifier"] = None if model.read is None else round(model.read, 4)
    row: Row = {"model": model.name, "statements": len(examples[Split.TEST_OOD])}
    row["answers"] = None if model.outcomes is None else len(model.outcomes)
    for column in COLUMNS:
        value = found.get(column.name)
        row[column.name] = value.value if isinstance(value, Estimate) else value
        if column.interval:
            own = value if isinstance(value, Estimate) else None
            row |= {f"{column.name} low": own and own.low, f"{column.name} high": own and own.high}
    return row


def table(
    models: Sequence[Model], examples: Mapping[Split, Sequence[Example]], settings: EvaluationSettings
) -> list[Row]:
    """Return a line for each model, see `row_of`."""
    return [row_of(model, examples, settings) for model in models]


def reported_answers(corpus: Path, answers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return which answers of a corpus are reported: those of `messages.jsonl`; all, where it has no such file."""
    file = corpus / REPORTED
    if not file.is_file():
        return list(range(len(answers)))
    own = {row["id"] for row in read_json_lines(file)}
    return [i for i, row in enumerate(answers) if row["id"] in own]


def save(folder: RunFolder, rows: Sequence[Row]) -> None:
    """Keep the lines with the run."""
    write_json(folder.evaluation / FILE, list(rows))


def load(folder: RunFolder) -> list[Row]:
    """Read the lines of a run.

    Raises:
        StageMissing: it has not been evaluated, or by a version that made no such table.
    """
    file = folder.evaluation / FILE
    if not file.exists():
        raise StageMissing(f"{folder.root}: no table there: run `guardline evaluate --run {folder.root} --again`")
    rows: list[Row] = json.loads(file.read_text())
    return rows


def named(rows: Sequence[Row], start: str) -> list[Row]:
    """Return lines whose models are named by what their verifier, or encoder where they have none, started from."""
    return [{**row, "model": f"{row['model']} ({start})"} for row in rows]


def _cell(row: Row, column: _Column) -> str:
    value = row.get(column.name)
    if value is None:
        return ""
    low, high = (row.get(f"{column.name} {side}") for side in ("low", "high"))
    interval = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
    return f"{value:{column.form}}{interval}"


def terminal(rows: Sequence[Row]) -> list[Table]:
    """Return the table for a terminal, its columns in blocks beneath each other; blocks without a figure are out."""
    result = []
    for block in BLOCKS:
        lines = [[_cell(row, column) for column in block.columns] for row in rows]
        if not any(any(line) for line in lines):
            continue
        part = Table(title=block.title, title_justify="left")
        part.add_column("model")
        for column in block.columns:
            part.add_column(column.heading, justify="right")
        for row, line in zip(rows, lines, strict=True):
            if any(line):
                part.add_row(row["model"], *line)
        result.append(part)
    return result


def _commit() -> str:
    """Return what is checked out here, or the version of guardline where nothing is."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git this machine has
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return version("guardline")
    return result.stdout.strip() or version("guardline")


def publish(rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Write the lines where benchmarks keep their results, beside commit and machine; return where that is."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    path = folder / FILE
    write_json(path, {"name": "quality", "commit": _commit(), "machine": machine, "rows": list(rows)})
    return path
