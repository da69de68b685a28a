"""Stage `extract`: guideline pack -> recommendations, each tied to the words of the document that say it.

A pack names the documents and, where someone has curated them, the atomic recommendations. A curated recommendation is
accepted only if its section exists and supports it: the best-matching passage of that section is quoted with its
offsets, and every number of the recommendation must stand in the section. Without a curated list the document's own
sentences that say what to do become the recommendations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.segmentation import segment
from monitor.text import normalise
from trainer.artifacts import RunFolder, digest, read_json_lines, write_rows
from trainer.errors import CorpusError, PackError
from trainer.types import Recommendation

DEFAULT_PACK = Path(__file__).parent / "data" / "guidelines" / "covid19-remdesivir.yaml"

_HEADING = re.compile(r"^(#{1,6})[ \t]+(?:(?P<number>\d+(?:\.\d+)*)\.?[ \t]+)?(?P<title>.+?)[ \t]*$", re.MULTILINE)
#: A passage that shares fewer of a recommendation's words does not say it.
_LEAST_SUPPORT = 0.5
_WORD = re.compile(r"[a-z]{3,}|\d+(?:\.\d+)?%?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_DIRECTIVE = re.compile(
    r"\b(?:recommend|should|must|is given|are given|not indicated|contraindicated|dose|may be|need(?:ed|s)?|prefer|"
    r"consider|avoid|stop|start|receive|monitor|check|continue|complete|extend)",
    re.IGNORECASE,
)


class SourceSpec(BaseModel):
    """One document of a pack."""

    model_config = ConfigDict(extra="forbid")

    path: str
    title: str
    version: str
    valid_from: date | None = None
    valid_to: date | None = None


class PackSpec(BaseModel):
    """The YAML of a guideline pack."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = ""
    condition: str
    treatment: str
    synonyms: list[str] = Field(min_length=1)
    language: str = "en"
    sources: list[SourceSpec] = Field(min_length=1)
    recommendations: str | None = None
    corpus: str | None = None
    scope_terms: list[str] = []


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
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PackError(f"{path}: cannot be read: {error}") from error
        try:
            return cls(path, PackSpec.model_validate(content))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            raise PackError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error

    def resolve(self, relative: str) -> Path:
        """Return a path of the pack.

        Raises:
            PackError: nothing is there.
        """
        path = (self.path.parent / relative).resolve()
        if not path.exists():
            raise PackError(f"{self.path}: {relative}: no such file or folder")
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

    def fingerprint(self) -> str:
        """Return a digest of the pack and all files of the guideline (not the corpus)."""
        files = [self.path, *(self.resolve(s.path) for s in self.spec.sources)]
        if self.spec.recommendations:
            files.append(self.resolve(self.spec.recommendations))
        return "".join(digest(file) for file in files)


@dataclass(frozen=True, slots=True)
class Section:
    """A numbered part of a document: `document[start:end]` is its body."""

    number: str
    title: str
    body: str
    start: int
    end: int


def sections(document: str) -> list[Section]:
    """Cut a Markdown document at its headings; a heading without a number is called by its ordinal, `h0`."""
    headings = list(_HEADING.finditer(document))
    if not headings:
        return [Section("1", "", document, 0, len(document))]
    result = []
    for ordinal, heading in enumerate(headings):
        start = heading.end()
        end = headings[ordinal + 1].start() if ordinal + 1 < len(headings) else len(document)
        number = heading["number"] or f"h{ordinal}"
        result.append(Section(number, heading["title"], document[start:end], start, end))
    return result


def _words(text: str) -> set[str]:
    return set(_WORD.findall(normalise(text).lower()))


def _support(text: str, section: Section) -> tuple[str, int, int, float]:
    """Return the passage of one to three sentences of a section that shares most words with `text`, and how many."""
    wanted = _words(text)
    sentences = segment(section.body)
    best = ("", 0, 0, 0.0)
    for length in (1, 2, 3):
        for i in range(len(sentences) - length + 1):
            start, end = sentences[i].start, sentences[i + length - 1].end
            share = len(wanted & _words(section.body[start:end])) / max(len(wanted), 1)
            if share > best[3] + 0.05:  # a longer passage has to earn its length
                best = (section.body[start:end], section.start + start, section.start + end, share)
    return best


