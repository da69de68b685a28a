"""From the file's sinks to sinks, with their secrets."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import SecretStr

from monitor.alerts.config import (
    AlertmanagerSink,
    AlertsConfig,
    EmailSink,
    FileSink,
    PagerDutySink,
    Secret,
    SinkConfig,
    SlackSink,
    WebhookSink,
)
from monitor.alerts.sinks import Sink
from monitor.alerts.sinks.alertmanager import Alertmanager
from monitor.alerts.sinks.local import File, Terminal
from monitor.alerts.sinks.mail import Email
from monitor.alerts.sinks.pagerduty import PagerDuty
from monitor.alerts.sinks.slack import Slack
from monitor.alerts.sinks.webhook import Webhook
from monitor.errors import ConfigurationError


def _optional(secret: Secret | None) -> SecretStr | None:
    return secret.resolve() if secret else None


def _build(name: str, config: SinkConfig) -> Sink:
    match config:
        case AlertmanagerSink():
            return Alertmanager(
                name,
                config.url.resolve_url(),
                _optional(config.token),
                resolve_after=config.resolve_after,
                clock=lambda: datetime.now(UTC),
            )
        case WebhookSink():
            return Webhook(name, config.url.resolve_url(), _optional(config.token))
        case SlackSink():
            return Slack(name, config.url.resolve_url())
        case PagerDutySink():
            return PagerDuty(name, config.endpoint, config.routing_key.resolve())
        case EmailSink():
            return Email(name, config, _optional(config.password))
        case FileSink():
            return File(name, config.path)
        case _:
            return Terminal(name)


def build_sinks(config: AlertsConfig) -> dict[str, Sink]:
    """Return the sinks by name. Connects to none.

    Raises:
        ConfigurationError: a secret is missing; the message names the sink, and the variable or file.
    """
    sinks = {}
    for name, part in config.sinks.items():
        try:
            sinks[name] = _build(name, part)
        except ConfigurationError as error:
            raise ConfigurationError(f"sink {name}: {error}") from error
    return sinks
