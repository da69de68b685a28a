"""Checkpoints of a training: written whole or not at all, taken up only by the training that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write a checkpoint; `key` says which training it is of."""
    partial = path.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"key": key, **state}, partial)
    partial.replace(path)


def read(path: Path, key: str, where: torch.device) -> dict[str, Any] | None:
    """Return a checkpoint of this training; None where there is none, another's, or one that cannot be read.

    Training from the start is then right, only slower.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=where, weights_only=True)
    except Exception:
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
