"""Leave styles out: how each way of training does on voices that training never heard. `make bench-styles`.

Frozen encoder, cross-entropy, SupCon with positives by label, recommendation-aware SupCon (the product's objective):
each is trained with some styles held out and judged on these, until every style has been held out once. `--folds 11`
leaves out one style at a time; the default of four folds leaves out two or three, which is harder (less to learn from)
and a third of the time. Each gets two heads: the product's, over (recommendation, label), and one hyperplane, as in the
paper. Every fold's scores are kept in `build/results/styles/`, so an interrupted run goes on where it stopped.

`--verifier` does the same for the whole product: for each fold the pipeline trains encoder and verifier with the full
profile, exports a package, and the monitor's own path scores the held-out styles: the encoder alone, the mixture over
the candidates, the verifier with the right recommendation in hand, and what is served (`combined`). A fold takes hours
on two cores, so `--only` measures some folds now and others later; whatever has been measured is reported. Within a
fold, too, finished stages and the verifier's checkpoint are kept until its scores are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from monitor.package import ModelPackage
from tests.benchmarks.results import CHECKOUT, report
from trainer.artifacts import RunFolder
from trainer.evaluation.models import COMBINED, CONTRASTIVE
from trainer.evaluation.quality import INFORMED, VERIFIER
from trainer.evaluation.stage import ServedModel
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.model import classifier, contrastive
from trainer.model.encoder import Embedder, Floats, load_pretrained
from trainer.pipeline import STAGES, Pipeline
from trainer.settings import PROFILES, ClassifierSettings, EncoderSettings, Objective, TrainSettings, VerifierSettings
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
#: What is measured of a package, with `--verifier`.
SERVED = (CONTRASTIVE, VERIFIER, INFORMED, COMBINED)
HEAD_SERVED = "served"
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


def _gain(examples: list[Example], ahead: Doubles, behind: Doubles, method: str, head: str) -> dict[str, object]:
    """Return the row of differences, from the same resamples for both."""
    names = ("F1", "AUC", "hard AUC")
    row: dict[str, object] = {"method": method, "head": head, "style": "all", "n": len(examples)}
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


def product_settings(styles: tuple[str, ...], epochs: int | None, base: str | None) -> TrainSettings:
    """Return the full profile with styles held out; `base` is what the verifier starts from, None: what ships.

    `epochs`, where given, are those of the encoder and of the verifier, for a quicker run.
    """
    full = PROFILES["full"]
    verifier = replace(full.verifier or VerifierSettings(), base=base)
    if epochs is not None:
        verifier = replace(verifier, epochs=epochs)
    return replace(
        full,
        corpus=replace(full.corpus, split=replace(full.corpus.split, held_out_styles=styles)),
        encoder=full.encoder if epochs is None else replace(full.encoder, epochs=epochs),
        verifier=verifier,
    )


async def _served_scores(package: ModelPackage, examples: Sequence[Example]) -> dict[str, Any]:
    """Return what a package makes of statements on the guideline."""
    texts, about = [e.text for e in examples], [str(e.recommendation) for e in examples]
    served = ServedModel(package)
    try:
        scores = {path: await served.score(texts, path) for path in served.paths}
        candidates = await served.candidates(texts)
        ranked = await served.ranked(texts)
        return {
            **{path: [s.p_unsafe for s in own] for path, own in scores.items()},
            VERIFIER: candidates.readings.mixture().tolist(),
            INFORMED: (await served.contradiction(list(zip(about, texts, strict=True)))).tolist(),
            "rank": [own.index(rule) for own, rule in zip(ranked, about, strict=True)],
            "evidence": [s.recommendation == rule for s, rule in zip(scores[COMBINED], about, strict=True)],
        }
    finally:
        await served.close()


def served_fold(settings: TrainSettings, pack: Pack, root: Path, console: Console) -> dict[str, Any]:
    """Train and export with the settings in a run folder at `root`, and score the styles that they hold out.

    Returns:
        `ids` of the held-out statements; by name of `SERVED` their probabilities of unsafe; `rank` of the right
        recommendation by the encoder's alignment, 0 for the first; whether the `evidence` cited is the right one.
    """
    folder = RunFolder(root)
    Pipeline(folder, pack, settings).run(STAGES[:-1], console)
    examples = [e for e in corpus.load_split(folder)[Split.TEST_OOD] if e.recommendation is not None]
    found = asyncio.run(_served_scores(ModelPackage.load(folder.package), examples))
    return {"ids": [e.id for e in examples], **found}


def alignment_rows(contents: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return a row for each fold and one for all: is the right recommendation among the first, and is it cited?"""
    every = {name: [x for own in contents.values() for x in own[name]] for name in ("rank", "evidence")}
    return [
        {
            "styles held out": fold,
            "n": len(own["rank"]),
            "alignment top-1": float(np.mean(np.array(own["rank"]) < 1)),
            "alignment top-3": float(np.mean(np.array(own["rank"]) < 3)),
            "evidence top-1": float(np.mean(own["evidence"])),
        }
        for fold, own in {**contents, "all": every}.items()
    ]


