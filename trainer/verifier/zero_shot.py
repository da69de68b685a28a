"""A guideline that no model has seen: alignment by likeness, and a combination that is fitted once on other guidelines.

*Alignment.* A recommendation's direction e_r is the mean of the frozen encoder's embeddings of its text, of the text
without the names that every recommendation of the guideline shares, and of its heading. A statement e is about r with
log-odds s (e_r . e), and about none of R recommendations with c + log R + h (m . e), m their mean direction. The three
numbers s, c, h are fitted by maximum likelihood on other guidelines. It is a `LinearHead`, as after training.

*Combination.* What is stacked (`monitor.combination`) does not depend on the guideline, so the regression can be fitted
on others. *Pseudo-guidelines* stand in for them: a few neighbouring topics of the pairs that the verifier's
pre-training held out, some two dozen recommendations, with their consistent and contradicting statements; out of scope
are the topics' neutral statements and those of other topics, near and far. The encoder has no opinion on safety there,
so it gets no weight.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.optimize import minimize

from monitor import claims
from monitor.combination import choose_candidates, gather
from monitor.errors import ConfigurationError
from monitor.package import OUT_OF_SCOPE, CombinationSpec, LinearHead, LogisticSpec, softmax
from trainer.artifacts import write_json
from trainer.errors import CorpusError
from trainer.model.encoder import Embedder, Floats
from trainer.settings import ClassifierSettings
from trainer.types import Example, Label, Recommendation
from trainer.verifier import combining, shipped
from trainer.verifier.crossencoder import PairReader
from trainer.verifier.pairs import RELATIONS, Pair, Relation
from trainer.verifier.pretraining import split

Doubles = NDArray[np.float64]
COMBINATION = "combination.json"
#: Where the encoder has no opinion.
_EVEN = 0.5
#: Topics joined into one pseudo-guideline, so that it has as many recommendations as a real one.
_TOPICS = 3
#: Statements of other topics for each statement of the guideline's own; half of them from the nearest topics.
_OUTSIDE = 0.25
_NEAREST = 10
_START = (20.0, 3.0, 8.0)


def generic_settings() -> ClassifierSettings:
    """Return how the generic combination is fitted: more candidates than after training, fewer false flags."""
    return ClassifierSettings(candidates=6, candidate_mass=0.95, flagged_safe=0.10, in_scope_recall=0.97)


# ---------------------------------------------------------------------------------------------------------- alignment


@dataclass(frozen=True, slots=True)
class Likeness:
    """From cosines to probabilities: `sharpness` s, `none` c and `nearness` h of the module's formula."""

    sharpness: float
    none: float
    nearness: float

    def head(self, ids: Sequence[str], directions: Floats) -> LinearHead:
        """Return the alignment of a guideline.

        Args:
            ids: of the recommendations.
            directions: of the same, unit vectors, fp32 [recommendations, dim].
        """
        weights, bias = _parameters((self.sharpness, self.none, self.nearness), directions)
        return LinearHead(
            classes=[*ids, OUT_OF_SCOPE],
            weights=[np.round(row, 6).tolist() for row in weights],
            bias=[round(float(b), 6) for b in bias],
        )


def _unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)  # type: ignore[no-any-return]


def _parameters(values: Sequence[float] | Doubles, directions: Floats) -> tuple[Doubles, Doubles]:
    """Return weights, fp64 [recommendations + 1, dim], and bias of the alignment; "none of them" is the last."""
    sharpness, none, nearness = values
    own = directions.astype(np.float64)
    weights = np.concatenate([sharpness * own, nearness * _unit(own.mean(axis=0))[None]])
    return weights, np.concatenate([np.zeros(len(own)), [none + np.log(len(own))]])


