"""Smaller vocabularies: half of a small encoder's weights are embeddings of words that its texts never use.

A WordPiece vocabulary without its rare words still reads every text: what is missing is spelt in shorter pieces
(Abdaoui, Pradel, Sigel, "Load What You Need", SustaiNLP 2020, arXiv:2010.05609).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from monitor.errors import ConfigurationError


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """Return how often each token occurs."""
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        counts.update(encoding.ids)
    return counts


def trim(model: PreTrainedModel, tokenizer: Tokenizer, keep: Iterable[int]) -> Tokenizer:
    """Leave the embeddings of `keep`, of special tokens and of single characters in the model; return its tokenizer.

    The model is changed in place.

    Raises:
        ConfigurationError: the tokenizer is not WordPiece, or the model has no table of words.
    """
    content = json.loads(tokenizer.to_str())
    if content["model"]["type"] != "WordPiece":
        raise ConfigurationError("only WordPiece vocabularies can be trimmed: leave this one whole")
    vocabulary: dict[str, int] = content["model"]["vocab"]
    special = {added["id"] for added in content["added_tokens"]}
    chosen = {*keep, *special}
    prefix = content["model"]["continuing_subword_prefix"]
    # Words made of letters that are not there as pieces would be unknown; of other scripts the common ones suffice.
    chosen |= {i for piece, i in vocabulary.items() if len(piece.removeprefix(prefix)) == 1 and ord(piece[-1]) < 0x370}
    order = sorted(chosen)
    new = {old: i for i, old in enumerate(order)}
    content["model"]["vocab"] = {piece: new[i] for piece, i in vocabulary.items() if i in new}
    for added in content["added_tokens"]:
        added["id"] = new[added["id"]]
    processor = content["post_processor"] or {}
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for side in ("sep", "cls"):  # the older BertProcessing names ids directly
        if isinstance(processor.get(side), list):
            processor[side][1] = new[processor[side][1]]
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ConfigurationError(f"{type(model).__name__} has no table of word embeddings to trim")
    trimmed = nn.Embedding(len(order), table.embedding_dim)
    trimmed.weight.data = table.weight.data[torch.tensor(order)].clone()
    trimmed.padding_idx = new.get(table.padding_idx) if table.padding_idx is not None else None
    model.set_input_embeddings(trimmed)
    model.config.vocab_size = len(order)
    if model.config.pad_token_id is not None:
        model.config.pad_token_id = new[model.config.pad_token_id]
    return Tokenizer.from_str(json.dumps(content))
