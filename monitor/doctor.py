"""`guardline doctor`: what is installed, which services answer, which model is active.

Checks what the settings ask for and nothing else: Redis only when it is the store, Triton only when it is the scorer.
Whatever is wrong is said in one line that ends with what to do. Of Triton that is: no server, a model that is not
loaded, other weights than the package's, a model that does not compute.
"""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import click
import numpy as np
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.errors import ConfigurationError, GuardlineError, ModelMismatch, ScorerUnavailable
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec
from monitor.settings import Settings, load_settings

_TIMEOUT = 3.0
#: Seconds for all that Kafka is asked: a refusal is asked for twice.
_KAFKA_TIMEOUT = 10.0
#: Seconds for all that Triton is asked, a first inference among them.
_TRITON_TIMEOUT = 15.0
_EXTRAS = {
    "monitor": ("faust-streaming", "aiokafka", "tritonclient", "redis", "uvloop"),
    "trainer": ("torch", "transformers", "scikit-learn", "onnx"),
    "demo": ("confluent-kafka",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `needed` findings that are not `ok` make the command exit with 1."""

    what: str
    ok: bool
    detail: str
    needed: bool = True


def _installed(extra: str, distributions: tuple[str, ...]) -> Finding:
    found, missing = [], []
    for name in distributions:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    detail = ", ".join(found) if not missing else f"missing {', '.join(missing)}: pip install 'guardline[{extra}]'"
    return Finding(f"extra {extra}", not missing, detail, needed=False)


def _package(settings: Settings) -> ModelPackage | GuardlineError:
    """Return the package, or why it cannot be used."""
    try:
        return ModelPackage.load(settings.model)
    except (ConfigurationError, ModelMismatch) as error:
        return error


def _model(settings: Settings, package: ModelPackage | GuardlineError) -> Finding:
    if isinstance(package, GuardlineError):
        return Finding("model", False, f"{package} (GUARDLINE_MODEL names the package)")
    manifest = package.manifest
    verifier = (
        "no verifier" if manifest.verifier is None else "verifier" if settings.verify else "verifier switched off"
    )
    return Finding(
        "model",
        True,
        f"{manifest.name} {manifest.version}, guideline version {manifest.guideline.version}, "
        f"{len(manifest.recommendations)} recommendations, {verifier}, in {package.path}",
    )


async def _answers(
    what: str, where: str, probe: Callable[[], Awaitable[str]], help_: str, patience: float = _TIMEOUT
) -> Finding:
    """Return what a probe finds; what it raises of ours says by itself what to do, anything else is no answer."""
    try:
        async with asyncio.timeout(patience):
            return Finding(what, True, f"{where}: {await probe()}")
    except GuardlineError as error:
        return Finding(what, False, _line(str(error)))
    except Exception as error:  # whatever a client raises, the finding is the same
        reason = _line(str(error)) or type(error).__name__
        return Finding(what, False, f"{where} does not answer ({reason}): {help_}")


def _line(text: str) -> str:
    return " ".join(text.split())


async def _kafka(settings: Settings) -> str:
    from aiokafka.client import AIOKafkaClient

    from monitor.connections.kafka import kafka_options, refusal

    options = kafka_options(settings)
    if (reason := await refusal(options)) is not None:
        raise reason
    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        topics = await client.fetch_all_metadata()
        known = settings.topic_outputs in topics.topics(exclude_internal_topics=True)
        # A broker with ACLs lists only what this user may describe.
        return "answers" if known else f"answers, but has no topic {settings.topic_outputs} yet, or hides it from us"
    finally:
        await client.close()


async def _redis(settings: Settings) -> str:
    from monitor.connections.redis import ensure_redis, redis_client

    await ensure_redis(settings)
    async with redis_client(settings) as client:
        await client.ping()
    return "answers"


async def _live(settings: Settings) -> bool:
    """Tell whether a Triton server is alive; whatever the client raises means that none is.

    Raises:
        AccessDenied: it and this client do not trust each other.
    """
    from monitor.connections.triton import refusal, triton_client, triton_tls

    url, tls = settings.triton_url, triton_tls(settings)
    if (reason := await refusal(url, tls)) is not None:
        raise reason
    client = triton_client(url, tls)
    try:
        return bool(await client.is_server_live(client_timeout=_TIMEOUT))
    finally:
        await client.close()


async def _computes(settings: Settings, package: ModelPackage, spec: EncoderSpec | VerifierSpec) -> None:
    """Have one model of the server compute something.

    Raises:
        ScorerUnavailable: it is not loaded, or does not answer.
        ModelMismatch: it has other weights or tensors than the package.
        ScorerFailed: it answers with an error.
    """
    from monitor.connections.triton import triton_tls
    from monitor.triton import TritonBackend

    backend = TritonBackend(package, spec, url=settings.triton_url, tls=triton_tls(settings), timeout=_TRITON_TIMEOUT)
    try:
        if not await backend.ready():
            raise ScorerUnavailable(
                f"{settings.triton_url} answers, but its model `{spec.model}` is not loaded: load it there "
                f"(`guardline promote`), or start Triton with {package.path} as its repository"
            )
        row = np.zeros((1, 2), dtype=np.int64)  # padding: a token of every vocabulary
        await backend.infer(row, np.ones_like(row))
    finally:
        await backend.close()


async def _triton(settings: Settings, package: ModelPackage | GuardlineError) -> str:
    if not await _live(settings):
        raise ScorerUnavailable(f"{settings.triton_url} is shutting down: wait for it, or start it again")
    if isinstance(package, GuardlineError):
        return "answers; not asked for its models, because the package cannot be used"
    manifest = package.manifest
    specs: list[EncoderSpec | VerifierSpec] = [manifest.encoder]
    if manifest.verifier is not None and settings.verify:
        specs.append(manifest.verifier)
    for spec in specs:
        await _computes(settings, package, spec)
    return f"answers, serves {' and '.join(spec.model for spec in specs)} of {manifest.name} {manifest.version}"


async def _services(settings: Settings, package: ModelPackage | GuardlineError) -> list[Finding]:
    # Faust replaces itself by a module without a specification once it is imported.
    if "faust" not in sys.modules and importlib.util.find_spec("faust") is None:
        return [Finding("services", False, "not asked: the extra `monitor` is not installed", needed=False)]
    kafka = await _answers(
        "kafka",
        settings.kafka_bootstrap,
        lambda: _kafka(settings),
        "set GUARDLINE_KAFKA_BOOTSTRAP, or start a broker",
        _KAFKA_TIMEOUT,
    )
    findings = [kafka]
    if settings.store == "redis":
        findings.append(
            await _answers(
                "redis", "redis", lambda: _redis(settings), "set GUARDLINE_REDIS_URL, or GUARDLINE_STORE=memory"
            )
        )
    if settings.scorer == "triton":
        findings.append(
            await _answers(
                "triton",
                settings.triton_url,
                lambda: _triton(settings, package),
                "start Triton, set GUARDLINE_TRITON_URL (host:port of gRPC), or GUARDLINE_SCORER=onnx",
                _TRITON_TIMEOUT,
            )
        )
    return findings


def findings(settings: Settings) -> list[Finding]:
    """Return everything that was looked at, in the order of the report."""
    python = Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}")
    extras = [_installed(extra, names) for extra, names in _EXTRAS.items()]
    package = _package(settings)
    return [python, *extras, _model(settings, package), *asyncio.run(_services(settings, package))]


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print the findings as JSON.")
def command(json_: bool) -> None:
    """Tell what is installed, which services answer and which model is active.

    Exits with 1 when something that the settings ask for is missing or does not answer.
    """
    report = findings(load_settings())
    if json_:
        click.echo(orjson.dumps([asdict(f) for f in report]).decode())
    else:
        table = Table(box=None, show_header=False)
        for finding in report:
            mark = "[green]ok[/green]" if finding.ok else "[red]no[/red]" if finding.needed else "[yellow]no[/yellow]"
            table.add_row(mark, finding.what, escape(finding.detail))
        Console().print(table)
    sys.exit(any(f.needed and not f.ok for f in report))
