"""`guardline acls`: print the grants."""

from __future__ import annotations

from pathlib import Path

import click

from monitor.acls.grants import components
from monitor.acls.rendering import as_kafka_acls, as_redis, as_strimzi, as_text
from monitor.errors import ConfigurationError
from monitor.settings import load_settings


@click.command()
@click.option("--component", "chosen", multiple=True, help="Only this one; may be given several times.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "kafka-acls", "strimzi", "redis"]),
    default="text",
    show_default=True,
    help="For people, for Kafka's tool, for Strimzi's operator, or for redis-cli.",
)
@click.option(
    "--principal",
    default="User:guardline-{component}",
    show_default=True,
    help="Name of a component's user; with a client certificate User:CN=... as the broker maps it.",
)
@click.option("--cluster", default="kafka", show_default=True, help="Strimzi: name of the Kafka cluster.")
@click.option(
    "--alerts-config",
    type=click.Path(path_type=Path),
    help="alerts.yaml, which says whether alerts read reviews and where their dead letters go; default: its defaults.",
)
def command(chosen: tuple[str, ...], form: str, principal: str, cluster: str, alerts_config: Path | None) -> None:
    """Print what each component may do on Kafka and in Redis: the least that it works with.

    Names of topics and groups, and whether Redis is used, come from the settings. Passwords are not part of it:

    \b
    guardline acls --component monitor --format kafka-acls | sh
    guardline acls --component monitor --format redis | redis-cli
    redis-cli ACL SETUSER guardline-monitor '>password'
    """
    settings = load_settings()
    found = components(settings)
    if alerts_config is not None:
        from monitor.alerts.config import load_config

        config = load_config(alerts_config)
        found = components(settings, alerts_review=config.review, alerts_deadletter=config.deadletter)
    if unknown := sorted(set(chosen) - found.keys()):
        raise ConfigurationError(f"no component {', '.join(unknown)}: there are {', '.join(found)}")
    own = {name: grants for name, grants in found.items() if not chosen or name in chosen}
    principals = {name: principal.replace("{component}", name) for name in own}
    if form == "text":
        click.echo(as_text(own))
    elif form == "kafka-acls":
        click.echo(as_kafka_acls(own, principals, settings.kafka_bootstrap))
    elif form == "strimzi":
        click.echo(as_strimzi(own, principals, cluster))
    else:
        lines = as_redis(own, {name: value.removeprefix("User:") for name, value in principals.items()})
        if not lines:
            raise ConfigurationError("no component uses Redis: set GUARDLINE_STORE=redis as for the component")
        click.echo(lines)
