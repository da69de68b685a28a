"""A Kafka for laptops: librdkafka's mock cluster, in this process, on loopback.

It serves the demo and the tests; clients reach it over the ordinary wire protocol at
`EmbeddedBroker.bootstrap`. The cluster comes with the confluent-kafka wheel and is called through
ctypes, because the Python package exposes none of the functions that set partition counts or inject
faults.

What it is not. It keeps everything in memory and silently drops the oldest data past about 5 MB a
partition. It has no CreateTopics or DescribeConfigs request (topics are made here, in the
constructor or by `create_topic`), no SASL, no TLS, no ACLs. It rejects offset commits during a
rebalance, where Kafka takes them, and shows aborted transactions to read_committed readers. Passing
here says that the client logic holds; it does not say that Kafka agrees.
"""

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from monitor.errors import ConfigurationError

PRODUCER = 0  # rd_kafka_type_t: the handle that hosts the mock cluster is never used to produce
FIRST_REBALANCE_DELAY = 100  # milliseconds in which members of a new group gather; the default is 3 s

_HANDLE = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "rd_kafka_conf_new": (_HANDLE, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [_HANDLE, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_new": (_HANDLE, [ctypes.c_int, _HANDLE, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_HANDLE]),
    "rd_kafka_mock_cluster_new": (_HANDLE, [_HANDLE, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_HANDLE]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_HANDLE]),
    "rd_kafka_mock_topic_create": (
        ctypes.c_int,
        [_HANDLE, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    ),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_HANDLE, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, [_HANDLE, ctypes.c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_HANDLE, ctypes.c_int32]),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [_HANDLE, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
}


class EmbeddedBrokerUnavailable(ConfigurationError, ImportError):
    """No librdkafka with a mock cluster on this machine; the message says what to install."""


class ApiKey(IntEnum):
    """The Kafka requests worth failing in a test, by their number in the protocol."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22


class EmbeddedBroker:
    """One mock cluster, alive between `with` and its end. Topics are given as name and partition count."""

    def __init__(self, topics: Mapping[str, int] | None = None, brokers: int = 1) -> None:
        self._topics = dict(topics or {})
        self._brokers = brokers
        self._library: ctypes.CDLL | None = None
        self._client: int | None = None
        self._cluster: int | None = None

    def __enter__(self) -> Self:
        self._library = library = _load()
        self._client = _client(library)
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, self._brokers)
        if not self._cluster:
            self.__exit__(None, None, None)
            raise OSError("librdkafka could not open the mock cluster's ports on 127.0.0.1")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, FIRST_REBALANCE_DELAY)
        for name, partitions in self._topics.items():
            self.create_topic(name, partitions)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._library is not None and self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        if self._library is not None and self._client:
            self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    @property
    def bootstrap(self) -> str:
        """The comma-separated addresses that clients connect to."""
        library, cluster = self._running()
        return str(library.rd_kafka_mock_cluster_bootstraps(cluster).decode())

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic, replicated on up to three brokers."""
        library, cluster = self._running()
        replicas = min(self._brokers, 3)
        _check(
            library.rd_kafka_mock_topic_create(cluster, name.encode(), partitions, replicas),
            "create a topic",
        )

    def down(self, broker: int | None = None) -> None:
        """Cut connections and refuse new ones, for one broker (numbered from 1) or all. Data stays."""
        library, cluster = self._running()
        for number in self._numbers(broker):
            _check(library.rd_kafka_mock_broker_set_down(cluster, number), "take a broker down")

    def up(self, broker: int | None = None) -> None:
        """Answer again after `down`."""
        library, cluster = self._running()
        for number in self._numbers(broker):
            _check(library.rd_kafka_mock_broker_set_up(cluster, number), "bring a broker up")

    def inject_errors(self, api_key: int, code: int, count: int = 1) -> None:
        """Answer the next `count` requests of one kind (see `ApiKey`) with a Kafka error code."""
        library, cluster = self._running()
        codes = (ctypes.c_int * count)(*[code] * count)
        library.rd_kafka_mock_push_request_errors_array(cluster, api_key, count, codes)

    def _numbers(self, broker: int | None) -> range | list[int]:
        return range(1, self._brokers + 1) if broker is None else [broker]

    def _running(self) -> tuple[ctypes.CDLL, int]:
        if self._library is None or self._cluster is None:
            raise RuntimeError("the embedded broker runs only inside its `with` block")
        return self._library, self._cluster


def _check(code: int, action: str) -> None:
    if code:
        raise OSError(f"the mock cluster could not {action} (librdkafka error {code})")


def _client(library: ctypes.CDLL) -> int:
    reason = ctypes.create_string_buffer(512)
    conf = library.rd_kafka_conf_new()
    # Its own notices about mock connections would end up on stderr, between ours.
    library.rd_kafka_conf_set(conf, b"log_level", b"2", reason, len(reason))
    client = library.rd_kafka_new(PRODUCER, conf, reason, len(reason))
    if not client:
        raise OSError(f"librdkafka refused to start: {reason.value.decode()}")
    return int(client)


def _load() -> ctypes.CDLL:
    for path in _candidates():
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):  # not loadable here, or built without the mock cluster
            continue
        return library
    raise EmbeddedBrokerUnavailable(
        "The embedded broker needs librdkafka from the confluent-kafka wheel: pip install 'guardline[demo]'"
    )


def _candidates() -> Iterator[Path | str]:
    """The wheel's own library first (Linux keeps it beside the package, macOS inside), then the system's."""
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        yield from sorted(package.parent.glob("confluent_kafka.libs/librdkafka*"))
        yield from sorted(package.glob(".dylibs/librdkafka*.dylib"))
    if system := ctypes.util.find_library("rdkafka"):
        yield system
