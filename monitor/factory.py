"""Build the screening path from settings: which backend, which store.

Separate from `app`, because `guardline check` takes this path without Kafka, Redis or Triton installed; the clients of
the latter two are therefore imported where they are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitor.assessment import Assessment, Scorer, Verifier
from monitor.batching import BatchLimits
from monitor.encoding import PairVerifier, TextEncoder
from monitor.fallback import FallbackBackend
from monitor.memory import MemoryStore
from monitor.microbatching import Backend
from monitor.onnx_scorer import OnnxBackend
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec
from monitor.records import Thresholds
from monitor.screening import Screening, VerdictStore
from monitor.settings import Settings

if TYPE_CHECKING:
    from monitor.models.pointer import ModelPointer  # which needs Redis' client
    from monitor.publisher import KafkaPublisher  # which needs Kafka's


def build_backend(settings: Settings, package: ModelPackage, spec: EncoderSpec | VerifierSpec) -> Backend:
    """Return what runs one graph of the package."""
    if settings.scorer != "triton":
        return OnnxBackend(package, spec, threads=settings.onnx_threads)
    from monitor.connections.triton import triton_tls
    from monitor.triton import TritonBackend

    backend: Backend = TritonBackend(
        package, spec, url=settings.triton_url, tls=triton_tls(settings), timeout=settings.triton_timeout
    )
    if settings.triton_fallback:
        backend = FallbackBackend(backend, OnnxBackend(package, spec, threads=settings.onnx_threads))
    return backend


def build_limits(settings: Settings) -> BatchLimits:
    """Return how batches come about."""
    return BatchLimits(
        max_tokens=settings.batch_tokens,
        window=settings.batch_window,
        wait=settings.batch_wait,
        in_flight=settings.batches_in_flight,
    )


def build_scorer(settings: Settings, package: ModelPackage) -> Scorer:
    """Return the encoder that the settings ask for."""
    backend = build_backend(settings, package, package.manifest.encoder)
    return TextEncoder(package, backend, limits=build_limits(settings))


def build_verifier(settings: Settings, package: ModelPackage) -> Verifier | None:
    """Return the verifier, where the package has one and the settings want it."""
    spec = package.manifest.verifier
    if spec is None or not settings.verify:
        return None
    backend = build_backend(settings, package, spec)
    return PairVerifier(package, backend, limits=build_limits(settings))


def build_assessment(settings: Settings, package: ModelPackage) -> Assessment:
    """Return the path from statements to scores."""
    return Assessment(package.manifest, build_scorer(settings, package), build_verifier(settings, package))


def build_store(settings: Settings) -> VerdictStore:
    """Return the store that the settings ask for."""
    if settings.store == "redis":
        from monitor.connections.redis import redis_client
        from monitor.redis_store import RedisStore

        return RedisStore(redis_client(settings), expiry=settings.cache_expiry)
    return MemoryStore()


def build_publisher(settings: Settings) -> KafkaPublisher:
    """Return what publishes to the brokers of the settings.

    Raises:
        ConfigurationError: a credential that they ask for is not set, or a certificate cannot be read.
    """
    from monitor.connections.kafka import security_options
    from monitor.publisher import KafkaPublisher

    return KafkaPublisher(
        settings.kafka_bootstrap,
        security=security_options(settings),
        timeout=settings.publish_timeout,
        max_bytes=settings.publish_max_bytes,
    )


def build_pointer(settings: Settings) -> ModelPointer | None:
    """Return what says which model is in use; none where the model never changes."""
    from monitor.models.pointer import FilePointer, RedisPointer

    if settings.models_file is not None:
        return FilePointer(settings.models_file)
    if settings.store == "redis":
        from monitor.connections.redis import redis_client

        return RedisPointer(redis_client(settings))
    return None


def build_thresholds(settings: Settings, package: ModelPackage) -> Thresholds:
    """Return the package's thresholds with the settings' in their place where given."""
    own = package.thresholds(verified=settings.verify)
    unsafe = own.unsafe if settings.threshold_unsafe is None else settings.threshold_unsafe
    review = own.review if settings.threshold_review is None else settings.threshold_review
    return Thresholds(unsafe=unsafe, review=min(review, unsafe), in_scope=own.in_scope)


def build_screening(settings: Settings, package: ModelPackage, store: VerdictStore) -> Screening:
    """Return the path from messages to verdicts."""
    return Screening(
        package,
        assessment=build_assessment(settings, package),
        store=store,
        thresholds=build_thresholds(settings, package),
    )