Measured = dict[tuple[str, str], dict[str, float]]


def _measure_methods(
    folds: Mapping[tuple[str, ...], bool], epochs: int, kept: Path, recommendations: list[Recommendation],
    examples: list[Example], console: Console,
) -> Measured:  # fmt: skip
    """Measure each method on the folds that are wanted; return all that has been measured, by method and head."""
    p: Measured = {}
    for fold, wanted in folds.items():
        for method in METHODS:
            file = kept / f"{method.replace(' ', '-')}-{''.join(fold)}-{epochs}.json"
            if wanted and not file.exists():
                file.write_text(json.dumps(_fold(method, fold, epochs, recommendations, examples, console)))
            if not file.exists():
                continue
            content = json.loads(file.read_text())
            for head in HEADS:
                p.setdefault((method, head), {}).update(zip(content["ids"], content[head], strict=True))
            console.print(f"{method}, without {''.join(fold)}: measured")
    return p


def measure_served(
    folds: Mapping[tuple[str, ...], bool], epochs: int | None, base: str | None, kept: Path, pack: Pack,
    console: Console,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Measure the product on the folds that are wanted; return the content of all that has been measured, by styles."""
    start = (base or "shipped").replace("/", "-")
    contents: dict[str, dict[str, Any]] = {}
    for fold, wanted in folds.items():
        name = f"served-{''.join(fold)}-{epochs or 'full'}-{start}"
        file = kept / f"{name}.json"
        if wanted and not file.exists():
            root = kept / "runs" / name
            content = served_fold(product_settings(fold, epochs, base), pack, root, console)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(content))
            partial.replace(file)
            shutil.rmtree(root)
        if file.exists():
            contents["".join(fold)] = json.loads(file.read_text())
            console.print(f"served, without {''.join(fold)}: measured")
    return contents


def rows_of(p: Measured, by_id: Mapping[str, Example], styles: Sequence[str]) -> list[dict[str, object]]:
    """Return all rows: each method and head over all styles, most of them by style, and differences."""
    rows = []
    for (method, head), own in p.items():
        tested = [by_id[i] for i in own]
        scores = np.array(list(own.values()))
        for style in ["all", *styles]:
            keep = [i for i, e in enumerate(tested) if style in ("all", e.style)]
            if keep and (head != "hyperplane" or style == "all"):
                rows.append(_row(method, head, style, [tested[i] for i in keep], scores[keep]))
    differences = [
        *(
            ((AWARE, a), (FROZEN, b))
            for a, b in zip(("joint", "hyperplane", "joint"), (*HEADS, "hyperplane"), strict=True)
        ),
        ((COMBINED, HEAD_SERVED), (CONTRASTIVE, HEAD_SERVED)),
    ]
    for ahead, behind in differences:
        if ahead not in p or behind not in p:
            continue
        ids = [i for i in p[behind] if i in p[ahead]]
        one, other = (np.array([p[key][i] for i in ids]) for key in (ahead, behind))
        head = f"{ahead[1]} - {behind[1]}"
        rows.append(_gain([by_id[i] for i in ids], one, other, f"{ahead[0]} - {behind[0]}", head))
    return rows


def main() -> None:
    """Measure every wanted fold that has not been measured, then report all that have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=4, help="the number of styles: one style at a time")
    parser.add_argument("--only", type=int, nargs="+", metavar="FOLD", help="measure these folds only, from 0")
    parser.add_argument("--epochs", type=int, help="of training; default: 4, with --verifier those of the full profile")
    parser.add_argument("--verifier", action="store_true", help="the whole product, instead of the ways of training")
    parser.add_argument("--base", help="with --verifier: what the verifier starts from; default: what ships")
    arguments = parser.parse_args()
    console = Console()
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    examples, _ = corpus.load(pack.corpus, recommendations)
    styles = sorted(f.stem.removeprefix("llm_style_") for f in pack.corpus.glob(corpus.STATEMENT_FILES))
    folds = {
        tuple(styles[i :: arguments.folds]): arguments.only is None or i in arguments.only
        for i in range(arguments.folds)
    }
    kept: Path = CHECKOUT / "build" / "results" / "styles"
    kept.mkdir(parents=True, exist_ok=True)
    if arguments.verifier:
        # What the other mode measured of the same folds is shown beside it.
        rest = dict.fromkeys(folds, False)
        p = _measure_methods(rest, arguments.epochs or 4, kept, recommendations, examples, console)
        contents = measure_served(folds, arguments.epochs, arguments.base, kept, pack, console)
        for content in contents.values():
            for name in SERVED:
                p.setdefault((name, HEAD_SERVED), {}).update(zip(content["ids"], content[name], strict=True))
        if contents:
            report("leave_one_style_out_alignment", alignment_rows(contents))
    else:
        p = _measure_methods(folds, arguments.epochs or 4, kept, recommendations, examples, console)
    if p:
        report("leave_one_style_out", rows_of(p, {e.id: e for e in examples}, styles))


if __name__ == "__main__":
    main()
