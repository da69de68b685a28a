"""Leave one style out: how a model does on each voice when training never heard it. `make bench-styles`.

Trains the quick profile's encoder once per style (an hour on two cores), with that style held out and all others in,
and evaluates the held-out statements, frozen encoder beside it. A style that is done is not trained again: results are
kept per style in `build/results/styles/`, so an interrupted run goes on.
"""

from __future__ import annotations

import json
import statistics

from rich.console import Console
from sklearn.metrics import f1_score, roc_auc_score

from tests.benchmarks.results import CHECKOUT, report
from trainer import classifier, corpus, encoder
from trainer.classifier import Classifier
from trainer.encoder import Embedder, Floats
from trainer.guidelines import DEFAULT_PACK, Pack, extract
from trainer.settings import PROFILES
from trainer.types import Difficulty, Example, Split


def _figures(fitted: Classifier, embeddings: Floats, examples: list[Example]) -> dict[str, float]:
    unsafe, p = classifier.is_unsafe(examples), fitted.joint.p_unsafe(embeddings)
    hard = [i for i, e in enumerate(examples) if e.difficulty in (None, Difficulty.HARD)]
    return {
        "AUC": float(roc_auc_score(unsafe, p)),
        "hard AUC": float(roc_auc_score(unsafe[hard], p[hard])),
        "F1": float(f1_score(unsafe, p >= 0.5)),
    }


def _one_style(style: str, console: Console) -> dict[str, object]:
    settings = PROFILES["quick"]
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    ids = [r.id for r in recommendations]
    examples, _ = corpus.load(pack.corpus, recommendations)
    by_id = {e.id: e for e in examples}
    own = corpus.SplitSettings(held_out_styles=(style,))
    parts = {part: [by_id[i] for i in names] for part, names in corpus.split(examples, own).items()}
    with console.status(f"style {style}") as status:
        trained, _ = encoder.train(
            parts[Split.TRAIN],
            recommendations,
            settings.encoder,
            lambda p, line: status.update(f"style {style}: {p:.0%}, {line}"),
        )
    limits = {"max_length": settings.encoder.max_length, "sub_batch": 32}
    frozen = Embedder(*encoder.load_pretrained(settings.encoder.base), **limits)
    row: dict[str, object] = {"style": style, "n": len(parts[Split.TEST_OOD])}
    for name, embedder in (("frozen", frozen), ("contrastive", trained)):
        embeddings = {
            part: embedder.embed([e.text for e in parts[part]])
            for part in (Split.TRAIN, Split.VALIDATION, Split.TEST_OOD)
        }
        fitted = classifier.fit(embeddings, parts, ids, settings.classifier)
        figures = _figures(fitted, embeddings[Split.TEST_OOD], parts[Split.TEST_OOD])
        row |= {f"{name} {metric}": value for metric, value in figures.items()}
    return row


def main() -> None:
    """Measure every style that has not been measured, then report all."""
    console = Console()
    kept = CHECKOUT / "build" / "results" / "styles"
    kept.mkdir(parents=True, exist_ok=True)
    styles = sorted(
        f.stem.removeprefix("llm_style_") for f in Pack.load(DEFAULT_PACK).corpus.glob(corpus.STATEMENT_FILES)
    )
    rows = []
    for style in styles:
        file = kept / f"{style}.json"
        if not file.exists():
            file.write_text(json.dumps(_one_style(style, console)))
        rows.append(json.loads(file.read_text()))
    numbers = [key for key in rows[0] if key not in ("style", "n")]
    rows.append(
        {"style": "mean", "n": sum(r["n"] for r in rows)} | {k: statistics.mean(r[k] for r in rows) for k in numbers}
    )
    report("leave_one_style_out", rows)


if __name__ == "__main__":
    main()
