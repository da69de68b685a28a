"""Promote a package, or go back to the one before: load, check, and only then move the pointer.

With Triton the package's graphs are put beside those that are served and loaded there first. Whatever fails, the
pointer stays where it was and the model in use serves on; graphs that Triton refused are taken out again.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
from tritonclient.utils import InferenceServerException

from monitor.connections.triton import triton_client, triton_tls
from monitor.errors import ConfigurationError, GuardlineError, ModelMismatch, ScorerUnavailable
from monitor.factory import build_publisher, build_screening
from monitor.memory import MemoryStore
from monitor.models.canaries import require
from monitor.models.pointer import Alias, Choice, ModelPointer
from monitor.models.switch import incompatible
from monitor.models.triton_repository import install, withdraw
from monitor.package import MANIFEST, EncoderSpec, ModelPackage, VerifierSpec, sha256_file
from monitor.settings import Settings

Say = Callable[[str], None]
#: Seconds that Triton may take to load one graph, its warm-up included.
_LOAD_TIMEOUT = 300.0


def specs(package: ModelPackage, settings: Settings) -> list[EncoderSpec | VerifierSpec]:
    """Return the graphs that the settings will use."""
    verifier = package.manifest.verifier
    return [package.manifest.encoder, *([verifier] if verifier is not None and settings.verify else [])]


async def _load(settings: Settings, model: str) -> None:
    """Let Triton load a model again, with the versions that its configuration names.

    Raises:
        ScorerUnavailable: Triton does not answer.
        ModelMismatch: it cannot load that model.
    """
    url = settings.triton_url
    client = triton_client(url, triton_tls(settings))
    try:
        async with asyncio.timeout(_LOAD_TIMEOUT):
            await client.load_model(model, client_timeout=_LOAD_TIMEOUT)
    except (TimeoutError, grpc.RpcError) as error:
        raise ScorerUnavailable(f"Triton at {url} does not answer: {error}") from error
    except InferenceServerException as error:
        if str(error.status()) in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
            raise ScorerUnavailable(f"Triton at {url} does not answer: {error.message()}") from error
        raise ModelMismatch(f"Triton at {url} does not load `{model}`: {error.message()}") from error
    finally:
        await client.close()


async def load_into_triton(package: ModelPackage, settings: Settings, say: Say) -> None:
    """Serve a package's graphs beside the others; without a repository Triton is taken to serve them already.

    Raises:
        ConfigurationError: the repository cannot be written.
        ScorerUnavailable: Triton does not answer.
        ModelMismatch: it refuses a graph; what was served before still is.
    """
    repository = settings.triton_repository
    if repository is None:
        say(f"GUARDLINE_TRITON_REPOSITORY is not set: Triton at {settings.triton_url} must serve this package already")
        return
    for spec in specs(package, settings):
        number = await asyncio.to_thread(install, package, spec, repository)
        try:
            await _load(settings, spec.model)
        except ModelMismatch:
            await asyncio.to_thread(withdraw, spec, number, repository)
            await _load(settings, spec.model)
            raise
        say(f"Triton serves {spec.model} {number}")


async def verify(package: ModelPackage, settings: Settings) -> int:
    """Let the package decide its canaries where it would serve; return how many there are.

    Raises:
        ModelMismatch: some are decided otherwise than when it was exported, or the server has other weights.
        ScorerUnavailable: the server does not answer.
    """
    screening = build_screening(settings, package, MemoryStore())
    try:
        await require(screening, package)
    finally:
        await screening.close()
    return len(package.manifest.canaries)


def _choice(package: ModelPackage, why: str) -> Choice:
    own = package.reference
    return Choice(
        path=package.path.resolve(), name=own.name, version=own.version, at=datetime.now(UTC).replace(microsecond=0),
        why=why,
    )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


async def _note(kind: str, alias: Alias, choice: Choice, settings: Settings) -> None:
    """Tell the audit log, where the settings say so, before the pointer moves.

    Raises:
        GuardlineError: the broker did not take it in time (fails closed).
    """
    if not settings.audit_actions:
        return
    from monitor.audit.trail import PublishedTrail  # which needs Kafka's client

    publisher = build_publisher(settings)
    trail = PublishedTrail(publisher, settings.topic_audit_events, source="guardline/models")
    details = {"alias": alias.value, "sha256": sha256_file(choice.path / MANIFEST), "why": choice.why[:200]}
    try:
        async with asyncio.timeout(settings.publish_timeout):
            await trail.record(kind, actor=_user(), subject=choice.model, details=details)
    except TimeoutError as error:
        raise GuardlineError(
            f"Kafka did not take the entry for the audit log in {settings.publish_timeout:.0f} s, so no model changed: "
            "bring it back, or set GUARDLINE_AUDIT_ACTIONS=false"
        ) from error
    finally:
        await publisher.close()


async def promote(
    path: Path,
    alias: Alias,
    pointer: ModelPointer,
    settings: Settings,
    *,
    why: str,
    say: Say,
    kind: str = "promotion",
) -> ModelPackage:
    """Let an alias stand for the package at `path`; `kind` is what the audit log calls that.

    Raises:
        ConfigurationError: there is no package, or a setting is missing.
        GuardlineError: the audit log is to be told, and cannot be.
        ModelMismatch: the package is not whole, is for another guideline, or fails its canaries.
        ScorerUnavailable, StoreUnavailable: Triton or the pointer's store does not answer.
    """
    package = ModelPackage.load(path)
    history = await pointer.history(Alias.CHAMPION)
    current = ModelPackage.load(history[0].path if history else settings.model)
    if (reason := incompatible(current.manifest, package.manifest)) is not None:
        raise ModelMismatch(f"{path}: {reason}")
    if settings.scorer == "triton":
        await load_into_triton(package, settings, say)
    count = await verify(package, settings)
    say(f"{count} canaries decided as at export" if count else "the package carries no canaries: not checked by any")
    choice = _choice(package, why)
    await _note(kind, alias, choice, settings)
    if alias is Alias.CHAMPION and not history:
        await pointer.move(alias, _choice(current, "in use before the first promotion"))
    await pointer.move(alias, choice)
    return package


async def rollback(pointer: ModelPointer, settings: Settings, *, why: str, say: Say) -> ModelPackage:
    """Let the champion be the package that it was before; twice goes back and forth.

    Raises:
        ConfigurationError: there is none before, or it is gone.
        ModelMismatch, ScorerUnavailable, StoreUnavailable: as for `promote`.
    """
    history = await pointer.history(Alias.CHAMPION)
    before = next((c for c in history[1:] if c.model != history[0].model), None)
    if before is None:
        raise ConfigurationError("there is no champion before this one: `guardline models` shows what was promoted")
    return await promote(before.path, Alias.CHAMPION, pointer, settings, why=why, say=say, kind="rollback")
