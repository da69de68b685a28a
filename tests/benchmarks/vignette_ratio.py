"""How many numeric vignettes belong in training? `make bench-vignettes`.

Trains the encoder with none, and with vignettes for a tenth and three tenths of the training statements, and reports
the AUC of the validation split and that of fresh vignettes. Nothing here looks at a test split. `CorpusSettings` names
the ratio that was chosen by this table: the one with the best mean of both figures.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from rich.console import Console
from sklearn.metrics import roc_auc_score

from tests.benchmarks.results import report
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.model import classifier, contrastive
from trainer.model.encoder import Embedder, Floats
from trainer.settings import ClassifierSettings, EncoderSettings
from trainer.statements import corpus, vignettes
from trainer.types import Example, Split

RATIOS = (0.0, 0.1, 0.3)
FRESH = 600


def _aucs(embedder: Embedder, train: list[Example], tests: tuple[list[Example], ...], ids: list[str]) -> list[float]:
    """Return the AUC of the (recommendation, label) regression on each test set, in-scope statements only."""

    def scoped(examples: list[Example]) -> tuple[Floats, list[Example]]:
        own = [e for e in examples if e.recommendation is not None]
        return embedder.embed([e.text for e in own]), own

    learnt = scoped(train)
    head = classifier.fit_joint(learnt, learnt, ids, ClassifierSettings().joint_c)
    return [
        float(roc_auc_score(classifier.is_unsafe(own), head.margin(embeddings)))
        for embeddings, own in map(scoped, tests)
    ]


def main() -> None:
    """Train once a ratio and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    console = Console()
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    examples, _ = corpus.load(pack.corpus, recommendations)
    by_id = {e.id: e for e in examples}
    split = corpus.split(examples, corpus.SplitSettings())
    train, validation = ([by_id[i] for i in split[part]] for part in (Split.TRAIN, Split.VALIDATION))
    rules = vignettes.load_rules(pack, recommendations)
    # Other seeds than those of training runs, so that neither set of vignettes is one that a model was judged on.
    fresh = vignettes.generate(rules, FRESH, seed=101)
    known = {e.text for e in fresh}
    rows: list[dict[str, object]] = []
    for ratio in RATIOS:
        drawn = vignettes.generate_at_most(rules, round(ratio * len(train)), seed=102)
        mixed = [*train, *(e for e in drawn if e.text not in known)]
        settings = replace(EncoderSettings(), epochs=arguments.epochs, patience=0)
        with console.status(f"ratio {ratio}") as status:
            embedder, _ = contrastive.train(
                mixed,
                validation,
                recommendations,
                settings,
                lambda p, line: status.update(f"ratio {ratio}: {p:.0%}, {line}"),  # noqa: B023
            )
            own, numeric = _aucs(embedder, mixed, (validation, fresh), [r.id for r in recommendations])
        row = {"ratio": ratio, "statements": len(mixed), "validation AUC": own, "fresh vignettes AUC": numeric}
        rows.append(row | {"mean": (own + numeric) / 2})
        console.print(rows[-1])
    report("vignette_ratio", rows)


if __name__ == "__main__":
    main()
