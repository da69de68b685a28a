"""The environment that has LiteLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def plugins_python() -> Path:
    """Return its Python, or skip the test."""
    python = CHECKOUT / ".venv-plugins" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-plugins: `make test` makes it (tests/producers/requirements.txt)")
    return python
