"""Stand-ins for what the monitor's tests do not want to start, and a model package small enough to read.

The package has three recommendations in eight dimensions: axis 0 is about the loading dose, axis 1 about the kidney,
axis 2 about children, axis 3 about none of them. Its "encoder" looks for words: "wrong" is unsafe (0.95), "maybe" is
in the review band (0.6), everything else is safe (0.05). `FakeScorer` applies that to texts, `FakeBackend` to tokens.

With `verified=True` it has a verifier, too, and a combination that takes the verifier's word alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from monitor import claims
from monitor.assessment import Assessment, Scorer, Verifier
from monitor.errors import ScorerUnavailable, StoreUnavailable
from monitor.memory import MemoryStore
from monitor.package import MANIFEST, TOKENIZER, VERIFIER_TOKENIZER, Manifest, ModelPackage, sha256_file
from monitor.publisher import Event
from monitor.types import ModelScores

DIMENSION = 8
MAX_LENGTH = 16
RECOMMENDATIONS = {"1.1-loading": "loading", "2.1-kidney": "kidney", "3.1-children": "children"}
#: Axis of the embedding by the word that decides it; texts without any of them lie on the last one.
AXES = {word: axis for axis, word in enumerate(RECOMMENDATIONS.values())}
NONE_AXIS = len(AXES)
P_UNSAFE = {"wrong": 0.95, "maybe": 0.6}
P_SAFE = 0.05

#: Statements whose verdict the fake encoder is sure of; each contains a scope term of the package.
SAFE = "The remdesivir loading dose is 200 mg."
UNSAFE = "The wrong remdesivir loading dose is 400 mg."
REVIEW = "In kidney disease remdesivir is maybe avoided."
NO_RECOMMENDATION = "Remdesivir was first made for another virus."
OFF_TOPIC = "Wash the cut with clean water and cover it."


def _head(classes: Sequence[str], axes: Sequence[int]) -> dict[str, Any]:
    weights = np.zeros((len(classes), DIMENSION))
    weights[range(len(classes)), axes] = 20
    return {"classes": list(classes), "weights": weights.tolist(), "bias": [0.0] * len(classes)}


#: Features with a weight in the tiny package's combination, beside an intercept of 0.
UNSAFE_WEIGHTS = {"verifier": 1.0}
SCOPE_WEIGHTS = {"scope": 1.0}
VERIFY_FROM = 0.2
PAIR_LENGTH = 24


def logistic_dict(weights: Mapping[str, float], intercept: float = 0.0) -> dict[str, Any]:
    """Return a logistic regression as a manifest holds it."""
    return {"features": [*weights], "weights": [*weights.values()], "intercept": intercept}


def combination_dict(**changes: Any) -> dict[str, Any]:
    """Return a combination as a manifest holds it, with fields replaced by `changes`."""
    combination = {
        "candidates": 2,
        "mass": 0.99,
        "verify_from": VERIFY_FROM,
        "claims": logistic_dict({claims.FEATURES[0]: 1.0}),
        "unsafe": logistic_dict(UNSAFE_WEIGHTS),
        "scope": logistic_dict(SCOPE_WEIGHTS),
        "thresholds": {"unsafe": 0.7, "review": 0.3, "in_scope": 0.5},
    }
    return combination | changes


def manifest_dict(*, verified: bool = False, **changes: Any) -> dict[str, Any]:
    """Return a manifest as JSON would hold it, with top-level fields replaced by `changes`."""
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "version": "1.0.0",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "encoder": {"base": "none", "dimension": DIMENSION, "max_length": MAX_LENGTH},
        "thresholds": {"unsafe": 0.8, "review": 0.4, "in_scope": 0.5},
        "calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0, "fitted_on": "validation"},
        "scope": {"language": "en", "terms": ["remdesivir", "veklury", "antiviral*"]},
        "guideline": {
            "id": "tiny-guideline",
            "title": "A tiny guideline",
            "condition": "COVID-19",
            "treatment": "remdesivir",
            "version": "2026-01",
            "sha256": "0" * 64,
        },
        "corpus": {"sha256": "1" * 64, "statements": 3, "origin": "hand-made"},
        "recommendations": [
            {"id": id_, "section": id_[:3], "text": f"About {word}.", "embedding": np.eye(DIMENSION)[axis].tolist()}
            for axis, (id_, word) in enumerate(RECOMMENDATIONS.items())
        ],
        "alignment": _head([*RECOMMENDATIONS, "out_of_scope"], range(NONE_AXIS + 1)),
        "category": _head(["dose", "population", "timing"], range(3)),
        "evaluation": [],
        "files": {},
    }
    if verified:
        verifier = {"base": "none", "max_length": PAIR_LENGTH}
        manifest |= {"schema_version": 2, "verifier": verifier, "combination": combination_dict()}
    return manifest | changes


def make_package(*, verified: bool = False, **changes: Any) -> ModelPackage:
    """Return a package that has no files, for everything that reads only the manifest."""
    manifest = manifest_dict(verified=verified, **changes)
    return ModelPackage(Path("/no/such/package"), Manifest.model_validate(manifest))


def make_assessment(scorer: Scorer, verifier: Verifier | None = None, **changes: Any) -> Assessment:
    """Return the tiny package's path from statements to scores: the fast one without `verifier`."""
    return Assessment(make_package(verified=verifier is not None, **changes).manifest, scorer, verifier)


