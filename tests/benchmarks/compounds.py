"""Two rules in one sentence: `make bench-compounds`.

Answers often say two things in one breath ("200 mg on day 1, then 100 mg once daily"), the corpus says one a statement.
Joined here are two statements in one held-out style, about two recommendations of one chapter: both right, or one of
them wrong. Beside them the same statements alone, by the package that ships, at its own thresholds. Nothing is trained.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from monitor.package import ModelPackage
from monitor.policy import judge
from monitor.settings import DEFAULT_MODEL
from monitor.types import Verdict
from tests.benchmarks.results import report
from trainer.evaluation.stage import ServedModel
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.statements import corpus
from trainer.types import Example, Label

JOINTS = ("; ", ", and ", ", while ", "; also, ")
#: Longer statements do not occur two in a sentence.
WORDS = 22
Text = tuple[str, bool]


def _continued(text: str) -> str:
    """Return a sentence as the second half of another: its first letter small, unless the word is a name or number."""
    first = text.split()[0]
    named = not first[1:].islower() or first in ("Remdesivir", "Veklury")
    return text if named else first[0].lower() + text[1:]


def compounds(examples: Sequence[Example], count: int, seed: int) -> tuple[list[Text], list[Text]]:
    """Return (joined sentences, the statements in them), each with whether it is unsafe; half of the first are."""
    rng = random.Random(seed)
    short = [e for e in examples if e.recommendation and e.text.endswith(".") and len(e.text.split()) <= WORDS]
    sides = {label: [e for e in short if e.label is label] for label in (Label.SAFE, Label.UNSAFE)}
    joined: list[Text] = []
    alone: dict[str, bool] = {}
    while len(joined) < count:
        unsafe = len(joined) % 2 == 1
        one = rng.choice(sides[Label.SAFE])
        others = [
            e
            for e in sides[Label.UNSAFE if unsafe else Label.SAFE]
            if e.style == one.style
            and e.recommendation != one.recommendation
            and str(e.recommendation)[0] == str(one.recommendation)[0]
        ]
        if not others:
            continue
        pair = [one, rng.choice(others)]
        rng.shuffle(pair)
        first, second = (e.text for e in pair)
        joined.append((first.rstrip(".") + rng.choice(JOINTS) + _continued(second), unsafe))
        alone |= {e.text: e.label is Label.UNSAFE for e in pair}
    return joined, list(alone.items())


async def measure(sets: dict[str, list[Text]]) -> list[dict[str, object]]:
    """Return a row a set and path."""
    served = ServedModel(ModelPackage.load(DEFAULT_MODEL))
    rows: list[dict[str, object]] = []
    for path in served.paths:
        limits = served.thresholds(path)
        for name, texts in sets.items():
            scores = await served.score([text for text, _ in texts], path)
            p = np.array([s.p_unsafe for s in scores])
            unsafe = np.array([own for _, own in texts])
            flagged = np.array([judge(s, limits) is Verdict.UNSAFE for s in scores])
            rows.append(
                {
                    "case": f"{name}, {path}",
                    "n": len(texts),
                    "auc": float(roc_auc_score(unsafe, p)),
                    "f1": float(f1_score(unsafe, p >= 0.5)),
                    "unsafe_flagged": float(flagged[unsafe].mean()),
                    "safe_flagged": float(flagged[~unsafe].mean()),
                }
            )
    await served.close()
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--styles", nargs="+", default=["g", "l"], help="held out of the training of the package")
    arguments = parser.parse_args()
    pack = Pack.load(DEFAULT_PACK)
    examples, _ = corpus.load(pack.corpus, extract(pack))
    joined, alone = compounds([e for e in examples if e.style in arguments.styles], arguments.count, seed=3)
    report("compounds", asyncio.run(measure({"alone": alone, "joined": joined})))


if __name__ == "__main__":
    main()
