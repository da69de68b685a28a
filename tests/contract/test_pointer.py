"""One port, two sides: which model is in use, in a file and in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.connections.redis import redis_client
from monitor.errors import ConfigurationError, StoreUnavailable
from monitor.models.pointer import Alias, Choice, FilePointer, ModelPointer, RedisPointer
from monitor.settings import Settings
from tests.fixtures_services import LocalRedis


@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.connected)])
async def pointer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ModelPointer]:
    if request.param == "file":
        yield FilePointer(tmp_path / "models" / "active.json")
        return
    own = RedisPointer(redis_client(Settings(redis_url=request.getfixturevalue("redis_server").url)))
    yield own
    await own.close()


def choice(version: str) -> Choice:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return Choice(path=Path("/models") / version, name="covid", version=version, at=at, why="a test")


async def test_nothing_is_chosen_at_first(pointer: ModelPointer) -> None:
    assert list(await pointer.history(Alias.CHAMPION)) == []


async def test_the_latest_choice_comes_first_and_aliases_are_apart(pointer: ModelPointer) -> None:
    for version in "abc":
        await pointer.move(Alias.CHAMPION, choice(version))
    await pointer.move(Alias.CHALLENGER, choice("d"))
    assert list(await pointer.history(Alias.CHAMPION)) == [choice("c"), choice("b"), choice("a")]
    assert list(await pointer.history(Alias.CHALLENGER)) == [choice("d")]


async def test_a_cleared_alias_stands_for_nothing(pointer: ModelPointer) -> None:
    await pointer.clear(Alias.CHALLENGER)
    await pointer.move(Alias.CHALLENGER, choice("a"))
    await pointer.clear(Alias.CHALLENGER)
    assert list(await pointer.history(Alias.CHALLENGER)) == []


async def test_only_so_many_choices_are_kept(pointer: ModelPointer) -> None:
    for i in range(60):
        await pointer.move(Alias.CHAMPION, choice(f"v{i}"))
    history = await pointer.history(Alias.CHAMPION)
    assert [len(history), history[0].version, history[-1].version] == [50, "v59", "v10"]


async def test_a_file_that_is_no_pointer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "active.json").write_text("[]")
    with pytest.raises(ConfigurationError, match="guardline promote"):
        await FilePointer(tmp_path / "active.json").history(Alias.CHAMPION)


@pytest.mark.connected
async def test_a_redis_that_is_away_is_a_store_unavailable(redis_server: LocalRedis) -> None:
    pointer = RedisPointer(redis_client(Settings(redis_url=redis_server.url)))
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        await pointer.history(Alias.CHAMPION)
    await pointer.close()
