"""An independent model judges each statement: does it agree with its recommendation, or contradict it?

In: statements with the label they were written for. Out: a judgement for each; a statement whose judgement is not what
its label says is rejected, and Cohen's kappa (1960) tells how far writer and judge agree beyond chance. The judge is
another model than the writer, since a model tends to find its own mistakes right. A judge that refuses, or whose answer
cannot be used, says nothing against the statement: it stays, and the silence is recorded.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import cohen_kappa_score

from trainer.errors import ProviderError
from trainer.llm.port import Completer, Completion, Request, Status
from trainer.llm.prompts import render
from trainer.types import Example, Label, Recommendation

PROMPT = "judge"


class Relation(StrEnum):
    """How a statement stands to a recommendation."""

    CONSISTENT = "consistent"
    CONTRADICTS = "contradicts"
    UNRELATED = "unrelated"


#: What a judge should find, by the label that a statement was written for.
EXPECTED = {Label.SAFE: Relation.CONSISTENT, Label.UNSAFE: Relation.CONTRADICTS}


class Verdict(BaseModel):
    """The judge's answer."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(description="One line: the words of the statement that decide it.")
    relation: Relation


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said of one statement; relation is None where it said nothing that can be used."""

    id: str
    label: Label
    status: Status
    relation: Relation | None
    reason: str

    @property
    def disagrees(self) -> bool:
        """Whether the judge found something else than the label says."""
        return self.relation is not None and self.relation is not EXPECTED[self.label]


@dataclass(frozen=True)
class JudgeOutcome:
    """All judgements, in the order of the statements."""

    model: str
    judgements: tuple[Judgement, ...]

    @property
    def rejected(self) -> dict[str, str]:
        """The reason by id, for every statement on which the judge disagrees with the label."""
        return {
            j.id: f"judge: {j.relation} though written as {j.label}: {j.reason}" for j in self.judgements if j.disagrees
        }

    @property
    def unjudged(self) -> dict[str, str]:
        """Status and reason by id, for every statement that the judge left open."""
        return {j.id: f"{j.status}: {j.reason}" for j in self.judgements if j.relation is None}

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa between labels and judgements, -1 to 1; None where it is not defined.

        That is: nothing was judged, or label and judge each know one and the same class.
        """
        pairs = [(EXPECTED[j.label].value, j.relation.value) for j in self.judgements if j.relation is not None]
        if len({name for pair in pairs for name in pair}) < 2:
            return None
        written, judged = zip(*pairs, strict=True)
        return float(cohen_kappa_score(written, judged))

    @property
    def agreement(self) -> float | None:
        """The share of judged statements on which label and judge agree; None where nothing was judged."""
        judged = [j for j in self.judgements if j.relation is not None]
        return sum(not j.disagrees for j in judged) / len(judged) if judged else None

    def summary(self) -> dict[str, object]:
        """Return counts and agreement, ready for JSON."""
        relations = Counter(f"{j.label} judged {j.relation}" for j in self.judgements if j.relation is not None)
        return {
            "model": self.model,
            "statements": len(self.judgements),
            "status": dict(sorted(Counter(j.status.value for j in self.judgements).items())),
            "relations": dict(sorted(relations.items())),
            "rejected": len(self.rejected),
            "agreement": self.agreement,
            "kappa": self.kappa,
        }


# A dated or numbered snapshot is the same model: "gpt-4o-mini-2024-07-18".
_SNAPSHOT = re.compile(r"(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{6,8}|latest))+$")


def _same_model(name: str) -> str:
    """Return a model's name without provider, snapshot and case."""
    return _SNAPSHOT.sub("", name.lower().rpartition("/")[2].partition(":")[0])


def require_other_model(judge: str, writers: Iterable[str]) -> None:
    """Make sure that the judge wrote none of what it judges.

    Raises:
        ProviderError: it did, by whatever provider or snapshot.
    """
    for writer in writers:
        if _same_model(writer) == _same_model(judge):
            raise ProviderError(f"the judge {judge} also wrote statements (as {writer}): name another model as judge")


# A statement cannot end its own quotation.
_TAG = re.compile(r"</?(?:statement|recommendation|section)[^>]*>", re.IGNORECASE)


def _request(
    example: Example, recommendation: Recommendation, context: Sequence[str], pack: Mapping[str, str]
) -> Request:
    system, user = render(
        PROMPT, recommendation=recommendation, context=context, statement=_TAG.sub("", example.text), **pack
    )
    return Request(PROMPT, system, user, Verdict, max_tokens=200)


def _judgement(example: Example, completion: Completion) -> Judgement:
    value = completion.value
    if completion.status is Status.OK and isinstance(value, Verdict):
        line = " ".join(value.reason.split())
        return Judgement(example.id, example.label, Status.OK, value.relation, line)
    status = Status.MALFORMED if completion.status is Status.OK else completion.status
    return Judgement(example.id, example.label, status, None, completion.reason or "no reason given")


def judge(
    examples: Sequence[Example],
    recommendations: Sequence[Recommendation],
    completer: Completer,
    writers: Iterable[str],
    *,
    condition: str,
    treatment: str,
    advance: Callable[[int], None] = lambda _: None,
) -> JudgeOutcome:
    """Have every statement on a known recommendation judged; statements out of scope are passed over.

    The judge sees the recommendation, the others of its section and the statement, never the label. `advance` is called
    with the number of statements just judged.

    Raises:
        ProviderError: the judge is one of `writers`, or its provider cannot be used.
    """
    require_other_model(completer.model, writers)
    by_id = {r.id: r for r in recommendations}
    sections: dict[tuple[str, str], list[Recommendation]] = defaultdict(list)
    for recommendation in recommendations:
        sections[recommendation.source, recommendation.section].append(recommendation)
    asked = [e for e in examples if e.label in EXPECTED and e.recommendation in by_id]
    requests = []
    for example in asked:
        own = by_id[str(example.recommendation)]
        context = [r.text for r in sections[own.source, own.section] if r.id != own.id]
        requests.append(_request(example, own, context, {"condition": condition, "treatment": treatment}))
    completions = completer.complete(requests, advance)
    judgements = tuple(_judgement(e, c) for e, c in zip(asked, completions, strict=True))
    return JudgeOutcome(completer.model, judgements)