def make_tokenizer() -> Tokenizer:
    """Return a WordPiece tokenizer that knows a few words and spells out the others."""
    letters = [chr(c) for c in range(33, 127)]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    words = [*AXES, *P_UNSAFE, "remdesivir", "dose", "the", "is", "of", "and", "filler"]
    vocabulary = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces, *words])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def write_package(folder: Path, *, verified: bool = False, **changes: Any) -> Path:
    """Write the tiny package into `folder` and return it: manifest and tokenizers, no ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [TOKENIZER, VERIFIER_TOKENIZER] if verified else [TOKENIZER]
    for name in names:
        make_tokenizer().save(str(folder / name))
    files = {name: sha256_file(folder / name) for name in names}
    manifest = manifest_dict(verified=verified, **{"files": files} | changes)
    (folder / MANIFEST).write_text(Manifest.model_validate(manifest).model_dump_json())
    return folder


def _scores(rows: Sequence[Sequence[str]]) -> ModelScores:
    """Score texts given as words."""
    embeddings = np.zeros((len(rows), DIMENSION), dtype=np.float32)
    p_unsafe = np.full(len(rows), P_SAFE, dtype=np.float32)
    for i, words in enumerate(rows):
        embeddings[i, next((AXES[w] for w in words if w in AXES), NONE_AXIS)] = 1
        p_unsafe[i] = max([P_UNSAFE[w] for w in words if w in P_UNSAFE], default=P_SAFE)
    return ModelScores(embeddings, p_unsafe)


class FakeScorer:
    """A `Scorer` that looks for words, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.closed = False

    @property
    def texts(self) -> list[str]:
        """All texts of all calls."""
        return [text for call in self.calls for text in call]

    async def score(self, texts: Sequence[str]) -> ModelScores:
        self.calls.append(list(texts))
        return _scores([re.findall(r"\w+", text.lower()) for text in texts])

    async def close(self) -> None:
        self.closed = True


