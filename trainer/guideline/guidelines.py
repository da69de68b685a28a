"""Stage `extract`: guideline pack -> recommendations, each tied to the words of the document that say it.

A pack names the documents (files, folders, web addresses) and, where someone has curated them, the atomic
recommendations. A curated recommendation is accepted only if its section exists and supports it: the best-matching
passage of that section is quoted with its offsets, and every number of the recommendation must stand in the section.
Without a curated list a language model extracts them, each verified (`trainer.guideline.llm_extraction`), or rules do
where no model is given (`trainer.guideline.extraction`). What the rules find is measured against the curated list, or
against `reference`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.progress import Progress

from trainer.artifacts import RunFolder, digest, read_json_lines, write_json, write_rows
from trainer.errors import CorpusError, PackError
from trainer.guideline.documents import Document, Section, fetch, read_file, readable_files
from trainer.guideline.extraction import (
    ExtractionScore,
    context,
    describe,
    extract_by_rules,
    identified,
    measure,
    sentences,
)
from trainer.guideline.llm_extraction import ModelExtraction, extract_with
from trainer.guideline.wording import content_words, numbers
from trainer.llm.port import Completer
from trainer.types import Recommendation

__all__ = [
    "DEFAULT_PACK", "Pack", "PackSpec", "SourceSpec", "extract", "read_sources", "run", "scope_terms",
]  # fmt: skip

DEFAULT_PACK = Path(__file__).parents[1] / "data" / "guidelines" / "covid19-remdesivir.yaml"
#: Written by the stage besides the recommendations.
REPORT = "extraction.json"
REJECTED = "rejected_recommendations.jsonl"
SOURCES = "sources"  # folder of fetched documents

#: A passage that shares fewer of a recommendation's words does not say it.
_LEAST_SUPPORT = 0.5


class SourceSpec(BaseModel):
    """One document of a pack: a file or a folder of files beside it (`path`), or a web address (`url`)."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(default=None, min_length=1)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/]+")
    title: str
    version: str
    valid_from: date | None = None
    valid_to: date | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` or `url`")
        if self.valid_from and self.valid_to and self.valid_to < self.valid_from:
            raise ValueError("`valid_to` lies before `valid_from`")
        return self

    @property
    def name(self) -> str:
        """What the source is called in quotes and errors: its path or its address."""
        return self.path or str(self.url)


class PackSpec(BaseModel):
    """The YAML of a guideline pack; paths are relative to it.

    `recommendations` is a curated list (JSON lines: id, section, text), which becomes the output once it is verified;
    `reference` is such a list that the extraction is only measured against. `questions` are what the summaries answer,
    `held_out_styles` the styles of the corpus that training never hears (empty: the default of `SplitSettings`).
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    condition: str
    treatment: str
    synonyms: list[str] = Field(min_length=1)
    brand_names: list[str] = []
    language: str = "en"
    sources: list[SourceSpec] = Field(min_length=1)
    recommendations: str | None = None
    reference: str | None = None
    corpus: str | None = None
    held_out_styles: list[str] = []
    questions: list[str] = []
    scope_terms: list[str] = []

    @property
    def names(self) -> list[str]:
        """What the treatment is called, longest first."""
        return sorted({self.treatment, *self.synonyms, *self.brand_names}, key=lambda name: (-len(name), name))


@dataclass(frozen=True)
class Pack:
    """A guideline pack that was read: its specification and where it lies."""

    path: Path
    spec: PackSpec

    @classmethod
    def load(cls, path: Path) -> Pack:
        """Read a pack.

        Raises:
            PackError: not there, not YAML, or a field missing or wrong; the message names file and field.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date that is none
            raise PackError(f"{path}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise PackError(f"{path}: is no guideline pack: write `id: ...`, `condition: ...` and so on, one a line")
        try:
            return cls(path, PackSpec.model_validate(content))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            said = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "string_type" and isinstance(problem["input"], int | float | date):
                said += f': put it in quotes, "{problem["input"]}"'
            raise PackError(f"{path}: {'.'.join(map(str, problem['loc']))}: {said}") from error

    def resolve(self, relative: str) -> Path:
        """Return a path of the pack.

        Raises:
            PackError: nothing is there.
        """
        path = (self.path.parent / relative).resolve()
        if not path.exists():
            raise PackError(f"{self.path}: {relative}: no such file or folder: its place is relative to the pack")
        return path

    @property
    def corpus(self) -> Path:
        """The folder of recorded completions.

        Raises:
            PackError: the pack has none.
        """
        if self.spec.corpus is None:
            raise PackError(f"{self.path}: `corpus` is missing: name the folder with the statements to learn from")
        return self.resolve(self.spec.corpus)

    @property
    def listed(self) -> Path | None:
        """The list that the extraction is measured against: `reference`, else the curated one; None without either.

        Raises:
            PackError: it is not there.
        """
        name = self.spec.reference or self.spec.recommendations
        return self.resolve(name) if name else None

    def fingerprint(self) -> str:
        """Return a digest of the pack and all files of the guideline (not the corpus).

        Of a web address the address counts: what was fetched once stays in the run folder until it is deleted there.
        """
        files = [self.path, *(self.resolve(s.path) for s in self.spec.sources if s.path)]
        files += [self.resolve(name) for name in (self.spec.recommendations, self.spec.reference) if name]
        return "".join(digest(file) for file in files)


def read_sources(pack: Pack, cache: Path | None = None) -> list[tuple[SourceSpec, Document]]:
    """Read the documents of a pack, in its order; of a folder each file with a specification of its own.

    `cache` is the folder for what is fetched from the web; without it, it is fetched every time.

    Raises:
        PackError: a document is missing, named twice or cannot be read; the message says what to do.
    """
    found: list[tuple[SourceSpec, Document]] = []
    for source in pack.spec.sources:
        if source.url:
            found.append((source, fetch(source.url, cache)))
            continue
        path = pack.resolve(source.name)
        if not path.is_dir():
            found.append((source, _read(path, source.name)))
            continue
        for file in readable_files(path):
            name = (PurePosixPath(source.name) / file.relative_to(path).as_posix()).as_posix()
            found.append((source.model_copy(update={"path": name}), _read(file, name)))
    names = [document.name for _, document in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise PackError(f"{pack.path}: sources: {twice[0]} is named twice: leave one out")
    return found


def _read(path: Path, name: str) -> Document:
    """Read a file; it is called by its name in the pack, but errors name the file."""
    return replace(read_file(path), name=name)


def _support(text: str, section: Section) -> tuple[int, int, float]:
    """Return the span of the one to three sentences of a section that share most words with `text`, and the share."""
    wanted = content_words(text) | numbers(text)
    own = [(s.start, s.end, content_words(s.text) | numbers(s.text)) for s in sentences(section)]
    best = (section.start, section.start, 0.0)
    for length in (1, 2, 3):
        for i in range(len(own) - length + 1):
            said = set[str]().union(*(words for _, _, words in own[i : i + length]))
            share = len(wanted & said) / max(len(wanted), 1)
            if share > best[2] + 0.05:  # a longer passage has to earn its length
                best = (own[i][0], own[i + length - 1][1], share)
    return best


def _listed_rows(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, section and text of each recommendation of a list.

    Raises:
        PackError: no file, not JSON lines, a field missing or no string, or an id that occurs twice.
    """
    seen: set[str] = set()
    try:
        for row in read_json_lines(file):
            name = row.get("id", "a recommendation")
            for field in ("id", "section", "text"):
                if field not in row:
                    raise PackError(f"{file}: {name} lacks '{field}'")
                if not isinstance(row[field], str):
                    raise PackError(f"{file}: {name}: {field} is not a string")
            if name in seen:
                raise PackError(f"{file}: {name}: two recommendations have the same id")
            seen.add(name)
            yield row["id"], row["section"], row["text"]
    except CorpusError as error:
        raise PackError(str(error)) from error
    except OSError as error:
        raise PackError(f"{file}: cannot be read: {error.strerror}: name a file of JSON lines") from error


def _curated(file: Path, documents: Sequence[tuple[SourceSpec, Document]]) -> list[Recommendation]:
    """Return the recommendations of a curated list, each with the passage that says it.

    Raises:
        PackError: the list cannot be read, or no document says what it says.
    """
    result = []
    for identifier, number, text in _listed_rows(file):
        places = [
            (source, document, s) for source, document in documents for s in document.sections if s.number == number
        ]
        if not places:
            names = ", ".join(document.name for _, document in documents)
            raise PackError(f"{file}: {identifier}: {names} has no section {number}")
        source, document, section, (start, end, share) = max(
            ((*place, _support(text, place[2])) for place in places), key=lambda place: place[3][2]
        )
        if missing := numbers(text) - numbers(f"{section.title} {section.body}"):
            raise PackError(f"{file}: {identifier}: section {number} does not say {', '.join(sorted(missing))}")
        if share < _LEAST_SUPPORT:
            raise PackError(
                f"{file}: {identifier}: section {number} does not support it (best passage shares {share:.0%})"
            )
        found = Recommendation(
            identifier, number, section.title, text, document.name, source.version,
            document.text[start:end], start, end, document.page_of(start),
        )  # fmt: skip
        result.append(describe(found, context(section)))
    return result


def _prefixes(names: Sequence[str]) -> dict[str, str]:
    """Return what comes before the ids of each document: nothing for the only one, else its name without suffix."""
    if len(names) == 1:
        return {names[0]: ""}
    stems = [PurePosixPath(urlsplit(name).path).stem or name for name in names]
    return {
        name: f"{stem if stems.count(stem) == 1 else name.replace('/', '-')}-"
        for name, stem in zip(names, stems, strict=True)
    }


@dataclass(frozen=True)
class _Extracted:
    """What the stage found: its output, the model's part of it, the measurement, what could not be read."""

    recommendations: list[Recommendation]
    by_model: ModelExtraction | None
    score: ExtractionScore | None
    notes: list[str]


def _extract(
    pack: Pack, cache: Path | None, completer: Completer | None, progress: Progress | None = None
) -> _Extracted:
    documents = read_sources(pack, cache)
    prefixes = _prefixes([document.name for _, document in documents])
    listed = pack.listed
    by_model: ModelExtraction | None = None
    names = pack.spec.names
    if completer and not pack.spec.recommendations:
        versions = [(document, source.version) for source, document in documents]
        by_model = extract_with(completer, versions, pack.spec.condition, pack.spec.treatment, names, progress)
        own = by_model.recommendations
    else:
        own = [r for source, document in documents for r in extract_by_rules(document, source.version, names)]
    own = identified(own, prefixes)
    score = None
    if listed:
        reference = [
            Recommendation(i, section, "", text, "", "", text, 0, 0) for i, section, text in _listed_rows(listed)
        ]
        score = measure(own, reference)
    if pack.spec.recommendations:
        own = _curated(pack.resolve(pack.spec.recommendations), documents)
    valid = {document.name: source for source, document in documents}
    dated = [
        replace(r, valid_from=_iso(valid[r.source].valid_from), valid_to=_iso(valid[r.source].valid_to)) for r in own
    ]
    if not dated:
        raise PackError(
            f"{pack.path}: no recommendation was found: look at the sources' text, or give a curated list as "
            "`recommendations`"
        )
    return _Extracted(dated, by_model, score, [note for _, document in documents for note in document.notes])


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None


def extract(pack: Pack, cache: Path | None = None, completer: Completer | None = None) -> list[Recommendation]:
    """Return the recommendations of a pack, in document order, those of a curated list in its order.

    Without a curated list a `completer` extracts them, or rules do. `cache` is the folder for documents of the web.

    Raises:
        PackError: a document is missing or cannot be read, or does not support a recommendation of the curated list.
        ProviderError, CostLimitReached: as `Completer.complete`.
    """
    return _extract(pack, cache, completer).recommendations


def scope_terms(pack: Pack, recommendations: list[Recommendation]) -> list[str]:
    """Return the terms of the scope gate: the pack's own, or the long words of its recommendations."""
    named = [pack.spec.condition, pack.spec.treatment, *pack.spec.synonyms, *pack.spec.brand_names]
    own: list[str] = pack.spec.scope_terms
    if not own:
        own = sorted({w for r in recommendations for w in content_words(r.text) if len(w) > 5 and w.isalpha()})
    return list(dict.fromkeys(term.lower() for term in [*named, *own]))


def run(
    pack: Pack, folder: RunFolder, completer: Completer | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the stage; return what to say of it.

    Writes `recommendations.jsonl`, `extraction.json` (scores, what was missed, rejected and not read) and
    `rejected_recommendations.jsonl`, which is empty where no model was asked.

    Raises:
        PackError: as `extract`.
    """
    found = _extract(pack, folder.root / SOURCES, completer, progress)
    by_model, score = found.by_model, found.score
    rejected = by_model.rejected if by_model else []
    how = "curated list" if pack.spec.recommendations else f"model {completer.model}" if completer else "rules"
    write_rows(folder.recommendations, found.recommendations)
    write_rows(folder.root / REJECTED, rejected)
    report = {
        "extracted_by": how,
        "recommendations": len(found.recommendations),
        "measured": "model" if by_model else "rules",
        "score": asdict(score) if score else None,
        "rejected": [asdict(r) for r in rejected],
        "fallbacks": by_model.fallbacks if by_model else [],
        "tokens": {"input": by_model.input_tokens, "output": by_model.output_tokens} if by_model else None,
        "notes": found.notes,
    }
    write_json(folder.root / REPORT, report)
    said: dict[str, Any] = {
        "recommendations": len(found.recommendations),
        "sections": len({(r.source, r.section) for r in found.recommendations}),
    }
    if score:
        whose = "" if by_model else " of rules"
        said |= {f"precision{whose}": round(score.precision, 3), f"recall{whose}": round(score.recall, 3)}
    if by_model:
        said |= {"rejected": len(rejected), "sections by rules": len(by_model.fallbacks)}
    if found.notes:
        said["not read"] = "; ".join(found.notes)
    return said
