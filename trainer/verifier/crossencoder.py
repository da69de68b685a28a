"""Verifiers: loading any by name or path, reading pairs, saving.

A verifier reads recommendation and statement as one sequence and gives logits of the three relations. Two kinds:

*Cross-encoder.* A sequence classifier in which every token of the one text attends to every token of the other, such as
a natural-language-inference model, whose head already knows entailment and contradiction. It needs a start that has
learnt from hundreds of thousands of pairs: from a plain encoder it does not begin to learn meaning on ten thousand.

*Aligned comparison.* For a start from a plain (sentence) encoder: each text is encoded by itself, every token is put
beside what the other text says of it (soft alignment by cosine), the two are compared, and the comparisons are pooled
(Parikh et al., "A Decomposable Attention Model", EMNLP 2016, arXiv:1606.01933; Chen et al., ESIM, ACL 2017,
arXiv:1609.06038). What a sentence encoder knows of synonyms is what makes the alignment, so it learns from little. Word
embeddings are compared beside contextual ones: a number is another number whatever surrounds it.

What is saved loads again here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from monitor.errors import ConfigurationError
from trainer.artifacts import fresh_folder
from trainer.model.encoder import SubBatch, device, from_hub, grouped_by_length, half_is_faster, source_of
from trainer.verifier.pairs import RELATIONS, Relation

Floats = NDArray[np.float32]
#: Tokens of a pair; of what is longer the longer text loses its end. Statements come in windows, so few are.
MAX_LENGTH = 256
_SUB_BATCH = 16
#: Width of a comparison.
_COMPARED = 192
#: The weights of an aligned comparison, in the folder of its transformer.
COMPARISON = "comparison.safetensors"
#: One behind each of the two texts.
_SEPARATORS = 2
#: How NLI models call the relations, by the beginning of the label's name.
_NAMES = {"entail": Relation.CONSISTENT, "contra": Relation.CONTRADICTS, "neutral": Relation.NEUTRAL}


class PairEncoder(nn.Module):
    """Token ids of a pair in, logits out. `model` is the transformer; `separator` ends each of the two texts."""

    def __init__(self, model: PreTrainedModel, separator: int) -> None:
        super().__init__()
        self.model = model
        self.separator = separator

    def segments(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the segment of each token (0: recommendation, 1: statement) and where separators are, int64 [b, t].

        They follow from the separator, so that a server needs ids and mask only.
        """
        ends = (input_ids == self.separator).long()
        return (ends.cumsum(1) - ends).clamp(max=1) * attention_mask, ends

    def retokenised(self, tokenizer: Tokenizer) -> None:
        """Take the ids of special tokens from another tokenizer: that of a trimmed vocabulary."""
        old = self.separator
        self.separator = int(tokenizer.token_to_id("[SEP]") or old)

    def head(self) -> list[nn.Parameter]:
        """Return the parameters that are new, or learn faster than the transformer."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write configuration and weights into a folder."""
        self.model.save_pretrained(path)


class CrossEncoder(PairEncoder):
    """A sequence classifier over the three relations."""

    def __init__(self, model: PreTrainedModel, separator: int) -> None:
        super().__init__(model, separator)
        self._typed = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return fp32 [batch, 3], in the order of `RELATIONS`, for int64 [batch, tokens] twice."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._typed:
            inputs["token_type_ids"] = self.segments(input_ids, attention_mask)[0]
        return self.model(**inputs).logits.float()  # type: ignore[no-any-return]

    def head(self) -> list[nn.Parameter]:
        """Return classifier and pooler."""
        return [p for name, p in self.model.named_parameters() if "classifier" in name or "pooler" in name]


