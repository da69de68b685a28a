"""Leave styles out: how each way of training does on voices that training never heard. `make bench-styles`.

Frozen encoder, cross-entropy, SupCon with positives by label, recommendation-aware SupCon (the product's objective):
each is trained with some styles held out and judged on these, until every style has been held out once. `--folds 11`
leaves out one style at a time; the default of four folds leaves out two or three, which is harder (less to learn from)
and a third of the time. Each gets two heads: the product's, over (recommendation, label), and one hyperplane, as in the
paper. Every fold's scores are kept in `build/results/styles/`, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from tests.benchmarks.results import CHECKOUT, report
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.model import classifier, contrastive
from trainer.model.encoder import Embedder, Floats, load_pretrained
from trainer.settings import ClassifierSettings, EncoderSettings, Objective
from trainer.statements import corpus
from trainer.types import Difficulty, Example, Recommendation, Split

FROZEN = "frozen"
AWARE = "recommendation-aware SupCon"
METHODS: dict[str, EncoderSettings | None] = {
    FROZEN: None,
    "cross-entropy": EncoderSettings(objective=Objective.NONE),
    "SupCon": EncoderSettings(objective=Objective.LABEL, contrastive_weight=1.0, cross_entropy_weight=0.0),
    AWARE: EncoderSettings(),
}
HEADS = ("joint", "hyperplane")
NEEDED = (Split.TRAIN, Split.VALIDATION, Split.TEST_OOD)
Doubles = NDArray[np.float64]


def _scores(
    embeddings: dict[Split, Floats], parts: dict[Split, list[Example]], ids: list[str]
) -> dict[str, list[float]]:
    """Return calibrated probabilities of the held-out statements by head."""
    train, validation = (
        (embeddings[Split.TRAIN], parts[Split.TRAIN]),
        (embeddings[Split.VALIDATION], parts[Split.VALIDATION]),
    )
    joint = classifier.fit_joint(train, validation, ids, ClassifierSettings().joint_c)
    plain = LogisticRegression(C=ClassifierSettings().joint_c, max_iter=500)
    plain.fit(train[0], classifier.is_unsafe(train[1]))
    slope, intercept = classifier.calibrate(plain.decision_function(validation[0]), classifier.is_unsafe(validation[1]))
    margin = plain.decision_function(embeddings[Split.TEST_OOD])
    return {
        "joint": joint.p_unsafe(embeddings[Split.TEST_OOD]).tolist(),
        "hyperplane": (1 / (1 + np.exp(-(slope * margin + intercept)))).tolist(),
    }


def _fold(
    method: str,
    styles: tuple[str, ...],
    epochs: int,
    recommendations: list[Recommendation],
    examples: list[Example],
    console: Console,
) -> dict[str, Any]:
    by_id = {e.id: e for e in examples}
    split = corpus.split(examples, corpus.SplitSettings(held_out_styles=styles))
    everything = {part: [by_id[i] for i in names] for part, names in split.items()}
    parts = {part: [e for e in everything[part] if e.recommendation is not None] for part in NEEDED}
    settings = METHODS[method]
    label = f"{method}, without {''.join(styles)}"
    with console.status(label) as status:
        if settings is None:
            own = EncoderSettings()
            embedder = Embedder(*load_pretrained(own.base), max_length=own.max_length, sub_batch=2 * own.sub_batch)
        else:
            embedder, _ = contrastive.train(
                everything[Split.TRAIN],
                parts[Split.VALIDATION],
                recommendations,
                replace(settings, epochs=epochs),
                lambda p, line: status.update(f"{label}: {p:.0%}, {line}"),
            )
        status.update(f"{label}: heads")
        embeddings = {part: embedder.embed([e.text for e in parts[part]]) for part in NEEDED}
        scores = _scores(embeddings, parts, [r.id for r in recommendations])
    return {"ids": [e.id for e in parts[Split.TEST_OOD]], **scores}


def _metrics(examples: list[Example], p: Doubles) -> dict[str, float]:
    unsafe = classifier.is_unsafe(examples)
    hard = [i for i, e in enumerate(examples) if e.difficulty in (None, Difficulty.HARD)]
    return {
        "F1": float(f1_score(unsafe, p >= 0.5)),
        "AUC": float(roc_auc_score(unsafe, p)),
        "hard AUC": float(roc_auc_score(unsafe[hard], p[hard])),
    }


def _resamples(examples: list[Example], n: int) -> list[NDArray[np.int64]]:
    """Return row indices of bootstrap samples, drawn by family."""
    rng = np.random.default_rng(11)
    _, inverse = np.unique(np.array([e.family for e in examples]), return_inverse=True)
    members = [np.flatnonzero(inverse == i) for i in range(inverse.max() + 1)]
    return [np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]) for _ in range(n)]


def _row(method: str, head: str, style: str, examples: list[Example], p: Doubles) -> dict[str, object]:
    row: dict[str, object] = {"method": method, "head": head, "style": style, "n": len(examples)}
    samples = [_metrics([examples[i] for i in s], p[s]) for s in _resamples(examples, 100)]
    for name, value in _metrics(examples, p).items():
        low, high = np.percentile([s[name] for s in samples], [2.5, 97.5])
        row |= {name: value, f"{name} low": float(low), f"{name} high": float(high)}
    return row


def _gain(examples: list[Example], ahead: Doubles, behind: Doubles, head: str, behind_head: str) -> dict[str, object]:
    """Return the row of differences, from the same resamples for both."""
    names = ("F1", "AUC", "hard AUC")
    row: dict[str, object] = {
        "method": f"{AWARE} - {FROZEN}", "head": f"{head} - {behind_head}", "style": "all", "n": len(examples)
    }  # fmt: skip
    one, other = _metrics(examples, ahead), _metrics(examples, behind)
    differences = []
    for sample in _resamples(examples, 100):
        own = [examples[i] for i in sample]
        a, b = _metrics(own, ahead[sample]), _metrics(own, behind[sample])
        differences.append([a[n] - b[n] for n in names])
    low, high = np.percentile(np.array(differences), [2.5, 97.5], axis=0)
    for i, name in enumerate(names):
        row |= {name: one[name] - other[name], f"{name} low": float(low[i]), f"{name} high": float(high[i])}
    return row


def main() -> None:
    """Measure every fold that has not been measured, then report all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=4, help="11: one style at a time")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    console = Console()
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    examples, _ = corpus.load(pack.corpus, recommendations)
    styles = sorted(f.stem.removeprefix("llm_style_") for f in pack.corpus.glob(corpus.STATEMENT_FILES))
    folds = [tuple(styles[i :: arguments.folds]) for i in range(arguments.folds)]
    kept: Path = CHECKOUT / "build" / "results" / "styles"
    kept.mkdir(parents=True, exist_ok=True)
    by_id = {e.id: e for e in examples}
    p: dict[tuple[str, str], dict[str, float]] = {(m, h): {} for m in METHODS for h in HEADS}
    for fold in folds:
        for method in METHODS:
            file = kept / f"{method.replace(' ', '-')}-{''.join(fold)}-{arguments.epochs}.json"
            if not file.exists():
                file.write_text(json.dumps(_fold(method, fold, arguments.epochs, recommendations, examples, console)))
            content = json.loads(file.read_text())
            for head in HEADS:
                p[method, head] |= dict(zip(content["ids"], content[head], strict=True))
            console.print(f"{method}, without {''.join(fold)}: measured")
    rows = []
    for (method, head), own in p.items():
        tested = [by_id[i] for i in own]
        scores = np.array(list(own.values()))
        for style in ["all", *styles]:
            keep = [i for i, e in enumerate(tested) if style in ("all", e.style)]
            if head == "joint" or style == "all":
                rows.append(_row(method, head, style, [tested[i] for i in keep], scores[keep]))
    for head, behind in (("joint", "joint"), ("hyperplane", "hyperplane"), ("joint", "hyperplane")):
        ids = list(p[FROZEN, behind])
        ahead = np.array([p[AWARE, head][i] for i in ids])
        rows.append(_gain([by_id[i] for i in ids], ahead, np.array(list(p[FROZEN, behind].values())), head, behind))
    report("leave_one_style_out", rows)


if __name__ == "__main__":
    main()
