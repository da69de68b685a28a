"""The run folder: what lies where, how it is read and written, and whether it is still current.

Every stage writes its artefact and then a stamp: the fingerprint of all it was made from (settings, version of
guardline, digests of the artefacts before it). A stage whose fingerprint is unchanged is skipped, so a run that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import orjson

from trainer.errors import CorpusError

T = TypeVar("T")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def recommendations(self) -> Path:
        """`Recommendation` rows."""
        return self.root / "recommendations.jsonl"

    @property
    def passages(self) -> Path:
        """`Passage` rows: what retrieval can return."""
        return self.root / "passages.jsonl"

    @property
    def summaries(self) -> Path:
        """Treatment summaries per clinical question, each sentence with its passages."""
        return self.root / "summaries.jsonl"

    @property
    def completions(self) -> Path:
        """The cache of language models' answers, and the ledger of what they cost."""
        return self.root / "completions"

    @property
    def generated(self) -> Path:
        """Statements that a language model wrote in this run, in the format of a corpus folder."""
        return self.root / "generated"

    @property
    def statements(self) -> Path:
        """`Example` rows that passed the checks."""
        return self.root / "statements.jsonl"

    @property
    def rejected(self) -> Path:
        """Corpus rows that did not, with the reason."""
        return self.root / "rejected.jsonl"

    @property
    def splits(self) -> Path:
        """Ids of statements by split."""
        return self.root / "splits.json"

    @property
    def encoder(self) -> Path:
        """The fine-tuned encoder, as transformers saves it."""
        return self.root / "encoder"

    @property
    def checkpoint(self) -> Path:
        """Where a training of the encoder that was interrupted goes on."""
        return self.root / "encoder.checkpoint"

    @property
    def verifier(self) -> Path:
        """The fine-tuned cross-encoder, as transformers saves it."""
        return self.root / "verifier"

    @property
    def verifier_checkpoint(self) -> Path:
        """Where a training of the verifier that was interrupted goes on."""
        return self.root / "verifier.checkpoint"

    @property
    def classifier(self) -> Path:
        """Heads, calibration and thresholds."""
        return self.root / "classifier"

    @property
    def evaluation(self) -> Path:
        """`metrics.json` and `report.html`."""
        return self.root / "evaluation"

    @property
    def package(self) -> Path:
        """The model package."""
        return self.root / "package"

    def stamp(self, stage: str) -> Path:
        """Where the fingerprint of a finished stage lies."""
        return self.root / "stamps" / f"{stage}.json"

    def is_current(self, stage: str, fingerprint: str) -> bool:
        """Tell whether the stage was finished from the same inputs, and its artefacts are still what it wrote."""
        try:
            stamp = json.loads(self.stamp(stage).read_text())
        except (FileNotFoundError, ValueError):
            return False
        return stamp["fingerprint"] == fingerprint and all(
            digest(self.root / name) == value for name, value in stamp["artifacts"].items()
        )

    def finish(self, stage: str, fingerprint: str, artifacts: Iterable[Path], seconds: float) -> None:
        """Write the stamp of a finished stage."""
        write_json(
            self.stamp(stage),
            {
                "fingerprint": fingerprint,
                "seconds": round(seconds, 1),
                "artifacts": {path.relative_to(self.root).as_posix(): digest(path) for path in artifacts},
            },
        )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and their names; of nothing, where there is nothing."""
    sha = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        sha.update(file.relative_to(path.parent).as_posix().encode())
        with file.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return a digest of settings and digests; dataclasses count by their fields."""
    plain = [asdict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def fresh_folder(path: Path) -> Path:
    """Empty a folder, or make it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses or dictionaries as JSON lines; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    count = 0
    with partial.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    partial.replace(path)
    return count


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file.

    Raises:
        CorpusError: a line is not a JSON object; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise CorpusError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise CorpusError(f"{path}:{number}: expected a JSON object")
            yield row


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """Read dataclasses back, with the enums and tuples of dataclasses in them; unknown fields are ignored.

    Raises:
        CorpusError: a line is not a JSON object, lacks a field that has no default, or has a value that its enum does
            not know.
    """
    hints = get_type_hints(kind)
    rows = []
    for number, row in enumerate(read_json_lines(path), 1):
        try:
            rows.append(kind(**{name: _revive(value, hints[name]) for name, value in row.items() if name in hints}))
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{path}:{number}: not a row of {kind.__name__}: {error}") from error
    return rows


def _revive(value: Any, hint: Any) -> Any:
    """Return a value read from JSON as its annotation has it: `E | None`, `tuple[D, ...]`, a dataclass, or itself."""
    if value is None:
        return None
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        return tuple(_revive(item, element) for item in value)
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: _revive(item, hints[name]) for name, item in value.items() if name in hints})
    for option in get_args(hint) or (hint,):
        if hasattr(option, "__members__"):
            return option(value)
    return value
