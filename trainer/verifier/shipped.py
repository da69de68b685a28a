"""The start that ships: a general verifier, so that nobody pre-trains twice.

`trainer/data/verifier/` holds what `guardline train verifier --pretrain` made: configuration, tokenizer, and the
weights with eight bits each, symmetric around zero with one scale a row (Jacob et al., CVPR 2018, arXiv:1712.05877).
They are spread to fp32 when read, so training goes on from them as from any model.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel

from monitor.errors import ConfigurationError
from trainer.verifier.crossencoder import AlignedComparison, PairEncoder, PairReader, special_ids

FOLDER = Path(__file__).parents[1] / "data" / "verifier"
WEIGHTS = "model.int8.safetensors"
_SCALE = ".scale"


def quantise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return matrices as int8 with an fp32 scale a row beside each; vectors stay as they are, in fp32."""
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.ndim != 2 or not value.is_floating_point():
            result[name] = value.contiguous()
            continue
        scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        result[name] = (value / scale).round().clamp(-127, 127).to(torch.int8)
        result[name + _SCALE] = scale
    return result


def dequantise(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return fp32 weights of what `quantise` gave."""
    return {
        name: value.float() * stored[name + _SCALE] if name + _SCALE in stored else value
        for name, value in stored.items()
        if not name.endswith(_SCALE)
    }


def save(reader: PairReader, folder: Path = FOLDER) -> None:
    """Write a verifier with eight bits a weight."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = reader.encoder
    save_file(quantise({k: v.detach().cpu() for k, v in encoder.state_dict().items()}), folder / WEIGHTS)
    config = encoder.model.config.to_diff_dict()
    config["architectures"] = [type(encoder.model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    reader.tokenizer.no_truncation()
    reader.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def load(folder: Path = FOLDER) -> tuple[PairEncoder, Tokenizer]:
    """Load it in fp32.

    Raises:
        ConfigurationError: it is not there.
    """
    if not (folder / WEIGHTS).exists():
        raise ConfigurationError(
            f"{folder}: no verifier to start from: name one with --verifier, or make this one with "
            "`guardline train verifier --pretrain`"
        )
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder = AlignedComparison(model, int(tokenizer.token_to_id("[SEP]") or 0), special_ids(tokenizer))
    encoder.load_state_dict(dequantise(load_file(folder / WEIGHTS)))
    return encoder, tokenizer