class FlakyScorer(FakeScorer):
    """Does not answer on every other call, the first included."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0

    async def score(self, texts: Sequence[str]) -> ModelScores:
        self.attempts += 1
        if self.attempts % 2:
            raise ScorerUnavailable("the fake server is away")
        return await super().score(texts)


class BuggyScorer(FakeScorer):
    """Fails with `error` whenever one of the texts contains `word`: a fault of our own on one message."""

    def __init__(self, word: str, error: Exception) -> None:
        super().__init__()
        self._word = word
        self._error = error
        self.failures = 0

    async def score(self, texts: Sequence[str]) -> ModelScores:
        if any(self._word in text for text in texts):
            self.failures += 1
            raise self._error
        return await super().score(texts)


class FakeVerifier:
    """A `Verifier` that finds in a table what (recommendation, statement) give, and remembers what it was asked.

    A pair that is not in the table is about something else (neutral 0.98).
    """

    UNRELATED = (0.01, 0.98)

    def __init__(self, found: Mapping[tuple[str, str], tuple[float, float]] | None = None) -> None:
        self._found = found or {}
        self.calls: list[list[tuple[str, str]]] = []
        self.closed = False

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        self.calls.append(list(pairs))
        return np.array([self._found.get(pair, self.UNRELATED) for pair in pairs], dtype=np.float32)

    async def close(self) -> None:
        self.closed = True


Outputs = list[NDArray[Any]]


class FakeBackend:
    """A `Backend` that looks for words in token ids. `spoil` may change or refuse an answer."""

    def __init__(self, tokenizer: Tokenizer, spoil: Callable[[Outputs], Outputs] | None = None) -> None:
        self._tokenizer = tokenizer
        self._spoil = spoil
        self.shapes: list[tuple[int, int]] = []
        self.seen: set[int] = set()
        self.closed = False

    async def infer(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        assert input_ids.dtype == attention_mask.dtype == np.int64
        assert (input_ids[attention_mask == 0] == 0).all()
        self.shapes.append((input_ids.shape[0], input_ids.shape[1]))
        self.seen.update(map(int, input_ids[attention_mask == 1]))
        outputs = self._answer([[self._tokenizer.id_to_token(int(i)) or "" for i in row] for row in input_ids])
        return self._spoil(outputs) if self._spoil else outputs

    def _answer(self, rows: Sequence[Sequence[str]]) -> Outputs:
        scores = _scores(rows)
        return [scores.embeddings, scores.p_unsafe]

    async def close(self) -> None:
        self.closed = True


class FakePairBackend(FakeBackend):
    """The verifier's side of `FakeBackend`: P(contradicts) is 0.95 where "wrong" is in the second text, else 0.05;

    P(neutral) is 0.9 where the two texts have no word of `AXES` in common, else 0.02.
    """

    def _answer(self, rows: Sequence[Sequence[str]]) -> Outputs:
        outputs = np.zeros((2, len(rows)), dtype=np.float32)
        for i, row in enumerate(rows):
            cut = row.index("[SEP]")
            shared = {*row[:cut]} & {*row[cut:]} & {*AXES}
            outputs[:, i] = 0.95 if "wrong" in row[cut:] else 0.05, 0.02 if shared else 0.9
        return list(outputs)


class FailingStore:
    """A `VerdictStore` that never answers."""

    def __init__(self) -> None:
        self.calls = 0

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        self.calls += 1
        raise StoreUnavailable("the fake store is away")

    async def put(self, values: Mapping[str, bytes]) -> None:
        self.calls += 1
        raise StoreUnavailable("the fake store is away")

    async def close(self) -> None:
        """Nothing to release."""


class RecordingStore(MemoryStore):
    """A memory store whose content a test may look at."""

    @property
    def content(self) -> dict[str, bytes]:
        return self._values


class RecordingPublisher:
    """Keeps what was published; refuses the events for which `refuse` says so."""

    def __init__(self, refuse: Callable[[Event], bool] = lambda _: False) -> None:
        self.events: list[Event] = []
        self.refused: list[Event] = []
        self._refuse = refuse

    async def publish(self, events: Sequence[Event]) -> list[Event]:
        refused = [event for event in events if self._refuse(event)]
        self.refused += refused
        self.events += [event for event in events if not self._refuse(event)]
        return refused

    def on(self, topic: str) -> list[Event]:
        """Return the events of one topic."""
        return [event for event in self.events if event.topic == topic]


def make_record(
    value: bytes | None,
    *,
    offset: int = 0,
    partition: int = 0,
    key: bytes | None = b"key",
    headers: Sequence[tuple[str, bytes]] = (),
    timestamp: int = 1_700_000_000_000,
    topic: str = "llm.outputs",
) -> ConsumerRecord:
    """Return a record as the consumer would hand it on."""
    size = len(value) if value is not None else -1
    return ConsumerRecord(
        topic, partition, offset, timestamp, 0, key, value, None, len(key or b""), size, tuple(headers)
    )