class AlignedComparison(PairEncoder):
    """An encoder, soft alignment between the two texts, and a comparison of what was aligned.

    BERT models encode each text by itself: attention is cut between the two and positions start anew. Others read the
    two together.
    """

    def __init__(self, model: PreTrainedModel, separator: int, special: Sequence[int]) -> None:
        super().__init__(model, separator)
        width = int(model.config.hidden_size)
        self._apart = model.config.model_type == "bert"
        self.special: Tensor
        self.register_buffer("special", torch.tensor(sorted(special)), persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # log of what cosines are multiplied by
        self.compare = nn.Sequential(
            nn.Linear(6 * width, _COMPARED), nn.GELU(), nn.Linear(_COMPARED, _COMPARED), nn.GELU()
        )
        self.classifier = nn.Sequential(
            nn.Linear(4 * _COMPARED, _COMPARED), nn.GELU(), nn.Linear(_COMPARED, len(RELATIONS))
        )

    def retokenised(self, tokenizer: Tokenizer) -> None:
        """Take the ids of special tokens from another tokenizer: that of a trimmed vocabulary."""
        super().retokenised(tokenizer)
        self.special = torch.tensor(special_ids(tokenizer), device=self.special.device)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor, ends: Tensor) -> Tensor:
        if not self._apart:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # type: ignore[no-any-return]
        real = attention_mask > 0
        same = (segments[:, :, None] == segments[:, None, :]) & real[:, :, None] & real[:, None, :]
        bias = torch.zeros(same.shape, dtype=torch.float32, device=same.device).masked_fill(~same, -1e4)[:, None]
        first_end = ends.argmax(dim=1, keepdim=True)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None] - segments * (first_end + 1)
        return self.model(  # type: ignore[no-any-return]
            input_ids=input_ids, attention_mask=bias, position_ids=places.clamp(min=0)
        ).last_hidden_state

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return fp32 [batch, 3], in the order of `RELATIONS`, for int64 [batch, tokens] twice."""
        segments, ends = self.segments(input_ids, attention_mask)
        hidden = self._encode(input_ids, attention_mask, segments, ends).float()
        words = self.model.get_input_embeddings()(input_ids).float()
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        words = nn.functional.layer_norm(words, words.shape[-1:])
        text = (attention_mask > 0) & ~torch.eq(input_ids[:, :, None], self.special).any(dim=2)
        premise, hypothesis = text & (segments == 0), text & (segments == 1)
        unit = nn.functional.normalize(hidden, dim=-1)
        cosine = (unit @ unit.transpose(1, 2)) * self.sharpness.exp()

        def side(own: Tensor, other: Tensor) -> Tensor:
            """Return the pooled comparison of the tokens of one text with the other text, fp32 [batch, 2 compared]."""
            aligned = cosine.masked_fill(~other[:, None, :], -1e4).softmax(dim=-1)
            meant, written = aligned @ hidden, aligned @ words
            compared = self.compare(
                torch.cat([hidden, meant, hidden - meant, hidden * meant, words - written, words * written], dim=-1)
            ).float()
            here = own[:, :, None]
            mean = (compared * here).sum(dim=1) / here.sum(dim=1).clamp(min=1)
            return torch.cat([mean, compared.masked_fill(~here, -1e4).amax(dim=1)], dim=-1)

        pooled = torch.cat([side(hypothesis, premise), side(premise, hypothesis)], dim=-1)
        return self.classifier(pooled).float()  # type: ignore[no-any-return]

    def head(self) -> list[nn.Parameter]:
        """Return all that is not the transformer."""
        return [p for name, p in self.named_parameters() if not name.startswith("model.")]

    def comparison(self) -> dict[str, Tensor]:
        """Return the weights of the comparison, without the transformer's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}

    def save(self, path: Path) -> None:
        """Write configuration and weights into a folder."""
        super().save(path)
        save_file({name: value.contiguous() for name, value in self.comparison().items()}, path / COMPARISON)


def _last_linear(model: PreTrainedModel, outputs: int) -> tuple[nn.Module, str, nn.Linear]:
    """Return (parent, name, layer) of the layer that gives the logits."""
    found = None
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == outputs:
            found = path, module
    if found is None:
        raise ConfigurationError(f"{type(model).__name__} has no linear layer with {outputs} outputs to classify by")
    parent, _, name = found[0].rpartition(".")
    return model.get_submodule(parent), name, found[1]


