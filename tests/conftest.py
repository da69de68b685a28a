"""Services and the model that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog

pytest_plugins = ["tests.fixtures_kafka", "tests.fixtures_services", "tests.fixtures_model", "tests.fixtures_secured"]


@pytest.fixture(scope="session", autouse=True)
def loggers_follow_the_configuration() -> Iterator[None]:
    """Keep a command that runs in this process from settling its loggers for good: `capture_logs` would miss them."""
    configure = structlog.configure

    def without_cache(*arguments: Any, **options: Any) -> None:
        configure(*arguments, **options | {"cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", without_cache)
        yield