def views(recommendation: Recommendation, names: Sequence[str]) -> list[str]:
    """Return the texts whose mean embedding is a recommendation's direction: itself, without `names`, its heading.

    What every recommendation says tells none from another; statements that do not name the treatment say it neither.
    """
    nameless = recommendation.text
    for name in sorted(filter(None, names), key=lambda name: (-len(name), name)):
        nameless = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", nameless, flags=re.IGNORECASE)
    found = [recommendation.text, " ".join(nameless.split()), recommendation.heading.strip()]
    return [text for text in found if text]


def directions(recommendations: Sequence[Recommendation], names: Sequence[str], embedder: Embedder) -> Floats:
    """Return the direction of each recommendation, unit vectors, fp32 [n, dim]."""
    texts = [views(r, names) for r in recommendations]
    embeddings = embedder.embed([text for own in texts for text in own])
    ends = np.cumsum([len(own) for own in texts])
    means = [embeddings[end - len(own) : end].mean(axis=0) for own, end in zip(texts, ends, strict=True)]
    return _unit(np.stack(means)).astype(np.float32)


@dataclass(frozen=True)
class Guideline:
    """A guideline with statements: `rules` and their `directions` [rules, dim]; `examples`, whose `recommendation` is
    one of the rules, and their `embeddings` [n, dim].
    """

    rules: list[str]
    directions: Floats
    examples: list[Example]
    embeddings: Floats

    def targets(self) -> NDArray[np.int64]:
        """Return which rule each statement is about, int64 [n]; out of scope: the number of rules."""
        places = {rule: i for i, rule in enumerate(self.rules)}
        outside = len(places)
        return np.array([places.get(e.recommendation or "", outside) for e in self.examples], dtype=np.int64)

    def aligned(self, likeness: Likeness) -> Doubles:
        """Return P(recommendation) and, last, P(none of them), fp64 [n, rules + 1]."""
        head = likeness.head(self.rules, self.directions)
        return softmax(self.embeddings, *head.arrays())


def fit_likeness(guidelines: Sequence[Guideline]) -> Likeness:
    """Return the likeliest parameters of the alignment, all guidelines taken together."""
    # Inner products only: what is tried many times costs little.
    parts = []
    for own in guidelines:
        statements = own.embeddings.astype(np.float64)
        mean = _unit(own.directions.mean(axis=0).astype(np.float64))
        parts.append((statements @ own.directions.T.astype(np.float64), statements @ mean, own.targets()))

    def loss(values: Doubles) -> float:
        total, count = 0.0, 0
        for cosines, near, target in parts:
            none = values[1] + np.log(cosines.shape[1]) + values[2] * near
            logits = np.concatenate([values[0] * cosines, none[:, None]], axis=1)
            chosen = logits[np.arange(len(target)), target]
            total += float((np.logaddexp.reduce(logits, axis=1) - chosen).sum())
            count += len(target)
        return total / max(count, 1)

    found = minimize(loss, np.array(_START), method="Nelder-Mead", options={"maxiter": 600, "xatol": 1e-3})
    return Likeness(*(round(float(value), 4) for value in found.x))


def ranks(guidelines: Sequence[Guideline], likeness: Likeness, at: Sequence[int] = (1, 3)) -> dict[str, float]:
    """Return the share of statements in scope whose recommendation is among the first k, for each k."""
    places = []
    for own in guidelines:
        p, target = own.aligned(likeness)[:, :-1], own.targets()
        for row, right in zip(p[target < p.shape[1]], target[target < p.shape[1]], strict=True):
            places.append(int((row > row[right]).sum()))
    return {f"right recommendation among the first {k}": float(np.mean(np.array(places) < k)) for k in at}


# -------------------------------------------------------------------------------------------------- pseudo-guidelines


def _topic(pair: Pair) -> str:
    return pair.group.split(":", 1)[-1]


def _joined(names: Sequence[str], embeddings: Floats, size: int) -> list[list[int]]:
    """Return groups of `size` topics, each with its nearest that are left."""
    left, found = list(range(len(names))), []
    while left:
        first = left.pop(0)
        near = sorted(left, key=lambda other: -float(embeddings[first] @ embeddings[other]))[: size - 1]
        left = [other for other in left if other not in near]
        found.append([first, *near])
    return found


