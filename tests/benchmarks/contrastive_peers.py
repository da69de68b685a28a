"""Supervised contrastive fine-tuning beside SetFit and sentence-transformers. `make bench-peers`.

The same statements, classes (recommendation and label), encoder, batch size, learning rate and number of epochs, one
after the other in one run on the same cores; then the same logistic regression on each one's embeddings, judged on
statements in voices that none has heard. Speed is statements a second, and the ratio to SetFit's. Guardline's recipe as
shipped has other rates and adds cross-entropy; it has a row of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import f1_score, roc_auc_score

from tests.benchmarks.results import report
from trainer.guideline.guidelines import DEFAULT_PACK, Pack, extract
from trainer.model import classifier, contrastive
from trainer.model.encoder import joint_classes
from trainer.settings import ClassifierSettings, EncoderSettings
from trainer.statements import corpus
from trainer.types import Example, Recommendation, Split

Vectors = NDArray[np.float32]
Trained = tuple[float, Vectors, Vectors]  # statements/s, embeddings of training and of test statements
RATE = 1e-4
BATCH = 64


def _guardline(
    train: list[Example], tests: list[str], recommendations: list[Recommendation], settings: EncoderSettings
) -> Trained:
    embedder, summary = contrastive.train(train, [], recommendations, settings, lambda *_: None)
    return summary["statements_per_second"], embedder.embed([e.text for e in train]), embedder.embed(tests)


def _peer(library: str, python: str, train: list[Example], tests: list[str], labels: list[int], epochs: int) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        task, out = Path(folder) / "task.json", Path(folder) / "out.npz"
        content = {"texts": [e.text for e in train], "labels": labels, "tests": tests, "library": library}
        task.write_text(json.dumps(content | {"epochs": epochs, "batch": BATCH, "learning_rate": RATE}))
        script = Path(__file__).parent / "peers" / "train.py"
        done = subprocess.run([python, str(script), str(task), str(out)], check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{python} {script}: {done.stderr[-2000:]}")
        arrays = np.load(out)
        return len(train) * epochs / float(arrays["seconds"]), arrays["texts"], arrays["tests"]


def _quality(trained: Trained, train: list[Example], tested: list[Example], ids: list[str]) -> dict[str, float]:
    if not np.isfinite(trained[1]).all():
        return {"F1": float("nan"), "AUC": float("nan")}  # the loss was NaN, and so is the encoder
    # Calibration is not compared: it takes the training statements, alike for all.
    head = classifier.fit_joint((trained[1], train), (trained[1], train), ids, ClassifierSettings().joint_c)
    margin = head.margin(trained[2])
    unsafe = classifier.is_unsafe(tested)
    return {"F1": float(f1_score(unsafe, margin >= 0)), "AUC": float(roc_auc_score(unsafe, margin))}


def main() -> None:
    """Train each, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=".venv-peers/bin/python", help="of the environment with SetFit")
    parser.add_argument("--statements", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    pack = Pack.load(DEFAULT_PACK)
    recommendations = extract(pack)
    ids = [r.id for r in recommendations]
    examples, _ = corpus.load(pack.corpus, recommendations)
    by_id = {e.id: e for e in examples if e.recommendation is not None}
    split = corpus.split(examples, corpus.SplitSettings())
    train = [by_id[i] for i in split[Split.TRAIN] if i in by_id]
    families = list(dict.fromkeys(e.family for e in train))
    step = max(len(train) // arguments.statements, 1)
    chosen = set(families[::step])
    train = [e for e in train if e.family in chosen]
    tested = [by_id[i] for i in split[Split.TEST_OOD] if i in by_id]
    tests = [e.text for e in tested]
    labels = joint_classes(train, ids).tolist()
    shipped = replace(EncoderSettings(), epochs=arguments.epochs)
    alike = replace(
        shipped, learning_rate=RATE, contrastive_weight=1.0, cross_entropy_weight=0.0, warmup=0.1,
        edits_per_recommendation=0, batch_size=BATCH,
    )  # fmt: skip
    peers = {
        "SetFit (SupCon)": lambda: _peer("setfit", arguments.python, train, tests, labels, arguments.epochs),
        "SetFit (its default, pairs)": lambda: _peer(
            "setfit-pairs", arguments.python, train, tests, labels, arguments.epochs
        ),
        "sentence-transformers (batch-all triplets)": lambda: _peer(
            "sentence-transformers", arguments.python, train, tests, labels, arguments.epochs
        ),
        "Guardline (recommendation-aware SupCon, the same rate)": lambda: _guardline(
            train, tests, recommendations, alike
        ),
        "Guardline (as shipped)": lambda: _guardline(train, tests, recommendations, shipped),
    }
    rows: list[dict[str, object]] = []
    console = Console()
    for name, run in peers.items():
        with console.status(name):
            trained = run()
        rows.append(
            {"trainer": name, "statements": len(train), "epochs": arguments.epochs, "statements/s": trained[0]}
            | _quality(trained, train, tested, ids)
        )
        console.print(f"{name}: {trained[0]:.1f} statements/s")
    # SetFit's SupCon divides by the number of positives, which is 0 for some anchors of its random batches.
    for row in rows:
        row["times SetFit"] = float(row["statements/s"]) / float(rows[0]["statements/s"])  # type: ignore[arg-type]
    report("contrastive_peers", rows)


if __name__ == "__main__":
    main()
