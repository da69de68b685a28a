"""What the console makes of its settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.console.server import hosts_of, is_loopback, recommendations_of
from monitor.models.pointer import Alias, Choice, FilePointer
from monitor.settings import Settings
from tests.monitor.fakes import RECOMMENDATIONS, write_package


@pytest.mark.parametrize(
    ("host", "names", "found"),
    [
        ("127.0.0.1", None, ["127.0.0.1", "localhost"]),
        ("0.0.0.0", None, ["*"]),
        ("127.0.0.1", "review.example, localhost,", ["review.example", "localhost"]),
        ("0.0.0.0", "review.example", ["review.example"]),
    ],
)
def test_names_that_browsers_may_use(host: str, names: str | None, found: list[str]) -> None:
    assert hosts_of(Settings(console_host=host, console_hosts=names)) == found


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_recommendations_are_those_of_the_model_in_use(tmp_path: Path) -> None:
    other, champion = write_package(tmp_path / "other"), write_package(tmp_path / "champion")
    settings = Settings(model=other, models_file=tmp_path / "models.json")
    assert [r.id for r in await recommendations_of(settings)] == list(RECOMMENDATIONS)
    manifest = champion / "manifest.json"
    manifest.write_text(manifest.read_text().replace("About loading.", "About loading, newer."))
    choice = Choice(path=champion, name="tiny", version="2", at=datetime.now(UTC))
    await FilePointer(tmp_path / "models.json").move(Alias.CHAMPION, choice)
    assert "About loading, newer." in [r.text for r in await recommendations_of(settings)]