def pseudo_guidelines(
    pairs: Sequence[Pair], embedder: Embedder, *, most: int | None = None, seed: int = 7
) -> list[Guideline]:
    """Return guidelines made of the topics that pre-training holds out.

    Topics that it met under the same name in another source are left out. Statements of one guideline are of one
    family, so it is whole guidelines that cross-validation holds out.

    Args:
        pairs: all topic pairs, as pre-training reads them.
        embedder: the frozen encoder.
        most: statements taken of each topic; all of them where None.
        seed: of what is drawn.

    Raises:
        CorpusError: fewer than two guidelines can be made.
    """
    rng = random.Random(seed)
    seen, held = split(pairs)
    known, topics = defaultdict(list), defaultdict(list)
    for pair in seen:
        if pair.source != "evidence":
            known[_topic(pair)].append(pair)
    for pair in held:
        if _topic(pair) not in known:
            topics[_topic(pair)].append(pair)
    names, others = sorted(topics), sorted(known)
    if len(names) < 2 * _TOPICS:
        raise CorpusError(f"{len(names)} topics held out: a generic combination needs {2 * _TOPICS} at least")
    own, far = embedder.embed(names), embedder.embed(others)
    drawn = []
    for number, group in enumerate(_joined(names, own, _TOPICS)):
        rows = [p for i in group for p in _some(topics[names[i]], most, rng)]
        near = {others[j] for i in group for j in np.argsort(-(far @ own[i]))[:_NEAREST]}
        count = round(_OUTSIDE * len(rows))
        outside = rng.sample([p for name in sorted(near) for p in known[name]], count // 2)
        outside += rng.sample([p for name in others if name not in near for p in known[name]], count - count // 2)
        drawn.append((sorted({p.premise for i in group for p in topics[names[i]]}), _examples(number, rows, outside)))
    rules = embedder.embed([rule for own_rules, _ in drawn for rule in own_rules])
    texts = embedder.embed([e.text for _, examples in drawn for e in examples])
    result, rule, text = [], 0, 0
    for own_rules, examples in drawn:
        vectors, embeddings = rules[rule : rule + len(own_rules)], texts[text : text + len(examples)]
        result.append(Guideline(own_rules, vectors, examples, embeddings))
        rule, text = rule + len(own_rules), text + len(examples)
    return result


def _some(pairs: Sequence[Pair], most: int | None, rng: random.Random) -> list[Pair]:
    return list(pairs) if most is None else rng.sample(list(pairs), min(most, len(pairs)))


def _examples(number: int, rows: Sequence[Pair], outside: Sequence[Pair]) -> list[Example]:
    """Return the statements of a pseudo-guideline; a recommendation's id is its text."""
    family = f"guideline {number}"
    seen: set[str] = set()
    result: list[Example] = []
    for own, inside in ((rows, True), (outside, False)):
        for pair in own:
            if pair.hypothesis in seen:
                continue
            seen.add(pair.hypothesis)
            scoped = inside and pair.relation is not Relation.NEUTRAL
            wrong = pair.relation is Relation.CONTRADICTS
            label = (Label.UNSAFE if wrong else Label.SAFE) if scoped else Label.OUT_OF_SCOPE
            name, rule = f"{family} {len(result)}", pair.premise if scoped else None
            result.append(Example(name, pair.hypothesis, label, rule, None, None, family, pair.source))
    return result


# -------------------------------------------------------------------------------------------------------- combination


def read_with(
    reader: PairReader,
    guidelines: Sequence[Guideline],
    likeness: Likeness,
    settings: ClassifierSettings,
    weighing: LogisticSpec,
    advance: Callable[[int], None] = lambda _: None,
) -> combining.Read:
    """Read the statements of all guidelines beside their likeliest recommendations, as a package would.

    The recommendations of all are numbered through, and those of other guidelines have probability 0.
    """
    rules = [rule for own in guidelines for rule in own.rules]
    texts = [e.text for own in guidelines for e in own.examples]
    aligned = np.zeros((len(texts), len(rules)))
    candidates: list[list[int]] = []
    first = 0
    for own in guidelines:
        p = own.aligned(likeness)[:, :-1]
        aligned[len(candidates) : len(candidates) + len(p), first : first + len(own.rules)] = p
        candidates += [
            [first + k for k in row] for row in choose_candidates(p, settings.candidates, settings.candidate_mass)
        ]
        first += len(own.rules)
    pairs = [(rules[k], text) for text, row in zip(texts, candidates, strict=True) for k in row]
    relations = reader.probabilities(pairs, advance).astype(np.float64)
    found = relations[:, [RELATIONS.index(Relation.CONTRADICTS), RELATIONS.index(Relation.NEUTRAL)]]
    stated, read = [claims.read(text) for text in texts], [claims.read(rule) for rule in rules]
    even = np.full(len(texts), _EVEN)
    return combining.Read(
        gather(aligned, aligned.sum(axis=1), even, candidates, found, read, stated, weighing), candidates, rules
    )


@dataclass(frozen=True)
class Generic:
    """What a guideline without training is packaged with, and what it does on the guidelines that it was fitted on:
    the combination's figures out of fold, by guideline.
    """

    likeness: Likeness
    spec: CombinationSpec
    report: dict[str, Any]


def fit_generic(
    reader: PairReader,
    embedder: Embedder,
    pairs: Sequence[Pair],
    *,
    most: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Generic:
    """Fit alignment and combination on the topics that the verifier's pre-training held out.

    Some 2,500 statements are read six times at most: minutes on two cores. Flags at most a tenth of the consistent
    statements, and none below one half.

    Args:
        reader: the general verifier.
        embedder: the frozen encoder.
        pairs: all topic pairs that `trainer.verifier.pretraining.read_all` returns.
        most: statements taken of each topic; all of them where None.
        advance: told how many pairs were read.

    Raises:
        CorpusError: too few topics are held out.
    """
    settings = generic_settings()
    guidelines = pseudo_guidelines(pairs, embedder, most=most)
    likeness = fit_likeness(guidelines)
    examples = [e for own in guidelines for e in own.examples]
    held_out = {rule for own in guidelines for rule in own.rules}
    known = [p for p in pairs if p.relation is not Relation.NEUTRAL and p.premise not in held_out]
    weighing = combining.weigh_claims(
        [(p.premise, p.hypothesis) for p in known], [p.relation is Relation.CONTRADICTS for p in known]
    )
    read = read_with(reader, guidelines, likeness, settings, weighing, advance)
    combined = combining.fit(read, examples, weighing, settings)
    made = {
        "guidelines": len(guidelines),
        "recommendations": sum(len(own.rules) for own in guidelines),
        "statements": len(examples),
        "out of scope": sum(e.recommendation is None for e in examples),
    }
    return Generic(likeness, combined.spec, made | ranks(guidelines, likeness) | combined.report)


def save(generic: Generic, folder: Path = shipped.FOLDER) -> None:
    """Write it beside the verifier that it belongs to."""
    write_json(
        folder / COMBINATION,
        {
            "made_by": "trainer.verifier.zero_shot.fit_generic, on the topics that pre-training held out",
            "alignment": asdict(generic.likeness),
            "combination": generic.spec.model_dump(mode="json"),
            "report": generic.report,
        },
    )


def load(folder: Path = shipped.FOLDER) -> Generic:
    """Return what `save` wrote.

    Raises:
        ConfigurationError: it is not there, or not what `save` writes.
    """
    file = folder / COMBINATION
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        spec = CombinationSpec.model_validate(content["combination"])
        return Generic(Likeness(**content["alignment"]), spec, content["report"])
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{file}: no generic combination there: `guardline train verifier --pretrain` makes it"
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigurationError(f"{file}: not a generic combination: {error}") from error
