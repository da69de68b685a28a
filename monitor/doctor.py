"""`guardline doctor`: what is installed, which services answer, which model is active.

Checks what the settings ask for and nothing else: Redis only when it is the store, Triton only when it is the scorer.
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
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.errors import GuardlineError, ScorerUnavailable
from monitor.package import EncoderSpec, ModelPackage, VerifierSpec
from monitor.settings import Settings, load_settings

_TIMEOUT = 3.0
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


def _model(settings: Settings) -> Finding:
    try:
        package = ModelPackage.load(settings.model)
    except GuardlineError as error:
        return Finding("model", False, str(error))
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


async def _answers(what: str, where: str, probe: Callable[[], Awaitable[str]], help_: str) -> Finding:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return Finding(what, True, f"{where}: {await probe()}")
    except Exception as error:  # whatever a client raises, the finding is the same
        reason = str(error) or type(error).__name__
        return Finding(what, False, f"{where} does not answer ({reason}): {help_}")


async def _kafka(settings: Settings) -> str:
    from aiokafka.client import AIOKafkaClient

    client = AIOKafkaClient(bootstrap_servers=settings.kafka_bootstrap)
    try:
        await client.bootstrap()
        topics = await client.fetch_all_metadata()
        known = settings.topic_outputs in topics.topics(exclude_internal_topics=True)
        return "answers" if known else f"answers, but has no topic {settings.topic_outputs} yet"
    finally:
        await client.close()


async def _redis(settings: Settings) -> str:
    from redis.asyncio import Redis

    async with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        await client.ping()
    return "answers"


async def _triton(settings: Settings) -> str:
    from monitor.triton import TritonBackend

    package = ModelPackage.load(settings.model)
    manifest = package.manifest
    specs: list[EncoderSpec | VerifierSpec] = [manifest.encoder]
    if manifest.verifier is not None and settings.verify:
        specs.append(manifest.verifier)
    for spec in specs:
        backend = TritonBackend(package, spec, url=settings.triton_url, timeout=_TIMEOUT)
        try:
            if not await backend.ready():
                raise ScorerUnavailable(f"not there, or its model `{spec.model}` is not loaded")
        finally:
            await backend.close()
    return "answers, models ready"


async def _services(settings: Settings) -> list[Finding]:
    # Faust replaces itself by a module without a specification once it is imported.
    if "faust" not in sys.modules and importlib.util.find_spec("faust") is None:
        return [Finding("services", False, "not asked: the extra `monitor` is not installed", needed=False)]
    kafka = await _answers(
        "kafka", settings.kafka_bootstrap, lambda: _kafka(settings), "set GUARDLINE_KAFKA_BOOTSTRAP, or start a broker"
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
                lambda: _triton(settings),
                "set GUARDLINE_TRITON_URL, or GUARDLINE_SCORER=onnx",
            )
        )
    return findings


def findings(settings: Settings) -> list[Finding]:
    """Return everything that was looked at, in the order of the report."""
    python = Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}")
    extras = [_installed(extra, names) for extra, names in _EXTRAS.items()]
    return [python, *extras, _model(settings), *asyncio.run(_services(settings))]


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
