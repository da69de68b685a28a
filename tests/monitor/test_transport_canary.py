"""Fails loudly when Faust or aiokafka changes what `monitor/transport.py` leans on.

A changed fingerprint is not a defect: read the new source, decide whether the transport's reasoning
still holds, run `test_transport.py` on both brokers, and write the new fingerprint here.
"""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faust.transport
import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState, TopicPartitionState
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Producer
from faust.transport.drivers.aiokafka import Consumer as DriverConsumer
from faust.types.tuples import ConsumerMessage, Message
from mode.threads import ServiceThread

# Each with what the transport takes for granted.
FINGERPRINTS: list[tuple[Callable[..., Any], str, str]] = [
    (
        Consumer._drain_messages,
        "44a2500309e83c63",
        "a read offset of None means neither gaps nor drops",
    ),
    (
        Consumer._wait_next_records,
        "6218e1969a636b3f",
        "getmany gets records and the active partitions",
    ),
    (Consumer.commit, "a354437baaa08bf8", "one commit at a time, through force_commit"),
    (Consumer.maybe_wait_for_commit_to_finish, "d687f63a0b5ef0c5", "waits for a commit under way"),
    (Consumer._commit_handler, "4e5da5df073082d6", "commits at the interval"),
    (Consumer.on_partitions_revoked, "d04b7ae72c6fc206", "calls the app's handler, which drains"),
    (Consumer.on_stop, "45b1d2210ce2b526", "a last wait_empty"),
    (Fetcher._fetcher, "68f894f0b577d810", "drives _drain_messages"),
    (
        App._on_partitions_revoked,
        "d5c895bbe57dc73a",
        "stops the flow and empties buffers before wait_empty",
    ),
    (App._on_rebalance_when_stopped, "1b172d9af8ff4eb6", "only calls consumer.close"),
    (
        App._stop_consumer,
        "55854a5de12c3f52",
        "stops the flow and empties buffers before wait_empty",
    ),
    (
        Recovery._resume_streams,
        "d986a6710c1aca98",
        "without tables: seek to committed, then resume",
    ),
    (Message.ack, "4751b72c4ed84153", "the last reference calls on_final_ack"),
    (ConsumerMessage.on_final_ack, "45d670b6a8ac4bd0", "calls consumer.ack"),
    (Producer._settings_extra, "a4c7bc41b6382223", "wins over the other producer settings"),
    (Producer._new_producer, "e72355c3430ed02f", "_settings_extra wins over the other settings"),
    (
        AIOKafkaConsumerThread._fetch_records,
        "39a2c6c79fc1455a",
        "records and position advance together",
    ),
    (DriverConsumer._new_consumer_thread, "0870ec53dea75083", "makes the thread from these arguments"),
    (
        ServiceThread.__init__,
        "82979878990cdff5",
        "leaves a loop that it was given open, unless told otherwise",
    ),
    (SubscriptionState.fetch_context, "ff2a654dca239cfe", "an empty one ends the time without a fetch"),
]
CYTHON = [
    (
        "../_cython/streams.pyx",
        "0041622f4a251188",
        "adds to _unacked_messages, skips old generations, acks nothing under noack",
    ),
    ("_cython/conductor.pyx", "dde1f974267881cf", "a full buffer blocks the fetcher"),
]
NAMES = [
    (AIOKafkaConsumer, ["commit", "assignment"]),
    (GroupCoordinator, ["check_errors", "_coordination_routine"]),
    (Assignment, ["state_value", "tps"]),
    (TopicPartitionState, ["has_valid_position", "position"]),
    (AIOKafkaConsumerThread, ["_ensure_consumer", "_consumer"]),
    (
        Consumer,
        [
            "on_buffer_full",
            "on_buffer_drop",
            "verify_event_path",
            "wait_empty",
            "force_commit",
            "close",
        ],
    ),
]


def fingerprint(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(("function", "expected", "reason"), FINGERPRINTS, ids=lambda v: getattr(v, "__qualname__", ""))
def test_faust_still_does_what_the_transport_takes_for_granted(
    function: Callable[..., Any], expected: str, reason: str
) -> None:
    name = getattr(function, "__qualname__", repr(function))
    found = fingerprint(inspect.getsource(inspect.unwrap(getattr(function, "fun", function))))
    assert found == expected, f"{name} changed; monitor/transport.py counts on: {reason}"


@pytest.mark.parametrize(("path", "expected", "reason"), CYTHON, ids=lambda v: v if v.endswith(".pyx") else "")
def test_the_compiled_parts_still_do(path: str, expected: str, reason: str) -> None:
    found = fingerprint((Path(faust.transport.__file__).parent / path).read_text())
    assert found == expected, f"{path} changed; monitor/transport.py counts on: {reason}"


@pytest.mark.parametrize(("owner", "names"), NAMES, ids=lambda v: getattr(v, "__name__", ""))
def test_the_names_exist(owner: type, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_instance_attributes_exist() -> None:
    sources = inspect.getsource(Consumer.__init__), inspect.getsource(AIOKafkaConsumer.__init__)
    assert "self._read_offset = " in sources[0]
    assert "self._unacked_messages = WeakSet()" in sources[0]
    assert "self._subscription = " in sources[1]
    assert "self._coordinator = " in inspect.getsource(AIOKafkaConsumer.start)
    assert "self._coordination_task = " in inspect.getsource(GroupCoordinator)
    assert "self._client = " in sources[1]
    assert "self.unauthorized_topics = " in inspect.getsource(ClusterMetadata)
    assert "self.highwater = " in inspect.getsource(TopicPartitionState.__init__)
