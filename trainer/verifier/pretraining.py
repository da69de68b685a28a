"""`guardline train verifier --pretrain`: a general verifier from an encoder that has never compared two texts.

A curriculum over sources of pairs, by the share of training that is done: first sentences beside edits of themselves,
which teach to compare words; then rewordings at growing distance; then pairs of everyday medicine and, where a file is
given, evidence pairs such as VitaminC's. No pair is about the guideline that is trained later. Whole topics are held
out to measure with.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress
from tokenizers import Tokenizer

from trainer.artifacts import read_json_lines, write_json
from trainer.settings import PretrainingSettings
from trainer.verifier import crossencoder, shipped
from trainer.verifier.crossencoder import AlignedComparison, PairReader
from trainer.verifier.edits import edited_pairs
from trainer.verifier.pairs import Pair, between_twins, held_out, read_evidence, read_topics
from trainer.verifier.training import Trainer, VerifierTraining, batched, contradiction_auc, repeat, train
from trainer.verifier.vocabulary import count_tokens, trim

DATA = Path(__file__).parents[1] / "data" / "corpus"
#: Folders of LLM-written pairs that ship with the project.
TOPIC_SOURCES = ("general", "graded", "further")
EVIDENCE = "evidence"
#: Occurrences among the evidence that make a word common.
_COMMON = 60


@dataclass(frozen=True)
class Curriculum:
    """Shares of the sources at the beginning, when the beginning is over, and at the end; linear between."""

    begin: dict[str, float] = field(default_factory=lambda: {"between twins": 0.5, "edits": 0.2, "topics": 0.3})
    middle: dict[str, float] = field(
        default_factory=lambda: {"between twins": 0.15, "edits": 0.1, "topics": 0.6, "evidence": 0.15}
    )
    end: dict[str, float] = field(
        default_factory=lambda: {"between twins": 0.05, "edits": 0.05, "topics": 0.78, "evidence": 0.12}
    )
    beginning: float = 0.1  # share of the training

    def shares(self, done: float) -> dict[str, float]:
        """Return the share of each source at a point between 0 and 1."""
        low, high, at = (
            (self.begin, self.middle, 4 * done) if done < 0.25 else (self.middle, self.end, (done - 0.25) / 0.75)
        )
        return {name: (1 - at) * low.get(name, 0.0) + at * high.get(name, 0.0) for name in {*low, *high}}


def read_all(data: Path, evidence: Path | None) -> list[Pair]:
    """Read the topic pairs below a folder, and evidence pairs from a file where one is given."""
    pairs = [p for name in TOPIC_SOURCES if (data / name).is_dir() for p in read_topics(data / name, name)]
    return pairs + (read_evidence(evidence) if evidence else [])


def split(pairs: Sequence[Pair], share: float = 0.1, seed: int = 3) -> tuple[list[Pair], list[Pair]]:
    """Return (training, held-out) pairs: a tenth of the topics, none of the evidence."""
    topics = [p for p in pairs if p.source != EVIDENCE]
    rest, test = held_out(topics, share, seed)
    return rest + [p for p in pairs if p.source == EVIDENCE], test


def stream(pairs: Sequence[Pair], curriculum: Curriculum, steps: int, size: int, seed: int) -> Iterator[list[Pair]]:
    """Yield `steps` batches along the curriculum."""
    rng = random.Random(seed)
    topics = [p for p in pairs if p.source != EVIDENCE]
    sentences = sorted({(p.group, p.premise) for p in topics})
    sources = {
        "edits": _fresh_edits(sentences, rng),
        "between twins": repeat(between_twins(topics), rng),
        "topics": repeat(topics, rng),
        EVIDENCE: repeat([p for p in pairs if p.source == EVIDENCE], rng),
    }
    missing = {EVIDENCE} if not any(p.source == EVIDENCE for p in pairs) else set()
    for step in range(steps):
        shares = {
            n: share for n, share in sorted(curriculum.shares(step / steps).items()) if n not in missing and share > 0
        }
        names = rng.choices(list(shares), weights=list(shares.values()), k=size)
        yield next(batched((next(sources[name]) for name in names), size))


def corpus_texts(data: Path) -> list[str]:
    """Return the statements of all corpora below a folder: words that a verifier must know, but not learn from here."""
    return [
        str(row["text"])
        for file in sorted(data.rglob("*.jsonl"))
        for row in read_json_lines(file)
        if isinstance(row.get("text"), str)
    ]


def small_vocabulary(tokenizer: Tokenizer, pairs: Sequence[Pair], texts: Sequence[str]) -> set[int]:
    """Return the tokens that a verifier keeps: those of the topics and corpora, and what is common elsewhere."""
    topics = [t for p in pairs if p.source != EVIDENCE for t in (p.premise, p.hypothesis)]
    known = count_tokens(tokenizer, [*topics, *texts])
    common = count_tokens(tokenizer, [p.premise for p in pairs if p.source == EVIDENCE])
    return {i for i, n in known.items() if n >= 2} | {i for i, n in common.items() if n >= _COMMON}


def held_out_figures(reader: PairReader, test: Sequence[Pair]) -> dict[str, float]:
    """Return the AUC of contradiction against agreement on held-out topics, by source (graded ones by distance)."""
    by: dict[str, list[Pair]] = defaultdict(list)
    for pair in test:
        by[f"{pair.source}, {pair.difficulty}" if pair.source == "graded" else pair.source].append(pair)
    found = {name: contradiction_auc(reader, own) for name, own in sorted(by.items())}
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def run(
    output: Path,
    settings: PretrainingSettings,
    evidence: Path | None,
    progress: Progress,
    data: Path = DATA,
) -> dict[str, Any]:
    """Pre-train a general verifier and write it with eight bits a weight; return what to say of it.

    A checkpoint beside `output` lets an interrupted training go on.

    Raises:
        CorpusError: the evidence file, or a file of pairs, cannot be read.
        ConfigurationError: the encoder cannot be loaded, or its vocabulary not be trimmed.
    """
    task = progress.add_task("pre-training: pairs", total=1.0)
    pairs = read_all(data, evidence)
    encoder, tokenizer = crossencoder.load(settings.base)
    if isinstance(encoder, AlignedComparison):
        tokenizer = trim(encoder.model, tokenizer, small_vocabulary(tokenizer, pairs, corpus_texts(data.parent)))
        encoder.retokenised(tokenizer)
    reader = PairReader(encoder, tokenizer)
    training, test = split(pairs)
    own = VerifierTraining(
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        freeze_words=True,
        average=0.995,
        seed=settings.seed,
    )
    trainer = Trainer(reader, own)
    key = trainer.key(len(training), settings.base)
    checkpoint = output.with_suffix(".checkpoint")
    resumed = trainer.resume(checkpoint, key)

    def report(done: float, line: str) -> None:
        progress.update(task, completed=done, description=f"pre-training: {line}")

    batches = stream(training, Curriculum(), settings.steps, settings.batch_size, settings.seed)
    summary = train(trainer, batches, report, checkpoint, key, every=250)
    shipped.save(reader, output)
    figures = held_out_figures(PairReader(*shipped.load(output)), test)
    summary = {**summary, "resumed": resumed, "pairs": len(training), "held-out topics, AUC": figures}
    write_json(output / "pretraining.json", {**asdict(settings), "evidence": evidence is not None, **summary})
    checkpoint.unlink(missing_ok=True)
    return summary


def _fresh_edits(sentences: Sequence[tuple[str, str]], rng: random.Random) -> Iterator[list[Pair]]:
    """Yield twins of edited sentences for ever, new ones each time round."""
    while True:
        own = edited_pairs(sentences, rng)
        for i in range(0, len(own), 2):
            yield own[i : i + 2]