def _with_relations(model: PreTrainedModel) -> PreTrainedModel:
    """Give the head the three relations in their order, keeping what it knows of them."""
    names = model.config.id2label or {}
    labels = [str(name).lower() for _, name in sorted((int(i), name) for i, name in names.items())]
    if labels == list(RELATIONS):
        return model
    parent, name, old = _last_linear(model, len(labels))
    new = nn.Linear(old.in_features, len(RELATIONS))
    nn.init.normal_(new.weight, std=0.02)
    nn.init.zeros_(new.bias)
    rows = {own: i for i, label in enumerate(labels) for start, own in _NAMES.items() if label.startswith(start)}
    if rows.keys() == {Relation.CONSISTENT}:
        # Two classes: what is not entailed may contradict or be about something else.
        other = 1 - rows[Relation.CONSISTENT]
        rows |= {Relation.CONTRADICTS: other, Relation.NEUTRAL: other}
    with torch.no_grad():
        for own, row in rows.items():
            new.weight[RELATIONS.index(own)] = old.weight[row]
            new.bias[RELATIONS.index(own)] = old.bias[row]
    setattr(parent, name, new)
    model.config.id2label = {i: str(own) for i, own in enumerate(RELATIONS)}
    model.config.label2id = {str(own): i for i, own in enumerate(RELATIONS)}
    setattr(model, "num_labels", len(RELATIONS))  # noqa: B010 (transformers types it as a submodule)
    return model


def load(base: str) -> tuple[PairEncoder, Tokenizer]:
    """Load a verifier and its tokenizer by name or path: one saved here, a cross-encoder, or an encoder to start from.

    Raises:
        ConfigurationError: neither the hub nor the disk has it, or it has no fast tokenizer.
    """
    what = f"verifier {base!r}"
    try:
        config = AutoConfig.from_pretrained(source_of(base))
        crossed = any("SequenceClassification" in name for name in config.architectures or ())
    except (OSError, ValueError):
        crossed = False  # loading says why
    kind = AutoModelForSequenceClassification if crossed else AutoModel
    model, tokenizer = from_hub(base, kind, what, "or leave it out for the start that ships with guardline")
    fast = tokenizer.backend_tokenizer
    separator = tokenizer.sep_token_id
    if separator is None or fast.encode("a", "b").ids.count(separator) < _SEPARATORS:
        raise ConfigurationError(f"{what}: its tokenizer puts no separator between two texts, so pairs cannot be read")
    if crossed:
        return CrossEncoder(_with_relations(model), int(separator)), fast
    encoder = AlignedComparison(model, int(separator), special_ids(fast))
    comparison = Path(source_of(base)) / COMPARISON
    if comparison.exists():
        encoder.load_state_dict(load_file(comparison), strict=False)
    return encoder, fast


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of tokens that stand for no text."""
    return sorted(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)


class PairReader:
    """Scores pairs with length-grouped sub-batches; differentiable."""

    def __init__(
        self, encoder: PairEncoder, tokenizer: Tokenizer, *, max_length: int = MAX_LENGTH, sub_batch: int = _SUB_BATCH
    ) -> None:
        self.encoder = encoder.to(device())
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(max_length, strategy="longest_first")
        self.max_length = max_length
        self._sub_batch = sub_batch
        self._where = device()
        self._half = half_is_faster(self._where)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._where

    def plan(self, pairs: Sequence[tuple[str, str]]) -> list[SubBatch]:
        """Tokenize (premise, hypothesis) pairs and group them by length."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(pairs))]
        return grouped_by_length(rows, self._sub_batch, self._where)

    def encode(self, part: SubBatch) -> Tensor:
        """Return fp32 [rows, 3] of one sub-batch; differentiable."""
        with torch.autocast(self._where.type, dtype=torch.bfloat16, enabled=self._half):
            return self.encoder(part.input_ids, part.attention_mask)  # type: ignore[no-any-return]

    def logits(self, pairs: Sequence[tuple[str, str]], advance: Callable[[int], None] = lambda _: None) -> Floats:
        """Return logits without gradients, fp32 [n, 3]; `advance` is told how many are done."""
        self.encoder.eval()
        result = np.zeros((len(pairs), len(RELATIONS)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(pairs), 512):
                chunk = pairs[start : start + 512]
                for part in self.plan(chunk):
                    result[[start + i for i in part.rows]] = self.encode(part).float().cpu().numpy()
                advance(len(chunk))
        return result

    def probabilities(
        self, pairs: Sequence[tuple[str, str]], advance: Callable[[int], None] = lambda _: None
    ) -> Floats:
        """Return the probabilities of the relations, fp32 [n, 3]."""
        logits = self.logits(pairs, advance)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def save(reader: PairReader, path: Path) -> None:
    """Save model and tokenizer as transformers reads them."""
    fresh_folder(path)
    reader.encoder.save(path)
    reader.tokenizer.no_truncation()
    reader.tokenizer.save(str(path / "tokenizer.json"))
    reader.tokenizer.enable_truncation(reader.max_length, strategy="longest_first")
