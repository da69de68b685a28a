"""The reference pages say what the code says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REFERENCE = Path(__file__).parents[2] / "docs/reference"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["settings.md", "cli.md", "metrics.md", "python.md"])
def test_a_page_is_what_the_code_says(generate: ModuleType, page: str) -> None:
    written = (REFERENCE / page).read_text(encoding="utf-8")
    assert written == generate.PAGES[page](), f"docs/reference/{page} is stale: make reference"


def test_no_path_of_a_machine_and_no_secret_stands_there(generate: ModuleType) -> None:
    text = "".join(page() for page in generate.PAGES.values())
    assert str(Path.home()) not in text
    assert str(REFERENCE.parents[1]) not in text
