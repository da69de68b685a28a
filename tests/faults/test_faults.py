"""A short selection of faults on both brokers, as `python -m tests.faults` runs all of them."""

from __future__ import annotations

import asyncio
import shutil
from functools import cache

import pytest

from monitor.embedded_broker import EmbeddedBroker, EmbeddedBrokerUnavailable
from tests.faults.__main__ import table, verdict
from tests.faults.brokers import kafka_home
from tests.faults.catalogue import FAULTS, SHORT
from tests.faults.run import Row
from tests.fixtures_kafka import NO_KAFKA

pytestmark = pytest.mark.connected
#: The one that the negative control runs, too, and those that end a worker, a broker and a message in the usual ways.
NAMES = ("exception in the agent", "kill -9, again and again", "SIGTERM", "broker down", "poison messages")
SELECTION = [fault for fault in FAULTS if fault.name in NAMES]
BROKERS = ("kafka", "mock")


@cache
def _missing(broker: str) -> str | None:
    """What this machine lacks for a broker; none if nothing."""
    if broker == "kafka":
        return None if kafka_home() and shutil.which("java") else NO_KAFKA
    try:
        with EmbeddedBroker():
            return None
    except EmbeddedBrokerUnavailable as error:
        return str(error)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The table: both brokers side by side, because most of the time is spent waiting."""
    brokers = [broker for broker in BROKERS if _missing(broker) is None]
    return asyncio.run(table(brokers, SELECTION, tmp_path_factory.mktemp("faults"), SHORT))


def _row(rows: list[Row], pipeline: str, fault: str, broker: str) -> Row:
    if reason := _missing(broker):
        pytest.skip(reason)
    return next(row for row in rows if (row.pipeline, row.fault, row.broker) == (pipeline, fault, broker))


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("fault", NAMES)
def test_nothing_is_lost_under(fault: str, broker: str, rows: list[Row]) -> None:
    row = _row(rows, "guardline", fault, broker)
    assert row.problems == ""
    assert (row.lost, row.unfinished) == (0, 0)
    assert row.inputs > row.bound


@pytest.mark.parametrize("broker", BROKERS)
def test_the_same_harness_reports_that_stock_take_loses(broker: str, rows: list[Row]) -> None:
    row = _row(rows, "stock", "exception in the agent", broker)
    assert row.lost > 0
    assert "lost" in row.problems


def test_a_control_that_loses_nothing_condemns_the_table(rows: list[Row]) -> None:
    assert verdict(rows) == []
    assert "proves nothing" in " ".join(verdict([replace_lost(row) for row in rows]))


def replace_lost(row: Row) -> Row:
    return Row(**row.as_dict() | {"lost": 0})  # type: ignore[arg-type]