def _curated_rows(file: Path) -> list[tuple[str, str, str]]:
    """Return id, section and text of each curated recommendation."""
    try:
        rows = list(read_json_lines(file))
    except CorpusError as error:
        raise PackError(str(error)) from error
    result: dict[str, tuple[str, str, str]] = {}
    for row in rows:
        name = row.get("id", "a recommendation")
        for field in ("id", "section", "text"):
            if field not in row:
                raise PackError(f"{file}: {name} lacks '{field}'")
            if not isinstance(row[field], str):
                raise PackError(f"{file}: {name}: {field} is not a string")
        if name in result:
            raise PackError(f"{file}: {name}: two recommendations have the same id")
        result[name] = (row["id"], row["section"], row["text"])
    return list(result.values())


def _curated(pack: Pack, documents: Sequence[tuple[SourceSpec, str]]) -> list[Recommendation]:
    file = pack.resolve(str(pack.spec.recommendations))
    result = []
    for identifier, number, text in _curated_rows(file):
        found = [(source, s) for source, document in documents for s in sections(document) if s.number == number]
        if not found:
            names = ", ".join(source.path for source, _ in documents)
            raise PackError(f"{file}: {identifier}: {names} has no section {number}")
        source, section, (quote, start, end, share) = max(
            ((source, section, _support(text, section)) for source, section in found), key=lambda f: f[2][3]
        )
        if missing := set(_NUMBER.findall(text)) - set(_NUMBER.findall(f"{section.title} {section.body}")):
            raise PackError(f"{file}: {identifier}: section {number} does not say {', '.join(sorted(missing))}")
        if share < _LEAST_SUPPORT:
            raise PackError(
                f"{file}: {identifier}: section {number} does not support it (best passage shares {share:.0%})"
            )
        result.append(
            Recommendation(identifier, number, section.title, text, source.path, source.version, quote, start, end)
        )
    return result


def _from_sentences(source: SourceSpec, document: str, prefix: str) -> list[Recommendation]:
    result = []
    for section in sections(document):
        sentences = [s for s in segment(section.body) if _DIRECTIVE.search(s.normalised)]
        for ordinal, sentence in enumerate(sentences, 1):
            start, end = section.start + sentence.start, section.start + sentence.end
            identifier = f"{prefix}{section.number}-{ordinal}"
            result.append(
                Recommendation(
                    identifier,
                    section.number,
                    section.title,
                    sentence.normalised,
                    source.path,
                    source.version,
                    document[start:end],
                    start,
                    end,
                )
            )
    return result


def _read(path: Path) -> str:
    if path.suffix.lower() not in (".md", ".txt"):
        raise PackError(f"{path}: only Markdown and plain text are read, not {path.suffix or 'this kind'}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{path}: cannot be read: {error}") from error


def extract(pack: Pack) -> list[Recommendation]:
    """Return the recommendations of a pack, in document order.

    Raises:
        PackError: a document is missing or of a kind that cannot be read yet, or does not support a recommendation.
    """
    documents = [(source, _read(pack.resolve(source.path))) for source in pack.spec.sources]
    if pack.spec.recommendations is not None:
        result = _curated(pack, documents)
    else:
        several = len(documents) > 1
        prefixes = [f"{Path(source.path).stem}-" if several else "" for source, _ in documents]
        result = [
            r
            for (source, text), prefix in zip(documents, prefixes, strict=True)
            for r in _from_sentences(source, text, prefix)
        ]
    if not result:
        raise PackError(f"{pack.path}: no recommendation was found in its sources")
    if twice := [name for name, n in Counter(r.id for r in result).items() if n > 1]:
        raise PackError(f"{pack.path}: {twice[0]}: two recommendations have the same id")
    return result


def scope_terms(pack: Pack, recommendations: list[Recommendation]) -> list[str]:
    """Return the terms of the scope gate: the pack's own, or the long words of its recommendations."""
    named = [pack.spec.condition, pack.spec.treatment, *pack.spec.synonyms]
    own: list[str] = pack.spec.scope_terms
    if not own:
        own = sorted({w for r in recommendations for w in _words(r.text) if len(w) > 5 and w.isalpha()})
    return list(dict.fromkeys(term.lower() for term in [*named, *own]))


def run(pack: Pack, folder: RunFolder) -> dict[str, Any]:
    """Run the stage; return what to say of it."""
    recommendations = extract(pack)
    write_rows(folder.recommendations, recommendations)
    return {"recommendations": len(recommendations), "sections": len({r.section for r in recommendations})}
