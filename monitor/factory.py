"""Build the screening path from settings: which scorer, which store.

Separate from `app`, because `guardline check` takes this path without Kafka, Redis or Triton installed; the clients of
the latter two are therefore imported where they are chosen.
"""

from __future__ import annotations

from monitor.batching import BatchLimits
from monitor.encoding import Backend, TextEncoder
from monitor.fallback import FallbackBackend
from monitor.memory import MemoryStore
from monitor.onnx_scorer import OnnxBackend
from monitor.package import ModelPackage
from monitor.records import Thresholds
from monitor.screening import Scorer, Screening, VerdictStore
from monitor.settings import Settings


def build_scorer(settings: Settings, package: ModelPackage) -> Scorer:
    """Return the scorer that the settings ask for."""
    backend: Backend
    if settings.scorer == "triton":
        from monitor.triton import TritonBackend

        backend = TritonBackend(package, url=settings.triton_url, timeout=settings.triton_timeout)
        if settings.triton_fallback:
            backend = FallbackBackend(backend, OnnxBackend(package, threads=settings.onnx_threads))
    else:
        backend = OnnxBackend(package, threads=settings.onnx_threads)
    return TextEncoder(package, backend, limits=BatchLimits(max_tokens=settings.batch_tokens))


def build_store(settings: Settings) -> VerdictStore:
    """Return the store that the settings ask for."""
    if settings.store == "redis":
        from monitor.redis_store import RedisStore

        return RedisStore(settings.redis_url.get_secret_value(), expiry=settings.cache_expiry)
    return MemoryStore()


def build_thresholds(settings: Settings, package: ModelPackage) -> Thresholds:
    """Return the package's thresholds with the settings' in their place where given."""
    own = package.manifest.thresholds
    unsafe = own.unsafe if settings.threshold_unsafe is None else settings.threshold_unsafe
    review = own.review if settings.threshold_review is None else settings.threshold_review
    return Thresholds(unsafe=unsafe, review=min(review, unsafe), in_scope=own.in_scope)


def build_screening(settings: Settings, package: ModelPackage, store: VerdictStore) -> Screening:
    """Return the path from messages to verdicts."""
    return Screening(
        package,
        scorer=build_scorer(settings, package),
        store=store,
        thresholds=build_thresholds(settings, package),
    )
